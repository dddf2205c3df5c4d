"""Distillation: its loss against a reference in float64, what the teacher is asked for, and what a student learns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mmlm
from mmlm.data import Record, RecordSet
from mmlm.model.config import FusionConfig, ResamplerConfig
from mmlm.prompting.messages import Message
from mmlm.prompting.parts import Image
from mmlm.training import load_recipe, plan_from_recipe, trainer
from mmlm.training.align import align, objective_of
from mmlm.training.alignment import lessons
from mmlm.training.alignment.config import AlignConfig, DistillConfig, PreferenceConfig
from mmlm.training.alignment.teacher import Shared
from support.alignment import SETTINGS, asked, pairs, teacher
from support.families import language_model, sentencepiece_bpe, tokenizer
from support.training_objectives import COLOURS, assert_equal, metrics, png, snapshot, tiny_encoder, tiny_model

SIZES = dict(
    resampler=ResamplerConfig(depth=1, num_latents=4, heads=2, dim_head=8), fusion=FusionConfig(heads=2, dim_head=8)
)


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    monkeypatch.setattr(trainer, "plot_losses", lambda *args: None)


def objective(model, output: Path, data: RecordSet | None = None, held=None, other=None, **settings):
    config = AlignConfig(steps=1, batch_size=3, accumulation=2)
    given = DistillConfig(**settings)
    data = asked(pairs()) if data is None else data
    return objective_of(model, data, given, output, held, config, teacher=other or teacher())


def log_softmax(values: np.ndarray) -> np.ndarray:
    shifted = values - values.max()
    return shifted - np.log(np.exp(shifted).sum())


def expected(student, taught_by, ready, beta: float, temperature: float, k: int | None, sft: float) -> list[float]:
    """Of each token of one answer, in float64, one token and one sum at a time. The ids of both are the same."""
    found = []
    ids, labels = ready.example.input_ids, ready.example.labels
    batch = student.processor.collate([replace(ready.example, labels=[-100] * len(ids))])
    batch.labels = None
    plain = student(batch, [ready.features]).logits[0].double().numpy()
    told = taught_by(batch, [ready.features]).logits[0].double().numpy()
    for place in range(1, len(ids)):
        if labels[place] == -100:
            continue
        p, q = (np.exp(log_softmax(own[place - 1] / temperature)) for own in (told, plain))
        if k is not None:
            kept = np.argsort(-p)[:k]
            p, q = (np.append(own[kept], 1 - own[kept].sum()) for own in (p, q))
        m = beta * p + (1 - beta) * q
        first, second = (np.sum(own * np.log(own / m)) for own in (p, q))
        far = {0: np.sum(p * np.log(p / q)), 1: np.sum(q * np.log(q / p))}.get(beta, beta * first + (1 - beta) * second)
        found.append(float(far - sft * log_softmax(plain[place - 1])[labels[place]]))
    return found


@pytest.mark.parametrize(
    ("beta", "temperature", "k", "sft"), [(0, 1.0, None, 0), (0.3, 2.0, None, 0.2), (1, 0.7, 5, 0), (0, 1.5, 3, 0.1)]
)
def test_the_loss_is_that_of_the_paper_in_float64(tmp_path, beta, temperature, k, sft):
    model = tiny_model()
    made = objective(model, tmp_path, beta=beta, temperature=temperature, top_k=k, sft=sft)
    chosen, rows = made.order.batch(0).tolist(), []
    with torch.no_grad():
        for index in chosen:
            ready = made.lessons.examples.ready([(made.lessons.entries[index][0], 0)])[0]
            rows.append(expected(model, teacher(), ready, beta, temperature, k, sft))
        found = made.parts(0)
        losses = [float(part.loss()) for part in found]
    values = [[value for row in rows[start : start + 3] for value in row] for start in (0, 3)]
    assert [part.count for part in found] == [len(own) for own in values]
    close = 1e-4 if k is None else 2e-3  # what is kept has 16 bits
    assert losses == pytest.approx([sum(own) / len(own) for own in values], rel=close)


def test_as_many_as_there_are_tell_all_that_all_tell(tmp_path):
    """k = V is the whole distance, but for 16 bits; the loss of fewer is a part of it."""
    model = tiny_model()
    made = {k: objective(model, tmp_path / str(k), top_k=k) for k in (None, 275, 10_000, 4)}
    width = model.language_model.vocabulary.code_offset
    assert width == 275 and made[10_000].lessons[0].target.ids.shape[1] == 275
    with torch.no_grad():
        found = {k: float(own.parts(0)[0].loss()) for k, own in made.items()}
    assert found[275] == found[10_000] == pytest.approx(found[None], rel=1e-3)
    assert 0 < found[4] < found[None]


def test_a_student_that_is_as_its_teacher_has_nothing_to_learn(tmp_path):
    made = objective(tiny_model(), tmp_path, other=tiny_model(), top_k=None, beta=0.5)
    with torch.no_grad():
        assert abs(float(made.parts(0)[0].loss())) < 1e-6


@pytest.mark.parametrize("on", ["data", "student"])
def test_a_student_comes_near_its_teacher_who_stays_as_he_is(tmp_path, on):
    """The teacher is the student's language model with other adapters, so that these can become his."""
    other = tiny_model(seed=7)
    with torch.no_grad():
        for name, parameter in other.added_parameters():
            parameter.add_(0.5 * torch.ones_like(parameter) if "gate" in name else 0)
    before = snapshot(other)
    given = DistillConfig(on=on, top_k=None if on == "student" else 32, max_new_tokens=6)
    settings = {**SETTINGS, "steps": 10, "eval_every": 10, "save_every": 100, "batch_size": 4}
    data = asked(pairs())
    align(tiny_model(), data, given, teacher=other, held_out=data, output=tmp_path, progress=False, **settings)
    held = [line for line in metrics(tmp_path) if "held_out_loss" in line]
    first, last = held[0], held[-1]
    assert last["held_out_loss"] < 0.9 * first["held_out_loss"]
    assert last["held_out_agreement"] >= first["held_out_agreement"]
    assert_equal(before, snapshot(other))
    assert not any(parameter.grad is not None for parameter in other.parameters())


