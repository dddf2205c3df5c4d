// Two models answer the same, side by side.

import { composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { whileRunning } from "./elements.js";
import { fillModels, models } from "./settings.js";

export function startCompare() {
  const panel = document.getElementById("compare");
  const alone = panel.querySelector(".alone");
  const columns = panel.querySelector(".columns");
  const form = composer(panel, "compare.draft", {
    send: (parts) => whileRunning(form, (signal) => Promise.all(talks.map((talk) => talk.ask(parts, signal)))),
    clear: () => talks.forEach((talk) => talk.clear()),
  });
  const run = (job) => whileRunning(form, job);
  const choices = [...columns.querySelectorAll("select")];
  const logs = [...columns.querySelectorAll(".log")];
  const talks = choices.map((choice, index) => new Conversation(logs[index], `compare.${index}`, () => choice.value, run));
  document.addEventListener("models", () => {
    const isAlone = models().length < 2;
    alone.hidden = !isAlone;
    columns.hidden = form.hidden = isAlone;
    choices.forEach((choice, index) => fillModels(choice, `compare.model.${index}`, index));
  });
}
