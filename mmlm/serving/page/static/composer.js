// Where a message is written: text, pictures, recordings from files or the microphone.

import { copyOf, element, isBusy, say, scrollToEnd } from "./elements.js";
import { dataUrl, picture, takeFiles } from "./files.js";
import { partView } from "./message.js";
import { recordButton, toWav } from "./sound.js";
import { keep, recall } from "./store.js";

// A form at the end of `panel`, whose draft is kept under `name`. send(parts, form) gets the message.
export function composer(panel, name, { send, clear }) {
  const form = copyOf("composer");
  panel.append(form);
  const list = form.querySelector(".attachments");
  const error = form.querySelector(".error");
  const { text } = form.elements;
  const draft = recall(name, { text: "", parts: [] });
  let adding = Promise.resolve();

  const save = () => keep(name, { text: text.value, parts: draft.parts });
  const fail = (problem) => say(error, problem.message);
  const showParts = () => list.replaceChildren(...draft.parts.map((part) => attachment(part, () => drop(part))));
  const drop = (part) => {
    draft.parts.splice(draft.parts.indexOf(part), 1);
    showParts();
    save();
    text.focus();
  };
  const attach = (files) => {
    say(error, "");
    adding = adding.then(async () => {
      for (const file of files) draft.parts.push(await partOf(file));
    });
    adding = adding.catch(fail).then(showParts).then(save);
    return adding;
  };

  form.querySelector(".choose").after(recordButton((wav) => attach([wav]), fail));
  takeFiles(panel, form.elements.files, attach);
  text.addEventListener("input", save);
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.querySelector(".clear").addEventListener("click", () => isBusy(form) || clear());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await adding;
    const words = text.value.trim() ? [{ type: "text", text: text.value.trim() }] : [];
    const parts = [...draft.parts, ...words];
    if (isBusy(form) || !parts.length) return;
    text.value = "";
    draft.parts = [];
    showParts();
    save();
    send(parts, form);
  });
  text.value = draft.text;
  showParts();
  new ResizeObserver(scrollToEnd).observe(form); // which would hide the last answer as it grows
  return form;
}

function attachment(part, drop) {
  const what = part.type === "image_url" ? "picture" : "recording";
  const button = element("button", { type: "button", textContent: "×", onclick: drop, aria: { label: `Remove the ${what}` } });
  return element("li", {}, partView(part), button);
}

// A file as a part of a message, in the form of the API.
async function partOf(file) {
  if (file.type.startsWith("image/")) return { type: "image_url", image_url: { url: await picture(file) } };
  if (!/^(audio|video)\//.test(file.type)) throw new Error(`${file.name} is neither a picture nor a recording.`);
  const url = await dataUrl(await toWav(file));
  return { type: "input_audio", input_audio: { data: url.slice(url.indexOf(",") + 1), format: "wav" } };
}
