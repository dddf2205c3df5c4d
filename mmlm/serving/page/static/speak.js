// Texts said aloud.

import { call } from "./api.js";
import { download, element, whileRunning } from "./elements.js";
import { dataUrl } from "./files.js";
import { settings } from "./settings.js";
import { keep, keepFields, recall } from "./store.js";

export function startSpeak() {
  const panel = document.getElementById("speak");
  const form = panel.querySelector("form");
  const results = panel.querySelector(".results");
  const spoken = recall("spoken", []); // {text, url}, the newest first
  const number = (name) => (form.elements[name].value === "" ? undefined : Number(form.elements[name].value));

  keepFields("speak", form);
  results.append(...spoken.map(sound));
  panel.querySelector(".clear").addEventListener("click", () => {
    spoken.length = 0;
    results.replaceChildren();
    keep("spoken", spoken);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    whileRunning(form, async (signal) => {
      const text = form.elements.text.value.trim();
      const asked = {
        model: settings().model,
        input: text,
        voice: "default",
        response_format: "wav",
        seed: number("seed"),
        temperature: number("temperature"),
      };
      const response = await call("audio/speech", { json: asked, signal });
      const said = { text, url: await dataUrl(await response.blob()) };
      spoken.unshift(said);
      results.prepend(sound(said));
      keep("spoken", spoken);
    });
  });
}

function sound({ text, url }) {
  const player = element("audio", { controls: true, src: url, aria: { label: text } });
  return element("article", { className: "card" }, element("h3", {}, text), player, download("spoken.wav", url, "Save"));
}
