// What all jobs share: the model, and how it writes.

import { modelNames } from "./api.js";
import { notice, say } from "./elements.js";
import { keep, keepFields, recall } from "./store.js";

const dialog = document.getElementById("settings");
const form = dialog.querySelector("form");
const select = document.getElementById("model");
let names = [];

const MODALITIES = { said: ["text", "audio"], both: ["text", "image"], drawn: ["image"] };

// Numbers that are not given are undefined, so that the server takes its own.
export function settings() {
  const number = (name) => (form.elements[name].value === "" ? undefined : Number(form.elements[name].value));
  return {
    model: select.value,
    temperature: number("temperature"),
    maxTokens: number("max_tokens"),
    seed: number("seed"),
    effort: form.elements.effort.value || undefined,
    mode: form.elements.mode.value || undefined,
    modalities: MODALITIES[form.elements.answers.value],
    system: form.elements.system.value.trim(),
    tools: toolsOf(form.elements.tools.value),
    key: form.elements.key.value,
  };
}

export function models() {
  return names;
}

// Fills a <select> with the server's models; the choice is kept under `name`.
export function fillModels(choice, name, otherwise = 0) {
  choice.replaceChildren(...names.map((model) => new Option(model)));
  const kept = recall(name, null);
  choice.value = names.includes(kept) ? kept : (names[otherwise] ?? names[0]);
  choice.onchange = () => keep(name, choice.value);
}

// Asks the server for its models, and tells everyone who listens to "models" on the document.
export async function startSettings() {
  keepFields("settings", form);
  document.getElementById("open-settings").addEventListener("click", () => dialog.showModal());
  form.elements.tools.addEventListener("input", checkTools);
  form.elements.key.addEventListener("change", ask);
  checkTools();
  await ask();
}

async function ask() {
  try {
    names = await modelNames();
    notice("");
  } catch (error) {
    notice(error.message);
  }
  fillModels(select, "model");
  document.dispatchEvent(new Event("models"));
}

// The tools that a text lists; an Error where it is no JSON list.
function toolsOf(text) {
  if (!text.trim()) return undefined;
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    throw new Error(`Tools, in Settings, are no JSON: ${error.message}`);
  }
  if (!Array.isArray(tools)) throw new Error("Tools, in Settings, are no JSON list.");
  return tools;
}

function checkTools() {
  let fault = "";
  try {
    toolsOf(form.elements.tools.value);
  } catch (error) {
    fault = error.message;
  }
  form.elements.tools.setCustomValidity(fault);
  say(form.querySelector(".error"), fault);
}
