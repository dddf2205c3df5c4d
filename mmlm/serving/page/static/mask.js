// Painting on a picture which part of it is to be drawn anew: with a pointer, or with arrow keys and space.

const STEP = 0.04; // of the width, for an arrow key

// canvas: lies over the picture, as large in pixels. brush(): the width of the brush, a share of the picture's width.
export class Mask {
  constructor(canvas, brush) {
    Object.assign(this, { canvas, brush, isPainted: false, at: { x: 0.5, y: 0.5 } });
    this.pen = canvas.getContext("2d");
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.stroke(this.placeOf(event), this.placeOf(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) this.stroke(this.at, this.placeOf(event));
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  // Begins anew, for a picture of this size in pixels.
  reset(width, height) {
    Object.assign(this.canvas, { width, height });
    this.isPainted = false;
  }

  // Paints what was painted before, a data URL of the canvas.
  async recall(url) {
    const before = new Image();
    before.src = url;
    await before.decode();
    this.pen.drawImage(before, 0, 0);
    this.isPainted = true;
  }

  placeOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  }

  stroke(from, to) {
    const { width, height } = this.canvas;
    this.pen.lineWidth = this.brush() * width;
    this.pen.lineCap = "round";
    this.pen.strokeStyle = "rgb(230 40 120)";
    this.pen.beginPath();
    this.pen.moveTo(from.x * width, from.y * height);
    this.pen.lineTo(to.x * width, to.y * height);
    this.pen.stroke();
    this.at = to;
    this.isPainted = true;
  }

  // Arrow keys move the brush, and space paints where it is; with shift, moving paints too.
  key(event) {
    const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP], " ": [0, 0] };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    const [x, y] = [this.at.x + move[0], this.at.y + move[1]].map((value) => Math.min(1, Math.max(0, value)));
    if (event.key === " " || event.shiftKey) this.stroke(this.at, { x, y });
    this.at = { x, y };
    this.canvas.dispatchEvent(new CustomEvent("brush", { detail: this.at }));
  }

  // PNG of the picture's size, transparent where it was painted, as OpenAI's API has masks.
  async toBlob() {
    const whole = new OffscreenCanvas(this.canvas.width, this.canvas.height);
    const pen = whole.getContext("2d");
    pen.fillRect(0, 0, whole.width, whole.height);
    const painted = this.pen.getImageData(0, 0, whole.width, whole.height);
    const kept = pen.getImageData(0, 0, whole.width, whole.height);
    for (let index = 3; index < kept.data.length; index += 4) kept.data[index] = painted.data[index] > 127 ? 0 : 255;
    pen.putImageData(kept, 0, 0);
    return whole.convertToBlob({ type: "image/png" });
  }
}
