"""What nano's ears learn from: sentences said by espeak-ng in many voices and rooms, as WebDataset tars."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from encoders.sound import SAMPLE_RATE
from recipes.nano.scenes import sample_scene
from recipes.nano.wording import caption, questions
from recipes.speech.espeak import SPEAKERS, UNHEARD_SPEAKERS, random_voice, speak
from recipes.speech.room import Room, coloured_noise, recorded

SHARD = 1000  # utterances a tar
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOTHING_SHARE = 0.03  # recordings in which nobody speaks
CLEAN = Room(echoes_share=0.0, noise_share=0.0)
SPLITS = {"train": (SPEAKERS, Room()), "dev": (UNHEARD_SPEAKERS, CLEAN)}


def write_speech(folder: Path, counts: dict[str, int], seed: int) -> None:
    """`counts[split]` utterances of each split into `folder/SPLIT-000000.tar` and on; finished tars are kept.

    Each tar is spoken in a process of its own, from its first utterance on, so that it is the same whenever it is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    for split, count in counts.items():
        for shard, start in enumerate(tqdm(range(0, count, SHARD), desc=f"speech, {split}", unit="tar")):
            path = folder / f"{split}-{shard:06d}.tar"
            if path.exists():
                continue
            process = spawn.Process(target=_write_shard, args=(path, split, start, min(start + SHARD, count), seed))
            process.start()
            process.join()
            if process.exitcode:
                raise RuntimeError(f"{path} was not written: its process ended with {process.exitcode}")


def _write_shard(path: Path, split: str, start: int, end: int, seed: int) -> None:
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        for index in range(start, end):
            samples, record = utterance(split, index, seed)
            sound = io.BytesIO()
            soundfile.write(sound, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            for suffix, content in (("flac", sound.getvalue()), ("json", json.dumps(record).encode())):
                member = tarfile.TarInfo(f"{split}{index:06d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    os.replace(partial, path)


def utterance(split: str, index: int, seed: int) -> tuple[np.ndarray, dict]:
    """Samples [T] float32 at 16 kHz of utterance `index` of a split, and its record."""
    rng = random.Random(f"{seed} speech {split} {index}")
    draw = np.random.default_rng([seed, list(SPLITS).index(split), index])
    speakers, room = SPLITS[split]
    if split == "train" and rng.random() < NOTHING_SHARE:
        noise = coloured_noise(int(rng.uniform(0.5, 5.0) * SAMPLE_RATE), rng.uniform(0.0, 2.0), draw)
        return (noise * 10 ** rng.uniform(-4.0, -1.5)).astype(np.float32), {"task": "transcribe", "text": ""}
    text, voice = sentence(rng), random_voice(rng, speakers)
    samples, rate = speak(text, voice, index)
    samples = soxr.resample(samples, rate, SAMPLE_RATE)
    record = {"task": "transcribe", "text": text, "speaker": f"{voice.accent}+{voice.speaker}"}
    return recorded(samples, SAMPLE_RATE, room, draw), record


def sentence(rng: random.Random) -> str:
    """What is said: a question about a scene, a caption of one, or some digits."""
    kind = rng.random()
    if kind < 0.15:
        return " ".join(rng.choice(NUMBERS) for _ in range(rng.randint(1, 5)))
    scene = sample_scene(rng)
    if kind < 0.35:
        return caption(scene, rng)
    return rng.choice(questions(scene, rng)).question
