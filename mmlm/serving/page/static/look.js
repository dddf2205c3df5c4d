// Where a model looked: what each word of an answer attends to, over the pictures and recordings before it.

import { outgoing, partsOf } from "./answer.js";
import { call } from "./api.js";
import { element } from "./elements.js";
import { loudness } from "./sound.js";

const VEIL = 0.8; // how dark a picture is where nothing is attended to
const WIDTH = 600; // pixels of a recording's drawing
const HEIGHT = 80;

// The pictures and recordings that an answer to these messages may have attended to.
export function mediaOf(messages, mode) {
  const parts = messages.flatMap((message) => (Array.isArray(message.content) ? message.content : []));
  return {
    image: parts.filter((part) => part.type === "image_url"),
    audio: mode ? parts.filter((part) => part.type === "input_audio") : [], // otherwise Whisper's words are read
  };
}

// Shows words to choose from, and the maps of the one that is chosen, after the element `place`.
export async function showMaps(place, message, before) {
  const messages = [...outgoing(before), { role: "assistant", content: partsOf(message).answer }];
  const asked = { model: message.model, mode: message.mode, messages };
  const found = await (await call("attention_maps", { json: asked })).json();
  const media = mediaOf(messages, message.mode);
  const figures = await Promise.all(found.media.map((map) => figureOf(map, media[map.type].shift())));
  const words = element("p", { className: "words", aria: { label: "Words" } });
  const buttons = wordsOf(found.tokens).map(({ text, tokens }) => {
    const choose = () => {
      for (const other of words.children) other.setAttribute("aria-pressed", String(other === button));
      figures.forEach(({ show }, index) => show(meanOf(tokens.map((token) => found.media[index].weights[token]))));
    };
    const button = element("button", { type: "button", textContent: text, onclick: choose, aria: { pressed: "false" } });
    return button;
  });
  words.append(...buttons);
  words.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = buttons[buttons.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.click();
  });
  const panel = element("div", { className: "maps" }, words, ...figures.map(({ view }) => view));
  place.after(panel);
  buttons[0]?.click(); // what is drawn has the colours of its place
  panel.scrollIntoView({ block: "nearest" });
}

// Tokens joined to words, as spaces part them.
function wordsOf(tokens) {
  const words = [];
  let isOpen = false;
  tokens.forEach((text, token) => {
    if (!isOpen || /^\s/.test(text)) words.push({ text: "", tokens: [] });
    words.at(-1).text += text;
    words.at(-1).tokens.push(token);
    isOpen = !/\s$/.test(text);
  });
  return words.map(({ text, tokens: own }) => ({ text: text.trim(), tokens: own })).filter(({ text }) => text);
}

function meanOf(rows) {
  return rows[0].map((_, place) => rows.reduce((sum, row) => sum + row[place], 0) / rows.length);
}

async function figureOf(map, part) {
  const { view, draw } = map.type === "image" ? pictureOf(map, part) : await soundOf(map, part);
  const share = element("figcaption");
  const show = (weights) => {
    const sum = weights.reduce((total, weight) => total + weight, 0);
    share.textContent = `${Math.round(100 * sum)}% of the attention`;
    const most = Math.max(...weights) || 1;
    draw(weights.map((weight) => weight / most));
  };
  return { view: element("figure", {}, view, share), show };
}

// A picture with a veil, which is thin where the word looks.
function pictureOf({ rows, columns, box }, part) {
  const veil = element("canvas", { width: columns, height: rows });
  const [left, top, right, bottom] = box;
  Object.assign(veil.style, {
    left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%`,
  });
  const draw = (weights) => {
    const pixels = new ImageData(columns, rows);
    weights.forEach((weight, place) => (pixels.data[4 * place + 3] = 255 * VEIL * (1 - weight)));
    veil.getContext("2d").putImageData(pixels, 0, 0);
  };
  const image = element("img", { src: part.image_url.url, alt: "Where the word looks" });
  return { view: element("div", { className: "seen" }, image, veil), draw };
}

// A recording drawn by its loudness, and behind it how much each moment is attended to.
async function soundOf({ seconds }, part) {
  const { data, format } = part.input_audio;
  const sound = element("audio", { controls: true, src: `data:audio/${format};base64,${data}` });
  const canvas = element("canvas", { width: WIDTH, height: HEIGHT, className: "heard" });
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const { levels, duration } = await loudness(bytes, WIDTH);
  const draw = (weights) => {
    const pen = canvas.getContext("2d");
    const { color, borderColor } = getComputedStyle(canvas);
    pen.clearRect(0, 0, WIDTH, HEIGHT);
    for (let x = 0; x < WIDTH; x += 1) {
      pen.globalAlpha = weights[Math.floor((x * duration) / WIDTH / seconds)] ?? 0;
      pen.fillStyle = color;
      pen.fillRect(x, 0, 1, HEIGHT);
      pen.globalAlpha = 1;
      pen.fillStyle = borderColor;
      pen.fillRect(x, (HEIGHT * (1 - levels[x])) / 2, 1, Math.max(1, HEIGHT * levels[x]));
    }
  };
  canvas.addEventListener("click", (event) => {
    sound.currentTime = (duration * event.offsetX) / canvas.clientWidth;
    sound.play();
  });
  return { view: element("div", {}, canvas, sound), draw };
}
