// How messages look.

import { partsOf } from "./answer.js";
import { copyOf, element, say } from "./elements.js";
import { mediaOf, showMaps } from "./look.js";

// A part of a message, in the form of the API, as an element.
export function partView(part) {
  if (part.type === "text") return element("p", { className: "text", textContent: part.text });
  if (part.type === "image_url") return element("img", { src: part.image_url.url, alt: "A picture" });
  const { data, format } = part.input_audio;
  return element("audio", { controls: true, src: `data:audio/${format};base64,${data}` });
}

export function userView(message) {
  const view = copyOf("user-message");
  view.append(...message.content.map(partView));
  return view;
}

export function toolView(message) {
  const view = copyOf("tool-message");
  view.querySelector("pre").textContent = message.content;
  return view;
}

// An answer's element; `show` brings it up to date. What a person may do about it is in `actions`: retry(), and
// give(call, result). `before` there are the messages that it answers.
export function answerView(message, model, actions) {
  const view = copyOf("answer");
  const [thoughts, text, media, calls] = [".thoughts", ".text", ".media", ".calls"].map((name) => view.querySelector(name));
  const retry = view.querySelector(".retry");
  view.querySelector("h3").textContent = model;
  retry.addEventListener("click", actions.retry);
  const look = view.querySelector(".look");
  look.addEventListener("click", () => toggleMaps(look, message, actions.before));
  const show = (isRunning) => {
    const { thinking, answer } = partsOf(message);
    thoughts.hidden = !thinking;
    thoughts.querySelector("summary").textContent = isRunning && !answer ? "Thinking…" : "Thoughts";
    thoughts.querySelector("div").textContent = thinking;
    text.textContent = answer.trim();
    if (media.childElementCount !== message.media.length) media.replaceChildren(...message.media.map(partView));
    calls.replaceChildren(...message.calls.map((call) => callView(call, isRunning ? null : actions.give)));
    say(view.querySelector(".note"), isRunning ? "" : message.note);
    say(view.querySelector(".error"), message.error);
    retry.hidden = !message.error;
    const { image, audio } = mediaOf(actions.before, message.mode);
    look.hidden = isRunning || !answer.trim() || !(image.length || audio.length);
    view.setAttribute("aria-busy", String(isRunning));
  };
  return { view, show };
}

// Shows where the answer looked, below the button, or takes it away again.
async function toggleMaps(button, message, before) {
  if (button.nextElementSibling.className === "maps") {
    button.nextElementSibling.remove();
    button.setAttribute("aria-expanded", "false");
    return;
  }
  button.disabled = true;
  say(button.nextElementSibling, "");
  try {
    await showMaps(button, message, before);
    button.setAttribute("aria-expanded", "true");
  } catch (error) {
    say(button.nextElementSibling, error.message);
  }
  button.disabled = false;
}

// A call of a tool, folded; where `give` is there, a person may write its result.
function callView(call, give) {
  const view = copyOf("call");
  view.querySelector("summary").textContent = `Calls ${call.function.name}`;
  view.querySelector("pre").textContent = call.function.arguments;
  const form = view.querySelector("form");
  form.hidden = give === null || call.isAnswered;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    give(call, form.elements.result.value);
  });
  return view;
}
