// A conversation with one model: its messages, how they look, and that they survive a reload.

import { emptyAnswer, write } from "./answer.js";
import { follow, scrollToEnd } from "./elements.js";
import { answerView, toolView, userView } from "./message.js";
import { keep, keepOnLeaving, recall } from "./store.js";

export class Conversation {
  // log: where messages appear. name: under which they are kept. model(): who answers. run(job): does a job that can
  // be stopped, given its signal.
  constructor(log, name, model, run) {
    Object.assign(this, { log, name, model, run, messages: recall(name, []) });
    keepOnLeaving(name, () => this.messages);
    for (const message of this.messages) this.add(message)?.show(false);
  }

  // Says something, a list of parts, and waits for the answer.
  async ask(parts, signal) {
    const message = { role: "user", content: parts };
    this.messages.push(message);
    this.add(message);
    await this.answer(signal);
  }

  clear() {
    this.messages = [];
    this.log.replaceChildren();
    keep(this.name, []);
  }

  async answer(signal) {
    const before = [...this.messages];
    const message = { ...emptyAnswer(), model: this.model() };
    this.messages.push(message);
    const { show } = this.add(message);
    const changed = () => {
      show(true);
      follow();
    };
    changed();
    try {
      await write(message, message.model, before, signal, changed);
    } catch (error) {
      if (!signal.aborted) Object.assign(message, { note: "", error: error.message });
    }
    show(false);
    follow();
    keep(this.name, this.messages);
  }

  // Asks again for the last answer.
  retry() {
    return this.run((signal) => {
      this.messages.pop();
      this.log.lastElementChild.remove();
      return this.answer(signal);
    });
  }

  // The result of a tool's call; once all calls of an answer have theirs, the model goes on.
  give(call, result) {
    const answer = this.messages.findLast((message) => message.role === "assistant");
    return this.run(async (signal) => {
      const message = { role: "tool", tool_call_id: call.id, content: result };
      call.isAnswered = true;
      this.messages.push(message);
      this.add(message);
      if (answer.calls.every((one) => one.isAnswered)) await this.answer(signal);
    });
  }

  // Shows a message; of an answer, what brings it up to date.
  add(message) {
    if (message.role !== "assistant") {
      this.log.append(message.role === "user" ? userView(message) : toolView(message));
      scrollToEnd();
      return null;
    }
    const before = this.messages.slice(0, this.messages.indexOf(message));
    const actions = { retry: () => this.retry(), give: (call, result) => this.give(call, result), before };
    const { view, show } = answerView(message, message.model, actions);
    this.log.append(view);
    return { show };
  }
}
