// Small helpers for elements of the page.

// element("button", { type: "button", onclick }, "Send"): an element with properties and children.
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  const { aria = {}, ...others } = properties;
  Object.assign(made, others);
  for (const [key, value] of Object.entries(aria)) made.setAttribute(`aria-${key}`, value);
  made.append(...children);
  return made;
}

// A copy of a <template>'s first element.
export function copyOf(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

// Says what went wrong in an element with role="alert"; an empty text takes it away.
export function say(place, text) {
  place.textContent = text;
  place.hidden = !text;
}

// A text next to the page's title, for what concerns no single place.
export function notice(text) {
  say(document.getElementById("notice"), text);
}

export function scrollToEnd() {
  document.scrollingElement.scrollTop = document.scrollingElement.scrollHeight;
}

// Keeps the end of the page in sight, unless the reader has scrolled away from it.
export function follow() {
  const { scrollHeight, clientHeight, scrollTop } = document.scrollingElement;
  if (scrollHeight - clientHeight - scrollTop < 120) scrollToEnd();
}

// Runs a job of a form, one at a time: Stop is there meanwhile (Escape does the same), and errors are said in the form.
export async function whileRunning(form, job) {
  if (isBusy(form)) return;
  const stop = form.querySelector(".stop");
  const error = form.querySelector(".error");
  const controller = new AbortController();
  const end = () => controller.abort();
  const escape = (event) => event.key === "Escape" && end();
  say(error, "");
  form.setAttribute("aria-busy", "true");
  stop.hidden = false;
  stop.addEventListener("click", end);
  form.addEventListener("keydown", escape);
  try {
    return await job(controller.signal);
  } catch (problem) {
    if (!controller.signal.aborted) say(error, problem.message);
  } finally {
    if (document.activeElement === stop) form.querySelector("textarea, input")?.focus();
    form.removeAttribute("aria-busy");
    stop.hidden = true;
    stop.removeEventListener("click", end);
    form.removeEventListener("keydown", escape);
  }
}

export function isBusy(form) {
  return form.hasAttribute("aria-busy");
}

// A link that looks like a button and saves a file.
export function download(name, address, label) {
  return element("a", { className: "button", href: address, download: name, textContent: label });
}
