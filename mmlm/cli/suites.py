"""The suites of `mmlm eval`: what they ask, who answers, and where the results go."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlm.cli.loading import check_pack, device_of, load_model
from mmlm.cli.output import print_record

if TYPE_CHECKING:
    from mmlm.evaluation.cases import Case, SuiteName
    from mmlm.evaluation.judge import Judgement

SUITES = ("captions", "vqa", "asr", "spoken", "retrieval", "drawing")
JUDGED = ("captions", "vqa", "asr")  # of which predictions are judged


def judge_predictions(args: argparse.Namespace) -> None:
    """Predictions made elsewhere."""
    from mmlm.evaluation.judge import check_suite, judge
    from mmlm.evaluation.official import read_captions, read_predictions, read_transcripts, read_vqa

    check_suite(args.suite)
    readers = {
        "captions": lambda: read_captions(args.references, args.images),
        "vqa": lambda: read_vqa(args.references, None, args.images),
        "asr": lambda: read_transcripts(args.references),
    }
    cases = readers[args.suite]()[: args.limit]
    said = read_predictions(args.predictions, args.suite)
    if args.limit is not None:
        said = {case.key: said[case.key] for case in cases if case.key in said}
    found = judge(args.suite, cases, said, language=args.language or "en", clip=clip_named(args), seed=args.seed or 0)
    tell(args, [found], Path(args.predictions).name)


def judge_model(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """A model, suite by suite; everything is read and checked before it is loaded."""
    chosen = cases_by_suite(args)
    from mmlm.evaluation import answering
    from mmlm.evaluation.judge import check_suite

    for suite, cases in chosen.items():
        check_suite(suite)
        if not cases:
            raise ValueError(f"{args.data} holds nothing for --suite {suite}")
    if list(chosen) == ["asr"] and is_whisper(args.model):
        model: Any = Ears(args)
    else:
        needed = {name for cases in chosen.values() for case in cases if case.record for name in case.record.media}
        model = load_model(args, *sorted(needed), codecs="drawing" in chosen)
    clip, seed = clip_named(args), options.pop("seed", 0)
    found = []
    for suite, cases in chosen.items():
        found.append(
            answering.judge_model(
                suite, model, cases, clip=clip, language=args.language, batch_size=args.batch_size, seed=seed, **options
            )
        )
    tell(args, found, f"{args.model} on {args.data}")


def cases_by_suite(args: argparse.Namespace) -> dict[SuiteName, list[Case]]:
    """What each suite asks."""
    from mmlm.data import read_records
    from mmlm.evaluation.cases import cases_of, suites_of
    from mmlm.evaluation.official import read_captions, read_vqa

    official = Path(args.data).suffix == ".json"
    if args.suite == "vqa" and args.references is not None:
        return {"vqa": read_vqa(args.references, args.data, args.images or Path(args.data).parent)[: args.limit]}
    if official and args.suite in ("captions", "retrieval", "drawing"):
        return {args.suite: read_captions(args.data, args.images or Path(args.data).parent)[: args.limit]}
    records = read_records(args.data, images=args.images)[: args.limit]
    suites: list[SuiteName] = suites_of(records) if args.suite == "auto" else [args.suite]
    if not suites:
        raise ValueError(f"{args.data} holds nothing that --suite auto judges")
    return {suite: cases_of(suite, records) for suite in suites}


def is_whisper(name: str) -> bool:
    """Whether a name is no model of this package, so that it may be a Whisper's."""
    from mmlm.assembly.presets import ASSEMBLED, OPEN_FLAMINGO, PRESETS

    return name not in (*PRESETS, *ASSEMBLED, *OPEN_FLAMINGO) and not (Path(name) / "model.safetensors").is_file()


class Ears:
    """A Whisper alone, where a model's Whisper is asked for."""

    def __init__(self, args: argparse.Namespace) -> None:
        device = device_of(args)
        check_pack(args, device)
        from encoders.transcription.transcriber import Transcriber
        from encoders.whisper import load_whisper

        self.transcriber = Transcriber(load_whisper(args.model, device))


def clip_named(args: argparse.Namespace) -> Any:
    """The CLIP of `--clip`, a name or a preset's; None without it."""
    if args.clip is None:
        return None
    from encoders.clip import ClipImageEncoder
    from mmlm.assembly.presets import part_of_preset

    return ClipImageEncoder.load(part_of_preset(args.clip, "image_encoder"), device=device_of(args))


def tell(args: argparse.Namespace, found: list[Judgement], title: str) -> None:
    """The figures, and the files of `--output`: a folder for each suite where there are several."""
    for own in found:
        if args.output is not None:
            from mmlm.evaluation.results import write_results

            folder = Path(args.output) if len(found) == 1 else Path(args.output) / own.suite
            write_results(own, folder, f"{own.suite}: {title}")
            print(f"mmlm eval: wrote {folder / 'page.html'}", file=sys.stderr)
    print_record(args, {"suites": [own.to_dict() for own in found]}, "\n\n".join(str(own) for own in found))
