// What survives a reload: entries of the tab's sessionStorage, which the browser forgets with the tab.

import { notice } from "./elements.js";

const PREFIX = "mmlm.";
const FULL = "This is more than the browser keeps in a tab: what came last would be lost by a reload.";

export function recall(name, otherwise) {
  const text = sessionStorage.getItem(PREFIX + name);
  return text === null ? otherwise : JSON.parse(text);
}

export function keep(name, value) {
  try {
    sessionStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    notice(FULL);
  }
}

// Keeps what `value()` gives whenever the page is left, whatever is half-way then.
export function keepOnLeaving(name, value) {
  addEventListener("pagehide", () => keep(name, value()));
}

// Fields of a form, by name, are recalled now and kept as they change.
export function keepFields(name, form) {
  const fields = () => [...form.elements].filter((field) => field.name && field.type !== "file");
  const found = recall(name, {});
  for (const field of fields()) {
    if (field.name in found) field.value = found[field.name];
  }
  form.addEventListener("input", () => keep(name, Object.fromEntries(fields().map((field) => [field.name, field.value]))));
}
