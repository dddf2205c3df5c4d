"""The tables of docs/nano.md about hearing, printed: every figure beside its control.

    python -m recipes.nano.hearing                       # the shipped weights; about ten minutes on a CPU
    python -m recipes.nano.hearing --model runs/nano/ears/model

Speech is made anew by espeak-ng in voices that training never had (`pip install -e .[speech]`). A wrong recording, or
picture, is the next one of the set; of the digits, which lie side by side, another one drawn.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

import mmlm
from mmlm.data import RecordSet, read_records
from mmlm.evaluation import word_error_rate
from mmlm.evaluation.trials import derangement
from recipes.nano import data
from recipes.nano.evaluate import LONGEST, rolled, row, share, title
from recipes.nano.speech import NUMBERS, Phrases, write_speech, write_spoken_questions

MODES = ("transcript", "both", "features")


def evaluate(
    model: mmlm.MultimodalLM, sets: Path | None, sentences: int = 500, questions: int = 600, seed: int = 0
) -> None:
    """Print all tables."""
    with tempfile.TemporaryDirectory() as folder:
        write_speech(Path(folder, "speech"), {"dev": sentences}, seed)
        write_spoken_questions(Path(folder, "spoken"), {"dev": questions}, seed, Phrases.of(None))
        evaluate_words(model, "new sentences, unheard voices", read_records(f"{folder}/speech/dev-*.tar"))
        evaluate_spoken_questions(model, read_records(f"{folder}/spoken/dev-*.tar"))
    if sets is None:
        return
    evaluate_digits(model, *(read_records(sets / "fsdd" / f"{split}-*.tar") for split in ("train", "dev")))
    for name in ("speechocean", "ljspeech_mini"):
        evaluate_words(model, f"{name} dev", read_records(sets / f"{name}/dev-*.tar"))
    coffee = (read_records(sets / "coffee_orders" / f"{split}-*.tar") for split in ("train", "dev"))
    evaluate_orders(model, *coffee)
    evaluate_sounds(model, *(read_records(sets / "esc10" / f"{split}-*.tar") for split in ("train", "dev")))


def evaluate_words(model: mmlm.MultimodalLM, name: str, records: RecordSet) -> list[str]:
    """Word error rate by Whisper's own decoding, and against the next recording's words."""
    said = [model.transcribe(record.audio).text for record in records]
    expected = [record.transcript for record in records]
    title(f"{name} ({len(records)} recordings)", "recording")
    row("word error rate, openai-whisper's English normalisation", len(records),
        word_error_rate(said, expected), None, word_error_rate(rolled(said), expected))  # fmt: skip
    row("sentences without an error", len(records),
        share(word_error_rate([a], [b]) == 0 for a, b in zip(said, expected, strict=True)), None, None)  # fmt: skip
    return said


def evaluate_digits(model: mmlm.MultimodalLM, train: RecordSet, records: RecordSet) -> None:
    """By Whisper's own decoding, by the adapters, and by a linear reading of what Whisper's encoder tells of them."""
    said = [model.transcribe(record.audio).text for record in records]
    title(f"fsdd dev ({len(records)} digits)", "recording")
    expected = [record.transcript for record in records]
    common = Counter(expected).most_common(1)[0][1] / len(expected)
    wrong = [said[index] for index in derangement(len(said), seed=0)]  # the next one of the set often says the same
    own, other = (share(digit(a) == b for a, b in zip(texts, expected, strict=True)) for texts in (said, wrong))
    row("digits right", len(records), own, common, other)
    features = model.encode_media([mmlm.Sound(record.audio) for record in records])
    prompts = [[mmlm.Sound(item), model.template.transcript] for item in features]
    heard = [str(result) for result in model.generate(prompts, batch_size=64, max_new_tokens=LONGEST)]
    right = share(digit(a) == b for a, b in zip(heard, expected, strict=True))
    row("digits right, by the adapters' hearing", len(records), right, common, None)
    seen = pooled(model.encode_media([mmlm.Sound(record.audio) for record in train]))
    mean, spread = seen.mean(0), seen.std(0) + 1e-6
    targets = torch.tensor([[float(record.transcript == word) for word in NUMBERS] for record in train])
    inputs = (seen - mean) / spread
    reading = torch.linalg.solve(inputs.T @ inputs + 100.0 * torch.eye(inputs.shape[1]), inputs.T @ targets)  # ridge
    chosen = (((pooled(features) - mean) / spread) @ reading).argmax(1).tolist()
    right = share(NUMBERS[index] == word for index, word in zip(chosen, expected, strict=True))
    row("digits right, by a linear reading of the encoder's tokens", len(records), right, common, None)


def pooled(items: Sequence) -> torch.Tensor:
    """Mean and maximum of each recording's tokens, of the whole and of both halves: [N, 4 D]."""
    rows = []
    for item in items:
        tokens = item.tokens[0].float()
        first, last = tokens[: (len(tokens) + 1) // 2], tokens[len(tokens) // 2 :]
        rows.append(torch.cat([tokens.mean(0), tokens.amax(0), first.mean(0), last.mean(0)]))
    return torch.stack(rows)


def digit(text: str) -> str:
    """A digit's word, of a transcript that may write it as a figure."""
    word = text.lower().strip(" .,!?")
    return NUMBERS[int(word)] if word.isdigit() and int(word) < 10 else word


def evaluate_spoken_questions(model: mmlm.MultimodalLM, records: RecordSet) -> None:
    """What is asked aloud about a picture, in each mode: with its own picture, and with the next one."""
    title(f"spoken questions about new scenes, unheard voices ({len(records)})")
    pictures = [mmlm.Image(item) for item in model.encode_media([record.image for record in records])]
    heard = [mmlm.Sound(item) for item in model.encode_media([mmlm.Sound(record.audio) for record in records])]
    said = [model.transcribe(record.audio).text for record in records]
    answers = [record.reply for record in records]
    for mode, transcripts in (*((mode, said) for mode in MODES), ("the true words", [r.transcript for r in records])):
        own, other = (
            share(a == b for a, b in zip(reply(model, shown, heard, transcripts, mode), answers, strict=True))
            for shown in (pictures, rolled(pictures))
        )
        row(f"answers right, {mode}", len(records), own, None, other)


def reply(model: mmlm.MultimodalLM, pictures: Sequence, heard: Sequence, said: Sequence[str], mode: str) -> list[str]:
    prompts = []
    for picture, sound, text in zip(pictures, heard, said, strict=True):
        media = [picture] if mode in ("transcript", "the true words") else [picture, sound]
        prompts.append(model.template.spoken_prompt(media, None if mode == "features" else text or "?"))
    return [result.text.strip() for result in model.generate(prompts, batch_size=64, max_new_tokens=LONGEST)]


def evaluate_orders(model: mmlm.MultimodalLM, train: RecordSet, dev: RecordSet) -> None:
    """Questions about real recordings whose words nobody wrote down, by the adapters' hearing alone."""
    common = defaultdict(Counter)
    for record in train:
        for question, answer in record.qa:
            common[question][answer] += 1
    asked = [(number, *pair) for number, record in enumerate(dev) for pair in record.qa]
    title(f"coffee_orders dev ({len(dev)} recordings), mode features", "recording")
    features = model.encode_media([mmlm.Sound(record.audio) for record in dev])
    judged = []
    for heard in (features, rolled(features)):
        prompts = [model.template.question_prompt(mmlm.Sound(heard[number]), question) for number, question, _ in asked]
        results = model.generate(prompts, batch_size=64, max_new_tokens=LONGEST)
        judged.append([one.text.strip() == answer for one, (_, _, answer) in zip(results, asked, strict=True)])
    guessed = [common[question].most_common(1)[0][0] == answer for _, question, answer in asked]
    for question in [*sorted(common), None]:
        chosen = [index for index, one in enumerate(asked) if question in (None, one[1])]
        own, other, majority = (share(column[index] for index in chosen) for column in (*judged, guessed))
        row(question or "all questions", len(chosen), own, majority, other)


def evaluate_sounds(model: mmlm.MultimodalLM, train: RecordSet, dev: RecordSet) -> None:
    labels = sorted({record.captions[0] for record in train})
    title(f"esc10 dev ({len(dev)} recordings), captions by the adapters; chance is 1 in {len(labels)}", "recording")
    features = model.encode_media([mmlm.Sound(record.audio) for record in dev])
    own, other = (
        share(
            text == record.captions[0]
            for text, record in zip(
                model.caption([mmlm.Sound(item) for item in heard], max_new_tokens=LONGEST), dev, strict=True
            )
        )
        for heard in (features, rolled(features))
    )
    row("sounds named", len(dev), own, 1 / len(labels), other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="a preset, or a folder that mmlm.train wrote")
    parser.add_argument("--sentences", type=int, default=500)
    parser.add_argument("--questions", type=int, default=600)
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    evaluate(mmlm.load(arguments.model), data.sets_folder(), arguments.sentences, arguments.questions)


if __name__ == "__main__":
    main()
