"""The recordings beside this file, said by espeak-ng in voices that nano never heard in training.

pip install -e '.[speech]'
python demos/questions/make.py
"""

import sys
from pathlib import Path

import soundfile
import soxr

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # recipes/ is not installed

from recipes.speech.espeak import Voice, speak  # noqa: E402

RATE = 16_000
SAID = {
    "shapes.wav": ("how many shapes are in the picture?", Voice("en-us", "f4", rate=150)),
    "left.wav": ("what is on the left?", Voice("en", "m7", rate=150)),
    "order.wav": ("could i have a large mocha with soy milk and brown sugar", Voice("en-us", "Andrea", rate=150)),
}

if __name__ == "__main__":
    for seed, (name, (text, voice)) in enumerate(SAID.items()):
        samples, rate = speak(text, voice, seed)
        samples = 0.5 * soxr.resample(samples, rate, RATE)
        soundfile.write(HERE / name, samples, RATE, subtype="PCM_16")
        print(f"{name}: {len(samples) / RATE:.1f} s, {text!r}")
