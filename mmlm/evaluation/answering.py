"""What a model says to the cases of a suite."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmlm.data.prompts import prompt_of
from mmlm.data.records import Record
from mmlm.evaluation.cases import Case, Key, Place, SuiteName
from mmlm.evaluation.judge import Judgement, judge, judgement, picture_of, seen_by
from mmlm.evaluation.looking import embedded_pictures, embedded_texts
from mmlm.evaluation.metrics.clip_score import PREFIX, clip_score
from mmlm.evaluation.metrics.frechet import frechet_distance
from mmlm.evaluation.metrics.retrieval import recall_measures, retrieval_ranks
from mmlm.evaluation.trials import PART, decoded
from mmlm.tasks.rows import results_of
from mmlm.training.reporting import counted

if TYPE_CHECKING:
    from encoders.clip import ClipImageEncoder
    from encoders.transcription.transcriber import Transcriber
    from mmlm.assembly.multimodal_lm import MultimodalLM
    from mmlm.prompting.parts import Media

Said = tuple[dict[Key, str], dict[Key, str]]
"""What was said by the keys of the cases, and why nothing was said to the others."""


def judge_model(
    suite: SuiteName,
    model: MultimodalLM,
    cases: Sequence[Case],
    *,
    clip: ClipImageEncoder | None = None,
    language: str | None = None,
    batch_size: int = 32,
    seed: int = 0,
    **generation: Any,
) -> Judgement:
    """The figures of a model on the cases of a suite.

    captions, vqa, spoken: what it writes to the prompts of training. asr: what its Whisper writes down, as `transcribe`
    does. retrieval: the embeddings of `clip`, or else of the model's own CLIP. drawing: pictures that it draws of the
    first captions, as `clip` sees them. generation: by the names of `GenerationOptions`.
    ValueError where there are no cases, or the model lacks a part that the suite needs.
    """
    if not cases:
        raise ValueError(f"the data hold nothing for the suite {suite!r}")
    if suite in ("retrieval", "drawing"):
        shown, left_out = seeable(cases)
        eye = clip or clip_of(model)
        if suite == "retrieval":
            return judge_retrieval(eye, shown, left_out, seed=seed)
        return judge_drawings(eye, shown, drawn(model, shown, seed), left_out, seed=seed)
    if suite == "asr":
        said, left_out = transcribed(model.transcriber, cases, language)
    else:
        said, left_out = answered(model, cases, batch_size, {"seed": seed, **generation})
    return judge(suite, cases, said, left_out=left_out, language=language or "en", clip=clip, seed=seed)


def answered(model: MultimodalLM, cases: Sequence[Case], batch_size: int, options: Mapping[str, Any]) -> Said:
    """What a model writes to the prompts of cases, in batches, each medium encoded once a batch."""
    said: dict[Key, str] = {}
    left_out: dict[Key, str] = {}
    for start in counted(range(0, len(cases), batch_size), "answering, in batches"):
        asked: list[tuple[Case, Record]] = []
        parts: dict[Place, Media] = {}
        for case in cases[start : start + batch_size]:
            record = _record(case)
            try:
                parts |= {place: decoded(record, name) for name, place in record.media.items() if place not in parts}
                asked.append((case, record))
            except ValueError as error:
                left_out[case.key] = str(error)
        seen = dict(zip(parts, model.encode_media(list(parts.values())), strict=True))
        prompts = []
        for case, record in asked:
            assert case.text is not None, "cases for a model have texts"
            media = [PART[name](seen[place]) for name, place in record.media.items()]
            prompts.append(prompt_of(model.template, record, case.text, media))
        if prompts:
            results = results_of(model.generate(prompts, batch_size=batch_size, **options))
            said |= {case.key: result.answer.strip() for (case, _), result in zip(asked, results, strict=True)}
    return said, left_out


def transcribed(transcriber: Transcriber, cases: Sequence[Case], language: str | None = None) -> Said:
    """What a Whisper writes down, each recording by itself."""
    said: dict[Key, str] = {}
    left_out: dict[Key, str] = {}
    for case in counted(cases, "transcribing"):
        try:
            said[case.key] = transcriber.transcribe(_record(case).audio, language=language).text.strip()
        except (ValueError, OSError) as error:
            left_out[case.key] = str(error)
    return said, left_out


def drawn(model: MultimodalLM, cases: Sequence[Case], seed: int = 0) -> list[bytes]:
    """A picture of the first caption of each case, as PNG."""
    found = []
    for number, case in enumerate(counted(cases, "drawing")):
        picture: Any = model.draw(case.expected[0], seed=seed + number)
        file = io.BytesIO()
        picture.save(file, format="PNG")
        found.append(file.getvalue())
    return found


def seeable(cases: Sequence[Case]) -> tuple[list[Case], dict[Key, str]]:
    """The cases whose pictures can be decoded, and why those of others cannot. ValueError where all cannot."""
    left_out = {}
    for case in counted(cases, "looking whether pictures can be read"):
        try:
            _record(case).decode()
        except ValueError as error:
            left_out[case.key] = str(error)
    if len(left_out) == len(cases):
        raise ValueError(f"none of {len(cases)} pictures can be used; the first: {next(iter(left_out.values()))}")
    return [case for case in cases if case.key not in left_out], left_out


def judge_retrieval(
    clip: ClipImageEncoder, cases: Sequence[Case], left_out: Mapping[Key, str] = MappingProxyType({}), *, seed: int = 0
) -> Judgement:
    """Recall between pictures and all their captions, by the embeddings of a CLIP. left_out: why others are not."""
    owner = [number for number, case in enumerate(cases) for _ in case.expected]
    pictures = embedded_pictures(clip, [picture_of(case) for case in cases])
    texts = embedded_texts(clip, [text for case in cases for text in case.expected])
    image_rank, text_rank = retrieval_ranks(pictures, texts, owner)
    nearest = [owner[number] for number in (pictures @ texts.T).argmax(dim=1).tolist()]
    said = [cases[number].expected[0] for number in nearest]
    measures = recall_measures(image_rank, text_rank, owner)
    return judgement(
        "retrieval", cases, said, measures, expected=len(cases) + len(left_out), left_out=left_out,
        notes=[seen_by(clip)], seed=seed,
    )  # fmt: skip


def judge_drawings(
    clip: ClipImageEncoder,
    cases: Sequence[Case],
    made: Sequence[bytes],
    left_out: Mapping[Key, str] = MappingProxyType({}),
    *,
    seed: int = 0,
) -> Judgement:
    """CLIP score of drawings with their captions, and FID beside the pictures that have these captions.

    FID is over the embeddings of `clip`, so it is no figure of papers, which take Inception's features.
    """
    real, drawings = (embedded_pictures(clip, own) for own in ([picture_of(case) for case in cases], made))
    said = [case.expected[0] for case in cases]
    score = clip_score(drawings, embedded_texts(clip, [PREFIX + text for text in said]))
    measures = [score, frechet_distance(real, drawings, "FID on CLIP embeddings")]
    notes = [seen_by(clip)]
    return judgement(
        "drawing", cases, said, measures, expected=len(cases) + len(left_out), left_out=left_out, notes=notes,
        made=made, seed=seed,
    )  # fmt: skip


def clip_of(model: MultimodalLM) -> ClipImageEncoder:
    """The model's own CLIP. ValueError where it has none."""
    from encoders.clip import ClipImageEncoder

    encoder = model.encoders.get("image")
    if not isinstance(encoder, ClipImageEncoder):
        raise ValueError("the model has no CLIP: name one with clip=")
    return encoder


def _record(case: Case) -> Record:
    assert case.record is not None, "cases for a model have records"
    return case.record
