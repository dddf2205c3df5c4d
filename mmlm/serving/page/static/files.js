// Files that a person gives: by a button, dropped, or pasted.

const SENT_AS_IS = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const MOST_BYTES = 1 << 20;
const MOST_PIXELS = 1024; // of a side; encoders see less

export function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(new Error(`${blob.name ?? "The file"} cannot be read.`)));
    reader.readAsDataURL(blob);
  });
}

export function blobOf(url) {
  const [, type, data] = /^data:([^;,]*)[^,]*,(.*)$/s.exec(url);
  return new Blob([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], { type });
}

// A picture as a data URL: as it is, or smaller where it is large, or PNG where `type` asks for it.
export async function picture(file, type = null) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name ?? "The file"} is no picture that this browser can read.`);
  }
  const scale = Math.min(1, MOST_PIXELS / Math.max(image.width, image.height));
  const asIs = scale === 1 && file.size <= MOST_BYTES && SENT_AS_IS.includes(file.type);
  if (asIs && (type === null || type === file.type)) return dataUrl(file);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL(type ?? "image/jpeg", 0.9);
}

// Whether files are dragged, and not a text.
export function bringsFiles(event) {
  return event.dataTransfer.types.includes("Files");
}

// Hands on files that are chosen by `input`, dropped on `place`, or pasted there.
export function takeFiles(place, input, take) {
  input.addEventListener("change", () => {
    if (input.files.length) take([...input.files]);
    input.value = ""; // the same file may be chosen again
  });
  place.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    take(files);
  });
  place.addEventListener("dragover", (event) => {
    if (!bringsFiles(event)) return;
    event.preventDefault();
    place.classList.add("dragged-over");
  });
  place.addEventListener("dragleave", () => place.classList.remove("dragged-over"));
  place.addEventListener("drop", (event) => {
    if (!bringsFiles(event)) return;
    event.preventDefault();
    place.classList.remove("dragged-over");
    take([...event.dataTransfer.files]);
  });
}
