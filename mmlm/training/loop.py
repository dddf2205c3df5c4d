"""The training loop: adapters learn from paired data, everything else stays as it is."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer
from tqdm import tqdm

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data import BadRecordsError
from mmlm.data.sampling import ExampleStream
from mmlm.training.checkpoint import (
    Checkpoint,
    generator_tensors,
    latest_checkpoint,
    load_generator_tensors,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from mmlm.training.config import TrainConfig
from mmlm.training.examples import Examples, prepare, split, write_bad_records
from mmlm.training.identity import check_identity, identify
from mmlm.training.metrics import keep_lines, plot_losses
from mmlm.training.optimizer import learning_rate, make_optimizers
from mmlm.training.precision import computing, resolve
from mmlm.training.stopping import stop_requests


class NonFiniteLossError(ValueError):
    """Several steps in a row had a loss or gradient that is not finite."""


@dataclass(frozen=True)
class TrainResult:
    """What a finished run gives: `model` is a folder for `mmlm.load`; losses are nats per answer token."""

    model: Path
    steps: int
    loss: float
    held_out_loss: float | None
    skipped: int
    bad_records: int


@dataclass
class Progress:
    """How far a run has come: all that a checkpoint needs beside tensors. The sums reach back to the last log line."""

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    loss_sum: float = 0.0
    answer_tokens: int = 0
    last_loss: float = math.nan
    held_out_loss: float | None = None


def train(
    model: MultimodalLM,
    data: Any,
    *,
    output: str | os.PathLike,
    held_out: Any = None,
    images: str | os.PathLike | None = None,
    resume: bool = True,
    progress: bool = True,
    config: TrainConfig | None = None,
    **settings: Any,
) -> TrainResult:
    """Train what was added to the frozen parts of `model` on pictures and recordings with texts about them.

    data, held_out: anything `mmlm.data.read_records` takes; images: its picture folder. Held-out loss is measured
    before the first step and every `eval_every` steps.
    output: a folder that gets `model/` (for `mmlm.load`), `metrics.jsonl`, `loss.png`, `checkpoints/`, `features/` and,
    if there are any, `bad_records.jsonl`.
    resume: go on from the newest checkpoint in `output`, bit for bit on a CPU; False starts anew and removes them.
    settings: fields of TrainConfig, over those of `config`.

    SIGTERM and Ctrl-C let the step finish, write a checkpoint, then end the program (SystemExit, KeyboardInterrupt).
    Errors: ValueError for settings or data that cannot be used (BadRecordsError with a list, if more than `bad_limit`
    of the records are bad), and NonFiniteLossError, with the last good weights saved, if training diverges.
    """
    config = dataclasses.replace(config or TrainConfig(), **settings)
    config = dataclasses.replace(config, precision=resolve(config.precision, model.device))
    output = Path(output)
    parameters = dict(model.added_parameters())
    wrong = sorted({str(p.dtype) for p in parameters.values()} - {"torch.float32", "torch.float64"})
    if wrong:
        raise ValueError(f"the added weights are {', '.join(wrong)}: train a float32 model, with precision='bfloat16'")
    checkpoints, bad_records = output / "checkpoints", output / "bad_records.jsonl"

    reading = dict(images=images, cache=config.cache or output / "features", config=config, progress=progress)
    try:
        training = prepare(model, data, **reading)
        held = None if held_out is None else prepare(model, held_out, **reading)
    except BadRecordsError as error:
        write_bad_records(bad_records, error.bad)
        raise
    write_bad_records(bad_records, [*training.records.bad, *(held.records.bad if held else ())])
    size = config.batch_size * config.accumulation
    steps = config.steps or max(1, math.ceil(config.epochs * len(training) / size))
    identity = identify(model, training, config, steps)
    if not resume and checkpoints.exists():  # only now: nothing can be wrong with the call any more
        shutil.rmtree(checkpoints)

    device = next(iter(parameters.values())).device
    names = {parameter: name for name, parameter in parameters.items()}
    optimizers = make_optimizers(parameters, config)
    metrics = output / "metrics.jsonl"
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would seed every GPU as well
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(config.seed)
        done = Progress()
        if (checkpoint := latest_checkpoint(checkpoints)) is not None:
            check_identity(checkpoint, identity, output)
            done = Progress(**checkpoint.state["progress"])
            _restore(checkpoint, parameters, optimizers, names, device)
            _say(progress, f"going on from {checkpoint.folder} ({done.step} of {steps} steps)")
        keep_lines(metrics, done.step if checkpoint else -1)

        def save() -> None:
            save_checkpoint(
                checkpoints,
                done.step,
                parameters,
                {**optimizer_tensors(optimizers, names), **generator_tensors(device)},
                {"identity": identity, "progress": dataclasses.asdict(done)},
                config.keep,
            )

        was_training = model.training
        try:
            _run(model, training, held, config, steps, optimizers, done, metrics, save, progress)
        finally:
            for parameter in parameters.values():
                parameter.grad = None
            model.train(was_training)

    folder = model.save(output / "model")
    try:
        plot_losses(metrics, output / "loss.png")
    except ImportError:
        _say(progress, "no loss.png: matplotlib is not installed")
    bad = len(training.records.bad) + (len(held.records.bad) if held else 0)
    result = TrainResult(folder, done.step, done.last_loss, done.held_out_loss, done.skipped, bad)
    _say(progress, _summary(result))
    return result


def _run(
    model: MultimodalLM,
    examples: Examples,
    held: Examples | None,
    config: TrainConfig,
    steps: int,
    optimizers: list[Optimizer],
    done: Progress,
    metrics: Path,
    save: Callable[[], None],
    progress: bool,
) -> None:
    """Steps `done.step` … `steps`, with `done` kept up to date."""
    stream = ExampleStream(
        examples.records,
        config.batch_size * config.accumulation,
        seed=config.seed,
        caption_share=config.caption_share,
        length=examples.length,
        window=config.sort_window,
    )
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    parameters = [parameter for group in groups for parameter in group["params"]]
    warmup = max(1, steps // 20) if config.warmup_steps is None else config.warmup_steps
    model.train()
    with (
        stop_requests() as requests,
        open(metrics, "a", encoding="utf-8") as log,
        tqdm(total=steps, initial=done.step, desc="training", unit="step", disable=not progress) as bar,
    ):

        def write(line: dict) -> None:
            log.write(json.dumps(line) + "\n")
            log.flush()

        def measure() -> None:
            if held is not None:
                done.held_out_loss = held_out_loss(model, held, config)
                write({"step": done.step, "held_out_loss": done.held_out_loss})

        if done.step == 0 and done.held_out_loss is None:
            measure()
        clock, tokens = time.perf_counter(), 0
        while done.step < steps and not requests:
            rate = learning_rate(config, done.step, steps, warmup)
            for group in groups:
                group["lr"] = rate * group["lr_scale"]
            parts = split(stream.step(done.step), config.accumulation)
            batches = [examples.collate(part) for part in parts]
            loss, norm, answers = _gradient(model, batches, parameters, config)
            finite = math.isfinite(loss) and math.isfinite(norm)
            if finite:
                for optimizer in optimizers:
                    optimizer.step()
                done.loss_sum += loss * answers
                done.answer_tokens += answers
            for parameter in parameters:
                parameter.grad = None
            done.step += 1
            done.skipped += not finite
            done.skipped_in_a_row = 0 if finite else done.skipped_in_a_row + 1
            tokens += sum(examples.length(*pair) for part in parts for pair in part)
            bar.update()
            last = done.step == steps
            if done.step % config.log_every == 0 or last:
                now = time.perf_counter()
                done.last_loss = done.loss_sum / done.answer_tokens if done.answer_tokens else math.nan
                line = {
                    "step": done.step,
                    "epoch": done.step * stream.size / len(examples),
                    "loss": done.last_loss if done.answer_tokens else None,
                    "learning_rate": rate,
                    "gradient_norm": norm if math.isfinite(norm) else None,
                    "skipped": done.skipped,
                    "tokens_per_second": round(tokens / (now - clock), 1),
                }
                write(line)
                bar.set_postfix(loss=f"{done.last_loss:.3f}", lr=f"{rate:.1e}", tok_s=f"{tokens / (now - clock):.0f}")
                done.loss_sum, done.answer_tokens = 0.0, 0
                clock, tokens = now, 0
            if done.skipped_in_a_row >= config.max_skipped:
                save()
                raise NonFiniteLossError(
                    f"the loss or its gradient was not finite in {done.skipped_in_a_row} steps in a row, up to step "
                    f"{done.step}; those steps were skipped and the weights before them are saved. Try a lower "
                    "learning_rate, precision='float32', or look for odd pictures or texts"
                )
            if done.step % config.eval_every == 0 or last:
                started = time.perf_counter()
                measure()
                clock += time.perf_counter() - started
            if done.step % config.save_every == 0 or last:
                started = time.perf_counter()
                save()
                clock += time.perf_counter() - started
        if requests:
            save()
    if requests:
        _say(progress, f"stopped at step {done.step} of {steps}; the same call goes on from there")
        raise KeyboardInterrupt if requests[0] == signal.SIGINT else SystemExit(128 + requests[0])


def _gradient(
    model: MultimodalLM, batches: list, parameters: list[Parameter], config: TrainConfig
) -> tuple[float, float, int]:
    """Accumulates the clipped gradient of the mean loss over all answer tokens of a step's parts.

    Returns that loss, the norm before clipping, and the number of answer tokens.
    """
    counts = [int((batch.labels[:, 1:] >= 0).sum()) for batch, _ in batches]
    total = sum(counts)
    device = parameters[0].device
    loss = torch.zeros((), device=device)
    for (batch, media), count in zip(batches, counts, strict=True):
        with computing(config.precision, device):
            share = model(batch, media).loss * (count / total)
        share.backward()
        loss += share.detach()
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    loss, norm = torch.stack([loss, norm.to(loss.dtype)]).tolist()
    return loss, norm, total


@torch.no_grad()
def held_out_loss(model: MultimodalLM, held: Examples, config: TrainConfig) -> float:
    """Mean loss in nats per answer token over a fixed choice of at most `held_out_examples` examples."""
    count = min(config.held_out_examples, len(held))
    chosen = ExampleStream(held.records, count, caption_share=config.caption_share).step(0)
    chosen.sort(key=lambda pair: held.length(*pair))
    was_training = model.training
    model.eval()
    total, tokens = 0.0, 0
    for start in range(0, count, config.batch_size):
        batch, media = held.collate(chosen[start : start + config.batch_size])
        with computing(config.precision, model.device):
            loss = model(batch, media).loss
        answers = int((batch.labels[:, 1:] >= 0).sum())
        total, tokens = total + float(loss) * answers, tokens + answers
    model.train(was_training)
    return total / tokens


def _restore(
    checkpoint: Checkpoint, parameters: dict, optimizers: list[Optimizer], names: dict, device: torch.device
) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(checkpoint.weights[name])
    load_optimizer_tensors(optimizers, names, checkpoint.optimizer)
    load_generator_tensors(device, checkpoint.optimizer)


def _summary(result: TrainResult) -> str:
    held = "" if result.held_out_loss is None else f", held out {result.held_out_loss:.3f}"
    counts = ((result.skipped, "steps skipped"), (result.bad_records, "bad records left out"))
    notes = [f"{count} {what}" for count, what in counts if count]
    first = f"trained {result.steps} steps: loss {result.loss:.3f}{held} nats per answer token"
    return "; ".join([first, *notes, f"model in {result.model}"])


def _say(progress: bool, message: str) -> None:
    if progress:
        tqdm.write(message)
