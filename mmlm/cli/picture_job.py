"""Rows about pictures in a job: prompts in batches of similar length, while the next one's pictures are read."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from mmlm.cli.batch import outcome, results_of_each
from mmlm.cli.first_contact import Note
from mmlm.cli.inputs import Input
from mmlm.cli.job import Work, error_row
from mmlm.cli.loading import examples_of, load_model, read_examples, read_image
from mmlm.cli.options import generation_options
from mmlm.cli.output import one_line
from mmlm.cli.pictures import PromptOf

if TYPE_CHECKING:
    from mmlm.data.records import BadRecord
    from mmlm.generation.result import GenerationResult
    from mmlm.jobs import Item


def picture_work(args: argparse.Namespace, rank: int, prompt_of: PromptOf, key: str) -> Work:
    """What a verb about pictures does in a job: see `PictureRows`."""
    rows = PictureRows(args, rank, prompt_of, key)
    shown = None if rows.examples is None else rows.examples.fingerprint()
    return Work(rows.identity, rows.rows_of, shown)


@dataclass(frozen=True)
class Asked:
    """A prompt: about which item, and the question, if it is one."""

    item: Item
    question: str | None = None


class PictureRows:
    """The rows of a verb with the prompts of `prompt_of`; `key`: of the text in a row. The model is loaded late."""

    def __init__(self, args: argparse.Namespace, rank: int, prompt_of: PromptOf, key: str) -> None:
        self.args, self.prompt_of, self.key = args, prompt_of, key
        self.options, self.examples = generation_options(args), read_examples(args)
        self.note = Note(args) if rank == 0 else None

    @functools.cached_property
    def loaded(self) -> tuple[Any, Any]:
        """The model, and the examples indexed for it."""
        model = load_model(self.args, "image", codecs=False)
        return model, examples_of(self.examples, model)

    def identity(self) -> dict[str, Any]:
        """What identifies the model."""
        from encoders.base import fingerprint
        from mmlm.model.identity import identity_of

        model = self.loaded[0]
        return identity_of(model) | {"added": fingerprint(dict(model.added_parameters()))}

    def rows_of(self, items: Sequence[Item | BadRecord], first: int) -> list[dict[str, Any]]:
        """A row for each item; `first`: how many items the job has before them."""
        asked = [self._asked(item) for item in items]
        results = iter(self._results([one for own in asked for one in own], first))
        return [self._row(item, own, [next(results) for _ in own]) for item, own in zip(items, asked, strict=True)]

    def _asked(self, item: Item | BadRecord) -> list[Asked]:
        from mmlm.jobs import Item

        if not isinstance(item, Item):
            return []
        if self.key == "caption":
            return [Asked(item)]
        given = self.args.question
        return [Asked(item, question) for question in (item.questions if given is None else (given,))]

    def _results(self, asked: Sequence[Asked], first: int) -> list[GenerationResult | Exception]:
        """The result of each prompt, in order, or why there is none."""
        from mmlm.data.ahead import Ahead
        from mmlm.data.streams import UnreachableError
        from mmlm.tasks.votes import generated

        model, examples = self.loaded
        order = sorted(range(len(asked)), key=lambda index: len(asked[index].question or ""))
        size = self.args.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        found: dict[int, GenerationResult | Exception] = {}

        def prompt(index: int) -> Any:
            one = asked[index]
            picture = read_image(Input(one.item.name, PurePath(), one.item.place), self.args)
            if self.note is not None:
                self.note.of_picture(picture)
            return self.prompt_of(self.args, model, examples, picture, one.question)

        def read(start: int) -> dict[int, Any]:
            return {index: outcome(functools.partial(prompt, index), UnreachableError) for index in batches[start]}

        with closing(Ahead(read, len(batches), depth=1)) as reading:
            for start in range(len(batches)):
                read_prompts = reading(start)
                found |= {index: error for index, error in read_prompts.items() if isinstance(error, Exception)}
                good = {index: one for index, one in read_prompts.items() if not isinstance(one, Exception)}
                options = self.options
                if "seed" in options:
                    options = {**options, "seed": options["seed"] + first + start * size}
                if good:
                    write = functools.partial(generated, model, votes=vars(self.args).get("votes"), **options)
                    results = results_of_each(list(good.values()), write)
                    found |= dict(zip(good, results, strict=True))
        return [found[index] for index in range(len(asked))]

    def _row(
        self, item: Item | BadRecord, asked: Sequence[Asked], results: Sequence[GenerationResult | Exception]
    ) -> dict[str, Any]:
        from mmlm.jobs import Item

        if not isinstance(item, Item):
            return error_row(self.args, item.key, item.reason)
        texts = []
        for one, result in zip(asked, results, strict=True):
            if isinstance(result, Exception):
                return error_row(self.args, item.key, result)
            question = {} if one.question is None else {"question": one.question}
            text = {self.key: one_line(result.answer)}
            texts.append(question | text | (result.to_dict() if self.args.json else {}))
        if not texts:
            return error_row(self.args, item.key, "no question: give one for all, or a question for each")
        return {"key": item.key, **(texts[0] if len(texts) == 1 else {"qa": texts})}
