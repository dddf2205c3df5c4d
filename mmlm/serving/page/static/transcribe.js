// What a recording says, along its timeline.

import { call } from "./api.js";
import { download, element, say, whileRunning } from "./elements.js";
import { blobOf, dataUrl, takeFiles } from "./files.js";
import { settings } from "./settings.js";
import { recordButton } from "./sound.js";
import { keep, keepFields, recall } from "./store.js";
import { srt, vtt } from "./subtitles.js";

export function startTranscribe() {
  const panel = document.getElementById("transcribe");
  const form = panel.querySelector("form");
  const result = panel.querySelector(".result");
  const player = panel.querySelector("audio");
  const fail = (problem) => say(form.querySelector(".error"), problem.message);
  let recording = null; // a Blob

  const take = async (file) => {
    say(form.querySelector(".error"), "");
    recording = file;
    URL.revokeObjectURL(player.src);
    player.src = URL.createObjectURL(file);
    player.hidden = false;
    form.querySelector(".go").disabled = false;
    form.querySelector(".name").textContent = file.name ?? "A recording of the microphone";
    result.hidden = true;
    keep("transcript", null);
    keep("recording", null); // where the new one is too large to be kept
    keep("recording", { name: file.name, url: await dataUrl(file) });
  };
  const show = (transcript) => {
    result.hidden = !transcript;
    if (transcript) showTranscript(result, player, transcript);
  };

  form.querySelector(".choose").after(recordButton(take, fail));
  takeFiles(panel, form.elements.file, ([file]) => take(file).catch(fail));
  keepFields("transcribe", form);
  restore(take, show).catch(fail);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    whileRunning(form, async (signal) => {
      const transcript = await transcribe(recording, form.elements.language.value.trim(), signal);
      keep("transcript", transcript);
      show(transcript);
    });
  });
}

async function restore(take, show) {
  const transcript = recall("transcript", null);
  const kept = recall("recording", null);
  if (!kept) return;
  const blob = blobOf(kept.url);
  await take(kept.name ? new File([blob], kept.name, { type: blob.type }) : blob);
  keep("transcript", transcript);
  show(transcript);
}

async function transcribe(recording, language, signal) {
  const form = new FormData();
  form.append("file", recording, recording.name ?? "recording.wav");
  form.append("model", settings().model);
  form.append("response_format", "verbose_json");
  form.append("timestamp_granularities[]", "segment");
  if (language) form.append("language", language);
  const { text, duration, segments } = await (await call("audio/transcriptions", { form, signal })).json();
  return { text, duration, segments: segments.map(({ start, end, text: words }) => ({ start, end, text: words })) };
}

// Segments as bars of a timeline, and as lines below; either plays from there.
function showTranscript(result, player, { duration, segments, text }) {
  const line = result.querySelector(".timeline");
  const list = result.querySelector(".segments");
  const head = element("div", { className: "head" });
  const play = ({ start }) => {
    player.currentTime = start;
    player.play();
  };
  const bars = segments.map((segment) => {
    const bar = element("div", { className: "bar", title: segment.text.trim() });
    bar.style.left = `${(100 * segment.start) / duration}%`;
    bar.style.width = `${(100 * (segment.end - segment.start)) / duration}%`;
    bar.addEventListener("click", () => play(segment));
    return bar;
  });
  const lines = segments.map((segment) => {
    const button = element("button", { type: "button", onclick: () => play(segment) });
    button.append(element("time", {}, clock(segment.start)), element("span", {}, segment.text.trim()));
    return element("li", {}, button);
  });
  player.ontimeupdate = () => {
    const now = player.currentTime;
    head.style.left = `${Math.min(100, (100 * now) / duration)}%`;
    segments.forEach(({ start, end }, index) => {
      const isNow = start <= now && now < end;
      bars[index].classList.toggle("now", isNow);
      if (isNow) lines[index].setAttribute("aria-current", "true");
      else lines[index].removeAttribute("aria-current");
    });
  };
  line.replaceChildren(...bars, head);
  list.replaceChildren(...lines);
  result.querySelector(".empty").hidden = segments.length > 0;
  const save = (name, words) => download(`transcript.${name}`, URL.createObjectURL(new Blob([words])), name);
  result.querySelector(".saves").replaceChildren(save("srt", srt(segments)), save("vtt", vtt(segments)), save("txt", text));
}

// 1:05, and hours where there are any.
function clock(seconds) {
  const whole = Math.floor(seconds);
  const fields = [Math.floor(whole / 60) % 60, whole % 60];
  if (whole >= 3600) fields.unshift(Math.floor(whole / 3600));
  return fields.map((field, index) => (index ? String(field).padStart(2, "0") : field)).join(":");
}
