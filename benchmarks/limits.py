"""What inputs that are small, or say that they are, take of memory before they are refused.

    python benchmarks/limits.py

Each runs in a process of its own. Printed are the growth of its peak memory beyond its imports and the input itself,
and how it ended. Linux only: the peak is read from /proc.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

ROOT = Path(__file__).parents[1]
MEASURED = """
import time
import mmlm
from encoders.media import load_audio, load_image, load_video
from mmlm.data import read_records
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
model = mmlm.load("nano") if {needs_model} else None
load_image("small.png"), load_video("small.avi"), load_audio("small.flac", sample_rate=8000)
given = {given}
before, start = peak(), time.perf_counter()
try:
    {call}
    end = "read"
except ValueError as error:
    end = type(error).__name__
print(f"{{(peak() - before) / 1000:,.0f}} MB | {{time.perf_counter() - start:.1f}} s | {{end}}")
"""
CASES = (
    ("99 MB of `%41` in a `data:` URL", "'data:,' + '%41' * 33_000_000", "load_image(given)"),
    ("99 MB of spaced base64 in a `data:` URL", "'data:;base64,' + 'A ' * 49_500_000", "load_image(given)"),
    ("a film of 64 × 64 by its header, with frames of 16,000 × 16,000", "'film.avi'", "load_video(given)"),
    ("silent FLAC of 4 hours", "'quiet.flac'", "load_audio(given)"),
    ("the same, with `max_seconds=14400`", "'quiet.flac'", "load_audio(given, max_seconds=14400)"),
    ("a pattern `{0..999999999}.tar`", "'{0..999999999}.tar'", "read_records(given)"),
    ("a prompt of 300 MB", "'a caption ' * 30_000_000", "model.generate(given)"),
    ("`num_beams=10**9`", "'Output:'", "model.generate(given, num_beams=10**9)"),
    ("`num_return_sequences=65_536`, `max_new_tokens=2000`", "'Output:'",
     "model.generate(given, do_sample=True, num_return_sequences=65_536, max_new_tokens=2000)"),
)  # fmt: skip


def film(path: Path, sides: tuple[int, ...]) -> None:
    """A film of 64 × 64 by its header, with square frames of these sides."""
    with av.open(path, "w", format="avi") as file:
        stream = file.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        for number, side in enumerate(sides):
            Image.new("L", (side, side)).save(path.with_suffix(".jpg"))
            packet = av.Packet(path.with_suffix(".jpg").read_bytes())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1)
            packet.is_keyframe = True
            file.mux(packet)


def main() -> None:
    """A line for each case."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGB", (64, 64)).save(Path(folder, "small.png"))
        film(Path(folder, "small.avi"), (64, 64))
        film(Path(folder, "film.avi"), (64, 16_000, 16_000, 16_000))
        soundfile.write(Path(folder, "small.flac"), np.zeros(16_000, np.int16), 16_000)
        soundfile.write(Path(folder, "quiet.flac"), np.zeros(4 * 3600 * 16_000, np.int16), 16_000)
        for name, given, call in CASES:
            code = MEASURED.format(given=given, call=call, needs_model="model." in call)
            ran = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
            )
            lines = (ran.stdout or ran.stderr).strip().splitlines()
            print(f"| {name} | {lines[-1] if lines else f'ended by signal {-ran.returncode}'} |", flush=True)


if __name__ == "__main__":
    main()
