// Chat with the model that is chosen above.

import { composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { whileRunning } from "./elements.js";
import { settings } from "./settings.js";

export function startChat() {
  const panel = document.getElementById("chat");
  const form = composer(panel, "chat.draft", {
    send: (parts) => whileRunning(form, (signal) => talk.ask(parts, signal)),
    clear: () => talk.clear(),
  });
  const talk = new Conversation(panel.querySelector(".log"), "chat", () => settings().model, (job) => whileRunning(form, job));
}
