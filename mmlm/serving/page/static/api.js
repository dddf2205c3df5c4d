// The server's public API, in OpenAI's dialect.

import { settings } from "./settings.js";

const SILENT = "The server does not answer. Is it still running?";
const CUT = "The connection was cut before the answer was complete.";

// The answer to a request: `json` or a `form` is posted. What the server refuses is an Error in its words.
export async function call(path, { json, form, signal } = {}) {
  const headers = {};
  const { key } = settings();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (json) headers["Content-Type"] = "application/json";
  const body = json ? JSON.stringify(json) : form;
  let response;
  try {
    response = await fetch(`v1/${path}`, { method: body ? "POST" : "GET", headers, body, signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(SILENT);
  }
  if (response.ok) return response;
  const text = await response.text();
  throw new Error(wordsOf(text) || `The server answers ${response.status} ${response.statusText}`);
}

// The events of a stream, each parsed from JSON, until [DONE].
export async function* events(response) {
  const pieces = response.body.pipeThrough(new TextDecoderStream())[Symbol.asyncIterator]();
  let text = "";
  while (true) {
    const { done, value } = await nextOf(pieces);
    if (done) throw new Error(CUT);
    text += value;
    const blocks = text.split(/\r?\n\r?\n/);
    text = blocks.pop();
    for (const block of blocks) {
      const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

async function nextOf(pieces) {
  try {
    return await pieces.next();
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(CUT);
  }
}

function wordsOf(text) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return "";
  }
}

export async function modelNames() {
  const found = await (await call("models")).json();
  return found.data.map((model) => model.id);
}
