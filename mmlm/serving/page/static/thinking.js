// The thinking of a model, told from its answer.

const OPEN = "<think>";
const CLOSE = "</think>";

// A text, perhaps half-way, as {thinking, answer}. Where only the end is marked, the prompt has begun the thinking.
export function split(text) {
  const isOpened = text.trimStart().startsWith(OPEN);
  const inside = isOpened ? text.trimStart().slice(OPEN.length) : text;
  const end = inside.indexOf(CLOSE);
  if (end >= 0) return { thinking: inside.slice(0, end).trim(), answer: inside.slice(end + CLOSE.length).trimStart() };
  return isOpened ? { thinking: inside.trim(), answer: "" } : { thinking: "", answer: text };
}
