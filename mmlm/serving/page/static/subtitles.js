// Subtitles of a transcript's segments, {start, end, text}, times in seconds.

export function srt(segments) {
  return segments.map(({ start, end, text }, index) => `${index + 1}\n${time(start, ",")} --> ${time(end, ",")}\n${line(text)}\n`).join("\n");
}

export function vtt(segments) {
  const cues = segments.map(({ start, end, text }) => `${time(start, ".")} --> ${time(end, ".")}\n${line(text)}\n`);
  return ["WEBVTT\n", ...cues].join("\n");
}

// A time as 01:02:03,456.
function time(seconds, point) {
  const thousandths = Math.round(1000 * seconds);
  const fields = [3_600_000, 60_000, 1000].map((unit, index) => Math.floor(thousandths / unit) % (index ? 60 : Infinity));
  const [hours, minutes, whole] = fields.map((field) => String(field).padStart(2, "0"));
  return `${hours}:${minutes}:${whole}${point}${String(thousandths % 1000).padStart(3, "0")}`;
}

function line(text) {
  return text.trim().replaceAll("-->", "->"); // an arrow would end the cue
}
