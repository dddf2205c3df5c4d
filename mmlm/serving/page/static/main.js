// The page: which panel is shown, and that each begins.

import { startChat } from "./chat.js";
import { startCompare } from "./compare.js";
import { startDraw } from "./draw.js";
import { bringsFiles } from "./files.js";
import { startSettings } from "./settings.js";
import { startSpeak } from "./speak.js";
import { startTranscribe } from "./transcribe.js";

const panels = [...document.querySelectorAll("main > section")];
const links = [...document.querySelectorAll("nav a")];

// The address says which panel is shown, so that it can be linked to and survives a reload.
function showPanel() {
  const shown = panels.find((panel) => `#${panel.id}` === location.hash) ?? panels[0];
  for (const panel of panels) panel.hidden = panel !== shown;
  for (const link of links) {
    if (link.hash === `#${shown.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
}

addEventListener("hashchange", showPanel);
// What is dropped beside a place for files must not leave the page.
for (const name of ["dragover", "drop"]) addEventListener(name, (event) => bringsFiles(event) && event.preventDefault());
startChat();
startDraw();
startSpeak();
startTranscribe();
startCompare();
showPanel();
await startSettings();
document.body.dataset.ready = "true";
