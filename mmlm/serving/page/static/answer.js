// One answer of a model, as it comes.

import { call, events } from "./api.js";
import { dataUrl } from "./files.js";
import { settings } from "./settings.js";
import { wavOfPieces } from "./sound.js";
import { split } from "./thinking.js";

export function emptyAnswer() {
  return { role: "assistant", content: "", reasoning: "", media: [], calls: [], note: "Stopped.", error: "" };
}

// What of an answer is thinking, whichever way the server tells it, and what is the answer.
export function partsOf(message) {
  const { thinking, answer } = split(message.content);
  return { thinking: message.reasoning || thinking, answer };
}

// Asks `model` for the answer to the messages before, and writes it into `message`; `changed` is called as it grows.
export async function write(message, model, before, signal, changed) {
  const { temperature, maxTokens, seed, effort, mode, tools, modalities } = settings();
  message.mode = mode;
  const asked = {
    model, temperature, seed, mode, tools, modalities,
    audio: modalities?.includes("audio") ? { format: "pcm16", voice: "any" } : undefined,
    messages: outgoing(before),
    max_completion_tokens: maxTokens,
    reasoning_effort: effort,
    stream: true,
    stream_options: { include_usage: true },
  };
  const begun = performance.now();
  const spoken = []; // pieces of a sound
  let tokens = 0;
  let isCutOff = false;
  for await (const event of events(await call("chat/completions", { json: asked, signal }))) {
    tokens = event.usage?.completion_tokens ?? tokens;
    const [choice] = event.choices;
    if (!choice) continue;
    add(message, choice.delta);
    if (choice.delta.audio?.data) spoken.push(choice.delta.audio.data);
    isCutOff ||= choice.finish_reason === "length";
    changed();
  }
  if (spoken.length) message.media.push(await soundOf(spoken));
  const seconds = ((performance.now() - begun) / 1000).toFixed(1);
  message.note = `${tokens} ${tokens === 1 ? "token" : "tokens"} in ${seconds} s`;
  if (isCutOff) message.note += ". Cut off at the most tokens: Settings can allow more.";
}

async function soundOf(pieces) {
  const [, data] = (await dataUrl(wavOfPieces(pieces))).split(",");
  return { type: "input_audio", input_audio: { data, format: "wav" } };
}

function add(message, delta) {
  message.content += delta.content ?? delta.audio?.transcript ?? "";
  message.reasoning += delta.reasoning_content ?? delta.reasoning ?? "";
  for (const image of delta.images ?? []) message.media.push({ type: "image_url", image_url: image.image_url });
  for (const piece of delta.tool_calls ?? []) {
    const made = (message.calls[piece.index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
    made.id ||= piece.id ?? "";
    made.function.name += piece.function?.name ?? "";
    made.function.arguments += piece.function?.arguments ?? "";
  }
}

// The conversation as the server takes it: without thinking, and without what was never answered.
export function outgoing(messages) {
  const { system } = settings();
  const sent = system ? [{ role: "system", content: system }] : [];
  messages.forEach((message, index) => {
    const next = messages[index + 1];
    const isUnanswered = message.role === "user" && next?.role === "assistant" && isEmpty(next);
    if (!isUnanswered && !(message.role === "assistant" && isEmpty(message))) sent.push(plain(message));
  });
  return sent;
}

function isEmpty(answer) {
  return !answer.content && !answer.calls.length && !answer.media.length;
}

function plain(message) {
  if (message.role !== "assistant") return message;
  const sent = { role: "assistant", content: partsOf(message).answer };
  const images = message.media.filter((part) => part.type === "image_url");
  if (images.length) sent.images = images;
  if (message.calls.length) sent.tool_calls = message.calls.map(({ isAnswered, ...call }) => call);
  return sent;
}
