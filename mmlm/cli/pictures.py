"""Work on many pictures: read and described several at once."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mmlm.cli.batch import Batch, results_of_each
from mmlm.cli.first_contact import Note
from mmlm.cli.inputs import Input
from mmlm.cli.loading import examples_of, load_model, read_examples, read_image
from mmlm.cli.options import generation_options
from mmlm.cli.output import one_line, print_result, tell_cut

if TYPE_CHECKING:
    from mmlm.assembly.multimodal_lm import MultimodalLM

BATCH = 8  # pictures that are decoded and described at once

PromptOf = Callable[[argparse.Namespace, "MultimodalLM", Any, Any, str | None], Any]
"""(arguments, model, few-shot examples or None, picture, question or None) → prompt"""


def describe_pictures(
    args: argparse.Namespace, batch: Batch, inputs: Sequence[Input], prompt_of: PromptOf, key: str, label: bool
) -> int:
    """Prints the text about each picture (`key` in JSON), after its name with `label`. Returns the exit code."""
    from mmlm.tasks.votes import generated

    options, records = generation_options(args), read_examples(args)
    model, examples, note = None, None, Note(args)
    for start in range(0, len(inputs), BATCH):
        some = inputs[start : start + BATCH]
        read = [(one.name, batch.attempt(one.name, lambda one=one: read_image(one, args))) for one in some]
        pictures = {number: picture for number, (_, picture) in enumerate(read) if picture is not None}
        if not pictures:
            continue
        if model is None:
            model = load_model(args, "image", codecs=False)
            examples = examples_of(records, model)
        prompts = [
            prompt_of(args, model, examples, picture, vars(args).get("question")) for picture in pictures.values()
        ]
        names = [read[number][0] for number in pictures]
        drawn = {**options, "seed": options["seed"] + start} if "seed" in options else options
        found = results_of_each(prompts, functools.partial(generated, model, votes=vars(args).get("votes"), **drawn))
        for name, picture, result in zip(names, pictures.values(), found, strict=True):
            if isinstance(result, Exception):
                batch.report(name, result)
                continue
            note.of_picture(picture)
            text = one_line(result.answer)
            record = {"image": name, **({"question": args.question} if key == "answer" else {}), key: text}
            print_result(args, record, f"{name}\t{text}" if label else text, result)
            if key == "answer":
                tell_cut(args, result, name if label else "")
            batch.done += 1
    return batch.code()
