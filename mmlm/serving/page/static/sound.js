// Recordings: from the microphone, and from files of any form that the browser knows, to wav.

import { element } from "./elements.js";

const RATE = 16000; // Hz, what speech recognition hears
const STREAMED = 24000; // Hz, of sounds that come in pieces

// How loud a recording is in each of so many parts, 0 to 1 of the loudest, and its seconds.
export async function loudness(bytes, count) {
  const sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes.buffer);
  const samples = sound.getChannelData(0);
  const levels = Array.from({ length: count }, (_, index) => {
    const own = samples.subarray((index * samples.length) / count, ((index + 1) * samples.length) / count);
    return own.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
  });
  const most = Math.max(...levels) || 1;
  return { levels: levels.map((level) => level / most), duration: sound.duration };
}

// 16-bit mono wav of a recording (a Blob).
export async function toWav(blob) {
  const context = new OfflineAudioContext(1, 1, RATE);
  let sound;
  try {
    sound = await context.decodeAudioData(await blob.arrayBuffer());
  } catch {
    throw new Error(`${blob.name ?? "The recording"} is no sound that this browser can read.`);
  }
  const channels = Array.from({ length: sound.numberOfChannels }, (_, index) => sound.getChannelData(index));
  return wavOf(channels, sound.length);
}

// Wav of the pieces of a stream: 16-bit samples in base64.
export function wavOfPieces(pieces) {
  const letters = pieces.map(atob).join("");
  const bytes = header(letters.length, STREAMED);
  for (let index = 0; index < letters.length; index += 1) bytes.setUint8(44 + index, letters.charCodeAt(index));
  return new Blob([bytes], { type: "audio/wav" });
}

function wavOf(channels, length) {
  const bytes = header(2 * length, RATE);
  for (let index = 0; index < length; index += 1) {
    const mean = channels.reduce((sum, channel) => sum + channel[index], 0) / channels.length;
    bytes.setInt16(44 + 2 * index, Math.max(-1, Math.min(1, mean)) * 32767, true);
  }
  return new Blob([bytes], { type: "audio/wav" });
}

// A mono wav file of so many bytes of sound, which are not written yet.
function header(length, rate) {
  const bytes = new DataView(new ArrayBuffer(44 + length));
  const write = (at, text) => [...text].forEach((letter, index) => bytes.setUint8(at + index, letter.charCodeAt(0)));
  write(0, "RIFF");
  bytes.setUint32(4, 36 + length, true);
  write(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true); // bytes of the format
  bytes.setUint16(20, 1, true); // PCM
  bytes.setUint16(22, 1, true); // channel
  bytes.setUint32(24, rate, true);
  bytes.setUint32(28, 2 * rate, true);
  bytes.setUint16(32, 2, true); // bytes of a sample
  bytes.setUint16(34, 16, true); // bits of a sample
  write(36, "data");
  bytes.setUint32(40, length, true);
  return bytes;
}

// A button that records until it is pressed again, and gives `done` a wav; `fail` gets what went wrong.
export function recordButton(done, fail) {
  const button = element("button", { type: "button", className: "record", textContent: "Record" });
  button.setAttribute("aria-pressed", "false");
  let recorder = null;
  button.addEventListener("click", async () => {
    if (recorder) return recorder.stop();
    try {
      recorder = await recording(button);
      const taken = await recorder.taken;
      await done(await toWav(taken));
    } catch (error) {
      fail(error.name === "NotAllowedError" ? new Error("The browser was not allowed to use the microphone.") : error);
    } finally {
      recorder = null;
    }
  });
  return button;
}

// A running recorder, whose `taken` becomes a Blob once it is stopped; the button counts the seconds.
async function recording(button) {
  if (!navigator.mediaDevices) throw new Error("Browsers give the microphone to pages on localhost or by https alone.");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const pieces = [];
  const begun = Date.now();
  const show = () => (button.textContent = `Stop recording (${Math.round((Date.now() - begun) / 1000)} s)`);
  const clock = setInterval(show, 1000);
  show();
  button.setAttribute("aria-pressed", "true");
  recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
  recorder.taken = new Promise((resolve) => {
    recorder.addEventListener("stop", () => {
      clearInterval(clock);
      for (const track of stream.getTracks()) track.stop();
      button.setAttribute("aria-pressed", "false");
      button.textContent = "Record";
      resolve(new Blob(pieces, { type: recorder.mimeType }));
    });
  });
  recorder.start();
  return recorder;
}
