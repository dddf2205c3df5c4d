"""What nano's ears learn from: sentences said by espeak-ng in many voices and rooms, as WebDataset tars."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from encoders.media.sound import SAMPLE_RATE
from recipes.nano.data import SPLITS as SCENES
from recipes.nano.data import add_file, as_png, read_tars
from recipes.nano.questions import questions
from recipes.nano.scenes import COLOURS, SHAPES, sample_scene
from recipes.nano.scenes import draw as draw_scene
from recipes.nano.wording import caption
from recipes.pretrain.examples import Utterance
from recipes.speech.espeak import SPEAKERS, UNHEARD_SPEAKERS, Voice, random_voice, speak
from recipes.speech.room import Room, coloured_noise, recorded

SHARD = 1000  # utterances a tar
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOTHING_SHARE = 0.03  # recordings in which nobody speaks
ORDERS_SHARE = 0.2  # of spoken questions
UNSAID = 10  # one sentence in so many, by its checksum, is never said in training
CLEAN = Room(echoes_share=0.0, noise_share=0.0)
SPLITS = {"train": (SPEAKERS, Room()), "dev": (UNHEARD_SPEAKERS, CLEAN)}
# What nano learns to say beside digits, of which there are real recordings: its codec in few voices, each often, and
# the same words in other voices for the judge of what it says.
WORDS = (*COLOURS, *SHAPES, "yes", "no")
WORD_SPLITS = {
    "train": ("m1", "m3", "f2", "f5", "Andy", "Annie", "linda", "max"),
    "dev": ("m1", "m3", "f2", "f5", "Andy", "Annie", "linda", "max"),
    "judge": ("m2", "m4", "f1", "f3", "Alex", "Denis", "Gene", "Hugo", "Lee", "Michael", "anika", "belinda", "david"),
    "unheard": UNHEARD_SPEAKERS,
}
# Whom nano speaks like: espeak-ng's words in one voice, at nearly one speed, and the digits of one person of fsdd.
OWN_VOICE = Voice("en-us", "max")
OWN_RATES = (160, 180)  # words a minute
OWN_PERSON = "jackson"
OWN_ROOM = Room(peak=(0.4, 0.4), echoes_share=0.0, noise_share=0.0)


@dataclass(frozen=True)
class Phrases:
    """What else is said, for ears that are to hear the paired sets too: whole sentences, and the slots of an order."""

    sentences: tuple[str, ...] = ()
    slots: dict[str, tuple[str, ...]] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)  # the question whose answer is a slot

    @classmethod
    def of(cls, sets: Path | None) -> Phrases:
        """Texts of the training splits: sentences of `speechocean`, names of `emoji`, slots of `coffee_orders`."""
        if sets is None:
            return cls()
        sentences = [record["text"] for _, record in read_tars(sets / "speechocean", "train")]
        sentences += [name for _, record in read_tars(sets / "emoji", "train") for name in record["captions"]]
        slots: dict[str, list[str]] = {}
        asked: dict[str, str] = {}
        for _, record in read_tars(sets / "coffee_orders", "train"):
            answers = {one["answers"][0]: one["question"] for one in record["qa"]}
            for slot, value in record["slots"].items():
                slots.setdefault(slot, []).append(value)
                asked[slot] = answers[value]
        return cls(tuple(sentences), {slot: tuple(values) for slot, values in slots.items()}, asked)


Files = list[tuple[str, bytes]]  # suffix and content of each file of an example


def write_speech(folder: Path, counts: dict[str, int], seed: int, phrases: Phrases = Phrases()) -> None:
    """`counts[split]` utterances with what is said, in `folder/SPLIT-000000.tar` and on; finished tars are kept."""
    _write(folder, counts, _utterance_files, seed, phrases)


def write_spoken_questions(folder: Path, counts: dict[str, int], seed: int, phrases: Phrases = Phrases()) -> None:
    """The same with what is to be answered: questions about a picture beside it, and orders for coffee."""
    _write(folder, counts, _question_files, seed, phrases)


def write_words(folder: Path, counts: dict[str, int], seed: int) -> None:
    """Single words with what they are, cleanly said; `counts` has splits of `WORD_SPLITS`."""
    _write(folder, counts, _word_files, seed, Phrases())


def write_own_words(folder: Path, counts: dict[str, int], sets: Path | None, seed: int) -> None:
    """Words and digits as nano is to say them, equally loud; `counts[split]` words, of train and dev.

    The digits are those of OWN_PERSON in `fsdd`, whose splits stay apart; without the sets there are none.
    """
    _write(folder, counts, _own_word_files, seed, Phrases())
    if sets is None:
        return
    for split in counts:
        partial = folder / f"digits-{split}.partial"
        with tarfile.open(partial, "w") as tar:
            for index, (sound, record) in enumerate(read_tars(sets / "fsdd", split)):
                if record["speaker"] == OWN_PERSON:
                    samples = _int16(sound) / 2.0**15
                    loud = recorded(samples, SAMPLE_RATE, OWN_ROOM, np.random.default_rng(seed))
                    add_file(tar, f"digit{index:06d}.flac", _flac(loud))
                    add_file(tar, f"digit{index:06d}.json", json.dumps(record).encode())
        os.replace(partial, folder / f"{split}-digits.tar")


def _write(folder: Path, counts: dict[str, int], files: Callable[..., Files], seed: int, phrases: Phrases) -> None:
    """Each tar is spoken in a process of its own, from its first utterance on: the same whenever it is made."""
    folder.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    for split, count in counts.items():
        for shard, start in enumerate(tqdm(range(0, count, SHARD), desc=f"speech, {split}", unit="tar")):
            path = folder / f"{split}-{shard:06d}.tar"
            if path.exists():
                continue
            end = min(start + SHARD, count)
            process = spawn.Process(target=_write_shard, args=(path, files, split, start, end, seed, phrases))
            process.start()
            process.join()
            if process.exitcode:
                raise RuntimeError(f"{path} was not written: its process ended with {process.exitcode}")


def _write_shard(
    path: Path, files: Callable[..., Files], split: str, start: int, end: int, seed: int, phrases: Phrases
) -> None:
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        for index in range(start, end):
            for suffix, content in files(split, index, seed, phrases):
                add_file(tar, f"{split}{index:06d}.{suffix}", content)
    os.replace(partial, path)


def _utterance_files(split: str, index: int, seed: int, phrases: Phrases) -> Files:
    samples, record = utterance(split, index, seed, phrases)
    return [("flac", _flac(samples)), ("json", json.dumps(record).encode())]


def _question_files(split: str, index: int, seed: int, phrases: Phrases) -> Files:
    rng = random.Random(f"{seed} spoken {split} {index}")
    draw = np.random.default_rng([seed, 2 + list(SPLITS).index(split), index])
    if phrases.slots and rng.random() < ORDERS_SHARE:
        text, filled = order(rng, phrases.slots)
        qa = [{"question": phrases.asked[slot], "answers": [value]} for slot, value in filled.items()]
        record, picture = {"task": "spoken_qa", "transcript": text, "qa": qa}, None
    else:
        scene = sample_scene(rng, SCENES[split])
        chosen = rng.choice(questions(scene, rng))
        while split == "train" and held_out(chosen.question):
            chosen = rng.choice(questions(scene, rng))
        picture = draw_scene(scene, rng)
        record = {"task": "spoken_question", "transcript": chosen.question, "answer": chosen.answer}
        record["topic"] = chosen.topic
    samples, voice = _said(record["transcript"], split, index, rng, draw)
    files = [("flac", _flac(samples)), ("json", json.dumps({**record, "speaker": voice}).encode())]
    if picture is None:
        return files
    return [("png", as_png(picture)), *files]


def _word_files(split: str, index: int, seed: int, phrases: Phrases) -> Files:
    rng = random.Random(f"{seed} word {split} {index}")
    draw = np.random.default_rng([seed, 4 + list(WORD_SPLITS).index(split), index])
    text = WORDS[index % len(WORDS)]
    samples, voice = _spoken(text, random_voice(rng, WORD_SPLITS[split]), CLEAN, index, draw)
    record = {"task": "transcribe", "text": text, "speaker": voice}
    return [("flac", _flac(samples)), ("json", json.dumps(record).encode())]


def _own_word_files(split: str, index: int, seed: int, phrases: Phrases) -> Files:
    rng = random.Random(f"{seed} own word {split} {index}")
    text, voice = WORDS[index % len(WORDS)], replace(OWN_VOICE, rate=rng.randint(*OWN_RATES))
    samples, name = _spoken(text, voice, OWN_ROOM, index, np.random.default_rng(seed))
    record = {"task": "transcribe", "text": text, "speaker": name}
    return [("flac", _flac(samples)), ("json", json.dumps(record).encode())]


def _said(text: str, split: str, index: int, rng: random.Random, draw: np.random.Generator) -> tuple[np.ndarray, str]:
    """A text in one of the split's voices and rooms: samples [T] at 16 kHz, and the voice's name."""
    speakers, room = SPLITS[split]
    return _spoken(text, random_voice(rng, speakers), room, index, draw)


def _spoken(text: str, voice: Voice, room: Room, index: int, draw: np.random.Generator) -> tuple[np.ndarray, str]:
    samples, rate = speak(text, voice, index)
    samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return recorded(samples, SAMPLE_RATE, room, draw), f"{voice.accent}+{voice.speaker}"


def _flac(samples: np.ndarray) -> bytes:
    sound = io.BytesIO()
    soundfile.write(sound, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return sound.getvalue()


def utterance(split: str, index: int, seed: int, phrases: Phrases = Phrases()) -> tuple[np.ndarray, dict]:
    """Samples [T] float32 at 16 kHz of utterance `index` of a split, and its record."""
    rng = random.Random(f"{seed} speech {split} {index}")
    draw = np.random.default_rng([seed, list(SPLITS).index(split), index])
    if split == "train" and rng.random() < NOTHING_SHARE:
        noise = coloured_noise(int(rng.uniform(0.5, 5.0) * SAMPLE_RATE), rng.uniform(0.0, 2.0), draw)
        return (noise * 10 ** rng.uniform(-4.0, -1.5)).astype(np.float32), {"task": "transcribe", "text": ""}
    text = sentence(split, rng, phrases)
    samples, voice = _said(text, split, index, rng, draw)
    return samples, {"task": "transcribe", "text": text, "speaker": voice}


def sentence(split: str, rng: random.Random, phrases: Phrases = Phrases()) -> str:
    """What is said: mostly of scenes. A sentence of scenes or digits is either of training or held out, never both."""
    if split == "train" and phrases.sentences and rng.random() < 0.2:
        return order(rng, phrases.slots)[0] if rng.random() < 0.5 else rng.choice(phrases.sentences)
    while True:
        text = _scene_or_digits(rng)
        if held_out(text) == (split != "train"):
            return text


def held_out(text: str) -> bool:
    """Whether this sentence is kept from training."""
    return zlib.crc32(text.encode()) % UNSAID == 0


def _scene_or_digits(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.15:
        return " ".join(rng.choice(NUMBERS) for _ in range(rng.randint(1, 5)))
    scene = sample_scene(rng)
    if kind < 0.35:
        return caption(scene, rng)
    return rng.choice(questions(scene, rng)).question


def order(rng: random.Random, slots: dict[str, tuple[str, ...]]) -> tuple[str, dict[str, str]]:
    """An order for coffee, some of its slots filled with what training orders have there, and these slots."""
    filled = {slot: rng.choice(values) for slot, values in slots.items() if slot == "coffeeDrink" or rng.random() < 0.5}
    before = [filled[slot] for slot in ("numberOfShots", "roast", "size") if slot in filled]
    rng.shuffle(before)
    extras = [filled[slot] for slot in ("milkAmount", "sugarAmount") if slot in filled]
    rng.shuffle(extras)
    start = rng.choice(("can i get a", "could i have a", "i'd like a", "i want a", "give me a", "may i have one", "a"))
    text = " ".join([start, *before, filled["coffeeDrink"]])
    if extras:
        text += " with " + " and ".join(extras)
    return text + rng.choice(("", "", " please")), filled


def utterances(speech: Path, spoken: Path, sets: Path | None, digits: int = 6) -> list[Utterance]:
    """What the nano Whisper trains on: the tars written above, and of the sets those with transcripts.

    A small set comes several times, to be heard as often in each pass: `fsdd` comes `digits` times. The sounds of
    `esc10` are speech to nobody.
    """
    found = [Utterance(_int16(sound), record["text"]) for sound, record in read_tars(speech, "train")]
    found += [Utterance(_int16(sound), record["transcript"]) for sound, record in read_tars(spoken, "train")]
    if sets is not None:
        for name, times in (("fsdd", digits), ("speechocean", 4), ("ljspeech_mini", 4), ("esc10", 2)):
            found += [
                Utterance(_int16(sound), record.get("text", "")) for sound, record in read_tars(sets / name, "train")
            ] * times
    return found


def digit_strings(sets: Path, count: int, seed: int) -> list[Utterance]:
    """Several digits by one person of `fsdd`, one after the other with pauses between: endless from few recordings.

    A decoder learns from them where in a recording each digit is, which single ones leave open.
    """
    spoken: dict[str, list[Utterance]] = {}
    for sound, record in read_tars(sets / "fsdd", "train"):
        spoken.setdefault(record["speaker"], []).append(Utterance(_int16(sound), record["text"]))
    found = []
    for index in range(count):
        rng = random.Random(f"{seed} digits {index}")
        chosen = rng.choices(spoken[rng.choice(sorted(spoken))], k=rng.randint(1, 5))
        pauses = (np.zeros(int(rng.uniform(0.02, 0.4) * SAMPLE_RATE), np.int16) for _ in chosen)
        samples = [part for one, pause in zip(chosen, pauses, strict=True) for part in (one.samples, pause)]
        found.append(Utterance(np.concatenate(samples), " ".join(one.text for one in chosen)))
    return found


def _int16(flac: bytes) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(flac), dtype="int16")
    if rate != SAMPLE_RATE:
        raise ValueError(f"speech for training must be at {SAMPLE_RATE} Hz, not {rate}")
    return samples