@pytest.mark.parametrize("on", ["data", "teacher"])
def test_what_the_teacher_said_is_read_again_and_not_asked_again(tmp_path, monkeypatch, on):
    """The file lies beside the features; other data, and another teacher, have their own."""
    config = AlignConfig(steps=2, batch_size=2, cache=str(tmp_path / "cache"), precision="float32")
    given = DistillConfig(on=on, top_k=4, max_new_tokens=5)
    data, other = asked(pairs()), tiny_model("llama", seed=5)

    def once(folder: str, records=data):
        student = tiny_model()
        align(student, records, given, teacher=other, output=tmp_path / folder, progress=False, config=config)
        return snapshot(student)

    first = once("a")
    with monkeypatch.context() as patch:
        patch.setattr(other, "forward", lambda *args, **kwargs: pytest.fail("the teacher was asked"))
        patch.setattr(lessons.Writer, "write", lambda *args, **kwargs: pytest.fail("the teacher was asked"))
        assert_equal(first, once("b"))
    folders = [*(tmp_path / "cache/features").glob("teacher-*")]
    assert len(folders) == 1 and len([*(tmp_path / "cache/features").glob("image-*")]) == 1
    kept = mmlm.data.cache.TensorCache(folders[0])
    assert kept["0 log_probs"].dtype == torch.float16 and kept["0 log_probs"].shape[1] == 5
    assert kept["0 log_probs"].float().exp().sum(1) == pytest.approx(torch.ones(len(kept["0 ids"])), abs=2e-3)
    once("c", RecordSet(data[:6]))
    with torch.no_grad():
        next(other.added_parameters())[1].add_(0.1)
    once("d")
    assert len([*(tmp_path / "cache/features").glob("teacher-*")]) == 3


def test_a_teacher_of_whom_all_is_known_is_given_up(tmp_path):
    assert objective(tiny_model(), tmp_path / "a", top_k=4, held=asked(pairs())).lessons.teacher._model is None
    assert objective(tiny_model(), tmp_path / "b", top_k=None).lessons.teacher._model is teacher()


def test_answers_of_a_conversation_are_all_told_of(tmp_path):
    """In every turn of the assistant, and nowhere else; what is sampled stands in place of the last one."""
    said = (
        Message("user", (Image(png(COLOURS["red"])), "what?")), Message("assistant", ("red",)),
        Message("user", ("sure?",)), Message("assistant", ("yes it is",)),
    )  # fmt: skip
    data = RecordSet((Record("talk", messages=said), *asked(pairs())[:5]))
    model = tiny_model()
    found = objective(model, tmp_path / "a", data, top_k=4).lessons[0]
    assert len(found.target.log_probs) == len("red") + len("yes it is") + 2
    sampled = objective(model, tmp_path / "b", data, on="teacher", top_k=4, max_new_tokens=5).lessons[0]
    ids = sampled.student.example.input_ids
    answer = [own for own in sampled.student.example.labels if own != -100]
    assert ids[-len(answer) :] == answer and 1 <= len(answer) <= 5 == len(sampled.target.ids[0]) + 1
    whole = model.processor.tokenizer.decode([own for own in ids if own < 256])
    assert "red" in whole and "sure?" in whole and "yes it is" not in whole


