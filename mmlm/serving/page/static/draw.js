// Pictures of a text, and parts of a picture drawn anew.

import { call } from "./api.js";
import { copyOf, download, element, say, whileRunning } from "./elements.js";
import { blobOf, picture, takeFiles } from "./files.js";
import { Mask } from "./mask.js";
import { settings } from "./settings.js";
import { keep, keepFields, keepOnLeaving, recall } from "./store.js";

export function startDraw() {
  const panel = document.getElementById("draw");
  const form = panel.querySelector("form");
  const results = panel.querySelector(".results");
  const drawn = recall("drawn", []); // {prompt, pictures}, the newest first
  const start = startPicture(form);

  const show = (one) => pictures(one, (url) => {
    start.take(url);
    form.elements.prompt.focus();
    form.scrollIntoView();
  });
  keepFields("draw", form);
  results.append(...drawn.map(show));
  panel.querySelector(".clear").addEventListener("click", () => {
    drawn.length = 0;
    results.replaceChildren();
    keep("drawn", drawn);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    whileRunning(form, async (signal) => {
      const prompt = form.elements.prompt.value.trim();
      const made = { prompt, pictures: await draw(prompt, form, start, signal) };
      drawn.unshift(made);
      results.prepend(show(made));
      keep("drawn", drawn);
    });
  });
}

async function draw(prompt, form, start, signal) {
  const number = (name) => (form.elements[name].value === "" ? undefined : Number(form.elements[name].value));
  const asked = {
    prompt,
    model: settings().model,
    n: number("n"),
    seed: number("seed"),
    steps: number("steps"),
    temperature: number("temperature"),
    response_format: "b64_json",
  };
  const response = start.url
    ? await call("images/edits", { form: await editForm(asked, start), signal })
    : await call("images/generations", { json: asked, signal });
  const { data, output_format: format = "png" } = await response.json();
  return data.map((one) => `data:image/${format};base64,${one.b64_json}`);
}

async function editForm(asked, start) {
  const form = new FormData();
  for (const [name, value] of Object.entries(asked)) if (value !== undefined) form.append(name, value);
  form.append("image", blobOf(start.url), "picture.png");
  if (start.mask.isPainted) form.append("mask", await start.mask.toBlob(), "mask.png");
  return form;
}

// The picture to begin with, on which a mask is painted.
function startPicture(form) {
  const place = form.querySelector(".start");
  const image = place.querySelector("img");
  const cursor = place.querySelector(".brush");
  const canvas = place.querySelector("canvas");
  const share = () => form.elements.brush.value / 100;
  const start = { url: null, mask: new Mask(canvas, share) };
  const show = () => {
    place.hidden = !start.url;
    form.querySelector(".go").textContent = start.url ? "Draw anew" : "Draw";
    if (start.url) image.src = start.url;
    else image.removeAttribute("src");
    keep("draw.start", start.url);
  };
  start.take = (url) => {
    start.url = url;
    show();
  };
  let painted = recall("draw.mask", null); // before the page was loaded
  image.addEventListener("load", () => {
    start.mask.reset(image.naturalWidth, image.naturalHeight);
    if (painted) start.mask.recall(painted);
    painted = null;
  });
  keepOnLeaving("draw.mask", () => (start.mask.isPainted ? canvas.toDataURL() : null));
  canvas.addEventListener("brush", ({ detail: { x, y } }) => {
    Object.assign(cursor.style, { left: `${100 * x}%`, top: `${100 * y}%`, width: `${100 * share()}%` });
  });
  place.querySelector(".unpaint").addEventListener("click", () => start.mask.reset(canvas.width, canvas.height));
  place.querySelector(".leave").addEventListener("click", () => start.take(null));
  takeFiles(form, form.elements.file, async ([file]) => {
    try {
      start.take(await picture(file, "image/png"));
    } catch (error) {
      say(form.querySelector(".error"), error.message);
    }
  });
  start.take(recall("draw.start", null));
  return start;
}

// What was drawn, with what may be done with it.
function pictures({ prompt, pictures: urls }, redraw) {
  const view = copyOf("drawn");
  view.querySelector("h3").textContent = prompt;
  view.querySelector(".pictures").append(
    ...urls.map((url, index) => {
      const change = element("button", { type: "button", textContent: "Change", onclick: () => redraw(url) });
      const caption = element("figcaption", {}, change, download(`drawn-${index + 1}.png`, url, "Save"));
      return element("figure", {}, element("img", { src: url, alt: prompt }), caption);
    }),
  );
  return view;
}