def test_the_teacher_may_have_more_spare_rows(tmp_path):
    """Its added tokens have other ids then; the columns of both distributions mean the same; and none writes such."""
    host = language_model("gpt2", seed=3)
    host.resize_token_embeddings(280)
    other = mmlm.assemble(host, tiny_encoder(2), tokenizer=tokenizer(), **SIZES)
    model = tiny_model()
    made = objective(model, tmp_path, other=other, top_k=None, temperature=1.3)
    shared = made.lessons.teacher.shared
    assert shared.student == list(range(275)) and shared.teacher == [*range(272), 280, 281, 282]
    lesson = made.lessons[0]
    assert lesson.student.example.input_ids[-1] == 272 and lesson.teacher.example.input_ids[-1] == 280
    with torch.no_grad():
        found = float(made._loss([lesson], 0.0))
        logits = [
            own(own.processor.collate([read.example]), [read.features]).logits.double()[:, ids]
            for own, read, ids in (
                (model, lesson.student, shared.student),
                (other, lesson.teacher, shared.teacher),
            )
        ]
    q, p = (torch.log_softmax(own / 1.3, -1) for own in logits)
    assert found == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-5)
    writer = lessons.writer_of(other, shared.teacher, DistillConfig(), AlignConfig())
    assert writer.never[272:280].all() and not writer.never[100] and not writer.never[280]
    both = Shared.of(
        model.language_model.vocabulary, replace(model.language_model.vocabulary, tokens=("<|endofchunk|>",))
    )
    assert both.student == both.teacher == list(range(273))
    with pytest.raises(ValueError, match="274"):
        both.to_teacher([1, 274])


def test_the_student_writes_in_its_share_of_the_steps(tmp_path):
    """By lot, and as it is at that step."""
    model = tiny_model()
    made = objective(model, tmp_path, on="student", share=0.4, top_k=None, max_new_tokens=4)
    wrote = [made.writes(step) for step in range(400)]
    assert wrote == [made.writes(step) for step in range(400)] and 0.3 < sum(wrote) / 400 < 0.5
    step = wrote.index(True)
    first, again = (made._written(step, 0, [0, 1, 2]) for _ in range(2))
    ids = [lesson.student.example.input_ids for lesson in first]
    assert ids == [lesson.student.example.input_ids for lesson in again]
    assert ids == [lesson.teacher.example.input_ids for lesson in first]
    with torch.no_grad():
        for parameter in made.parameters().values():
            parameter.add_(0.3 * torch.randn_like(parameter))
    assert ids != [lesson.student.example.input_ids for lesson in made._written(step, 0, [0, 1, 2])]


def test_what_cannot_teach_is_told_before_anything_is_computed(tmp_path):
    model = tiny_model()
    with pytest.raises(ValueError, match="its own teacher"):
        objective(model, tmp_path, other=model)
    pieces = sentencepiece_bpe()
    host = language_model("llama")
    host.resize_token_embeddings(len(pieces) + 4)
    other = mmlm.assemble(host, tiny_encoder(), tokenizer=pieces, **SIZES)
    with pytest.raises(ValueError, match=r"another tokenizer.*tokens have not the same id, such as '.*; distillation"):
        objective(model, tmp_path, other=other)
    with pytest.raises(ValueError, match=r"needs a teacher: objective\.teacher"):
        align(model, asked(pairs()), DistillConfig(), output=tmp_path / "a", progress=False)
    with pytest.raises(ValueError, match="a teacher is for distill, not for dpo"):
        align(model, pairs(), PreferenceConfig(), teacher=teacher(), output=tmp_path / "b", progress=False)
    with pytest.raises(ValueError, match="rewards are for grpo and ppo, not for distill"):
        align(model, asked(pairs()), DistillConfig(), rewards={"a": len}, output=tmp_path / "c", progress=False)
    for settings, said in (
        ({"on": "both"}, "on must be one of 'data', 'teacher'"), ({"share": 0.5}, "share is for on: student"),
        ({"beta": 1.5}, "beta lies in 0..1"), ({"top_k": 0}, "top_k must be at least 1"),
        ({"on": "student", "sft": 0.1}, "sft is for answers that are given"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            DistillConfig(**settings)
    script = RecordSet((Record("d", document=("some text", Image(png("red")), "more")), *asked(pairs())[:5]))
    with pytest.raises(ValueError, match="on: student has answers sampled, and the data hold documents"):
        objective(model, tmp_path, script, on="student")


def test_a_recipe_names_the_teacher_and_the_plan_looks_for_it(tmp_path):
    (tmp_path / "0.png").write_bytes(png("red"))
    line = '{"image": "0.png", "question": "what?", "answer": "red"}\n'
    (tmp_path / "data.jsonl").write_text(line * 8)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: nano\nobjective: distill\ndata: {tmp_path}/data.jsonl\noutput: {tmp_path}/run\n")
    with pytest.raises(ValueError, match=r"objective\.teacher is missing"):
        load_recipe(recipe)
    with pytest.raises(FileNotFoundError, match="no model 'nobody'"):
        plan_from_recipe(recipe, ["objective.teacher=nobody"])
    plan = plan_from_recipe(recipe, ["objective.teacher=nano", "objective.on=student", "batch_size=4"])
    assert plan.model == "nano learns from nano (distill)" and plan.steps == 2
