"""The trainer: any objective, trained by steps that resume exactly where they stopped."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from mmlm.model.draws import OwnDraws
from mmlm.training.checkpoint import (
    check_finite,
    keep_newest,
    latest_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    remove_checkpoints,
    remove_leftovers,
    save_checkpoint,
)
from mmlm.training.config import TrainerConfig
from mmlm.training.dtensors import on_first, split_like
from mmlm.training.gradient import Gradient
from mmlm.training.identity import check_identity, sketch
from mmlm.training.metrics import Metrics, plot_losses
from mmlm.training.objectives.base import Objective
from mmlm.training.optimizer import hidden_matrices, learning_rate, make_optimizers
from mmlm.training.owner import owned
from mmlm.training.precision import resolve
from mmlm.training.ranks import anywhere, by_first, check_ranks, is_first
from mmlm.training.reporting import Counter, resumed, say
from mmlm.training.result import NonFiniteLossError, Progress, TrainResult
from mmlm.training.state import progress_of
from mmlm.training.stopping import stop_requests
from mmlm.training.trackers import trackers
from mmlm.training.unfrozen import unfrozen

BEST = "best"  # the folder of what had the lowest held-out loss


class Trainer:
    """Trains an objective in place.

    `output` gets what the objective saves, `metrics.jsonl`, `loss.png`, `checkpoints/` and, from some objectives,
    `previews/`. Processes that a launcher has started (`mmlm.training.ranks`) train together; the first one writes.
    """

    def __init__(
        self, objective: Objective, config: TrainerConfig, output: str | os.PathLike, *, progress: bool = True
    ) -> None:
        self.objective, self.output, self.progress, self.asked = objective, Path(output), progress, config
        self.checkpoints, self.metrics = self.output / "checkpoints", Metrics(self.output / "metrics.jsonl")
        self.parameters = objective.parameters()
        self.device = next(iter(self.parameters.values())).device
        self.config = dataclasses.replace(config, precision=resolve(config.precision, self.device))
        self.steps = self._count_steps()
        self.optimizers = make_optimizers(self.parameters, hidden_matrices(objective.module), config)
        self.groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        self.trained = [parameter for group in self.groups for parameter in group["params"]]
        self.names = {parameter: name for name, parameter in self.parameters.items()}
        self.trackers: list[Any] = []
        self.done = Progress()

    def fit(self, *, resume: bool = True) -> TrainResult:
        """Train for the config's steps.

        resume: go on from the newest checkpoint in `output`, bit for bit on a CPU; False starts anew and removes them.

        SIGTERM and Ctrl-C let the step finish, write a checkpoint, then end the program (SystemExit,
        KeyboardInterrupt). Errors: OSError while another run writes into `output`; ValueError if it holds a run with
        another identity, before any weight is changed; NonFiniteLossError, with the last good weights saved, if
        training diverges, or for several processes where the objective is trained by one.
        """
        with owned(self.output, self.device):
            return self._fit(resume)

    def _fit(self, resume: bool) -> TrainResult:
        check_ranks(self.objective.name, self.objective.spreads, self.config.batch_size * self.config.accumulation)
        by_first(lambda: (remove_leftovers if resume else remove_checkpoints)(self.checkpoints))
        with unfrozen(self.objective.module, self.trained):
            self.objective.train(True)
            resumed = self._restore()
            self.metrics.begin(self.done.step if resumed else -1)
            if not resumed:
                self.objective.begin()
            self._run()
        with self.objective.saving():
            done, folder = self.done, by_first(self._finish)
        best = None if done.best is None else self.output / BEST / folder.relative_to(self.output)
        if best is not None and done.best_step != done.step:
            self.say(f"the held-out loss was lowest at step {done.best_step}, {done.best:.3f}: {best} is of that step")
        return TrainResult(folder, done.step, done.last_loss, done.figures, done.skipped, best=best)

    def _finish(self) -> Path:
        folder = self.objective.save(self.output)
        try:
            plot_losses(self.metrics.path, self.output / "loss.png", self.objective.loss_unit)
        except ImportError:
            self.say("no loss.png: matplotlib is not installed")
        return folder

    def _count_steps(self) -> int:
        if self.config.steps is not None:
            return self.config.steps
        if self.objective.examples is None:
            raise ValueError(f"{self.objective.name}: give steps; how many make an epoch is not known")
        return max(1, math.ceil(self.config.epochs * self.objective.examples / self.objective.per_step))

    def _restore(self) -> bool:
        """Takes up the newest checkpoint, if there is one; sets the identity of the run."""
        checkpoint = latest_checkpoint(self.checkpoints)
        done = self.done if checkpoint is None else progress_of(checkpoint)
        if checkpoint is not None and self.asked.precision == "auto":  # what it began with, on whatever hardware
            precision = checkpoint.state["identity"].get("precision", self.config.precision)
            self.config = dataclasses.replace(self.config, precision=precision)
        tensors = self._tensors()
        identity: dict[str, Any] = {
            **self.config.binding(),
            **self.objective.identity(),
            "steps": self.steps,
            "shapes": {name: list(parameter.shape) for name, parameter in self.parameters.items()},
            "starting_weights": sketch(tensors),
        }
        self.identity = json.loads(json.dumps(identity))  # tuples are lists in a checkpoint
        if checkpoint is None:
            return False
        check_identity(checkpoint, self.identity, self.output, self.config.extend)
        # A run that was killed after its last checkpoint, before it removed an older one, would never remove it.
        by_first(lambda: keep_newest(self.checkpoints, checkpoint.folder, self.config.keep))
        self.identity = {**checkpoint.state["identity"], "steps": self.steps}
        weights, self.done = checkpoint.weights_like(tensors), done
        with torch.no_grad(), self.objective.changing():
            for name, tensor in tensors.items():
                tensor.copy_(split_like(weights[name], tensor))
        load_optimizer_tensors(self.optimizers, self.names, checkpoint.optimizer)
        for message in resumed(self.done.step, self.steps, self.output, checkpoint.state["threads"], self.device):
            self.say(message, logging.WARNING)
        return True

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {**self.parameters, **self.objective.state()}

    def _check_finite(self) -> None:
        weights = {**self.parameters, **optimizer_tensors(self.optimizers, self.names)}
        check_finite(weights, self.objective.state(), self.done.step, self.checkpoints)

    def _save(self) -> None:
        self._check_finite()
        state = {
            "identity": self.identity,
            "weights": sketch(self.parameters),
            "progress": dataclasses.asdict(self.done),
            "threads": torch.get_num_threads(),
        }
        tensors = optimizer_tensors(self.optimizers, self.names)
        self.metrics.sync()  # a checkpoint has all lines until its step
        content = (on_first(self._tensors()), on_first(tensors), state)
        by_first(lambda: save_checkpoint(self.checkpoints, self.done.step, *content, self.config.keep) and None)

    def _run(self) -> None:
        """Steps `done.step` … `steps`."""
        done, config, objective = self.done, self.config, self.objective
        with (
            trackers(config.trackers, self.output) as self.trackers,
            stop_requests() as requests,
            objective.steps_in(config.precision),
            Counter(self.steps, objective.name, self.progress and is_first(), initial=done.step) as bar,
        ):
            gradient = Gradient(
                self.trained, config.precision, self.device, config.max_grad_norm, objective.partial, objective.sharded
            )
            if done.step == 0 and not done.figures:
                self._evaluate()
            self.metrics.start()
            while done.step < self.steps and not anywhere(bool(requests)):
                line = self.step(gradient)
                bar.update()
                if self._due(config.log_every):
                    self._log(line, bar)
                if done.skipped_in_a_row >= config.max_skipped:
                    self._diverged()
                with self.metrics.paused():
                    if self._due(config.eval_every):
                        self._evaluate()
                    if objective.preview_every is not None and self._due(objective.preview_every):
                        self._preview()
                    if self._due(config.save_every):
                        self._save()
            if stopped := anywhere(bool(requests)):
                self._save()
        if stopped:
            self.say(f"stopped at step {done.step} of {self.steps}; the same call goes on from there")
            number = requests[0] if requests else signal.SIGTERM
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def _due(self, every: int) -> bool:
        return self.done.step % every == 0 or self.done.step == self.steps

    def step(self, gradient: Gradient) -> dict[str, Any]:
        """One optimizer step, or a skipped one; returns its figures."""
        done, objective = self.done, self.objective
        rate = learning_rate(self.config, done.step, self.steps)
        for group in self.groups:
            group["lr"] = rate * group["lr_scale"]
        before = {name: tensor.clone() for name, tensor in objective.state().items()}
        # Quantizers and dropout take no generator: what they draw depends on the seed and the step.
        seed = self.config.seed * 1_000_003 + done.step
        draws = OwnDraws(seed) if objective.draws else nullcontext()
        with draws:
            parts = objective.parts(done.step)
        found = gradient.of(parts, draws)
        if found.is_finite:
            with objective.changing():
                for optimizer in self.optimizers:
                    optimizer.step()
                with torch.no_grad():
                    objective.after_step()
            done.loss_sum += found.loss * found.count
            done.count += found.count
        else:
            with torch.no_grad():
                for name, tensor in objective.state().items():  # the forward pass may have moved a codebook
                    tensor.copy_(before[name])
        for parameter in self.trained:
            parameter.grad = None
        done.step += 1
        done.skipped += not found.is_finite
        done.skipped_in_a_row = 0 if found.is_finite else done.skipped_in_a_row + 1
        self.metrics.add(found.size)
        norm = found.norm if math.isfinite(found.norm) else None
        return {"learning_rate": rate, "gradient_norm": norm, "skipped": done.skipped}

    def _log(self, line: dict[str, Any], bar: Counter) -> None:
        done, objective = self.done, self.objective
        done.last_loss = done.loss_sum / done.count if done.count else math.nan
        if objective.examples is not None:
            line = {"epoch": done.step * objective.per_step / objective.examples, **line}
        speed = {f"{objective.unit}_per_second": self.metrics.rate()}
        self._write(loss=done.last_loss if done.count else None, **line, **objective.figures(), **speed)
        bar.note(loss=f"{done.last_loss:.3f}", lr=f"{line['learning_rate']:.1e}")
        done.loss_sum, done.count = 0.0, 0

    def _write(self, **figures: Any) -> None:
        """A line of metrics, and its numbers for the trackers."""
        self.metrics.write(step=self.done.step, **figures)
        numbers = {name: value for name, value in figures.items() if value is not None}
        for tracker in self.trackers:
            tracker.log(numbers, step=self.done.step)

    def _evaluate(self) -> None:
        with self._evaluating():
            figures = self.objective.evaluate()
        if figures:
            self.done.figures = figures
            self._write(**figures)
        losses = [value for name, value in figures.items() if name.startswith("held_out_loss")]
        if losses and self.config.keep_best:
            self._keep_best(sum(losses) / len(losses))

    def _keep_best(self, loss: float) -> None:
        """Saves what was trained into `best/`, if the loss is the lowest so far and anything was trained."""
        done = self.done
        if done.step and math.isfinite(loss) and (done.best is None or loss < done.best):
            done.best, done.best_step = loss, done.step
            with self.objective.saving():
                by_first(lambda: self.objective.save(self.output / BEST))

    def _preview(self) -> None:
        with self._evaluating():
            self.objective.preview(self.output / "previews", self.done.step)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        self._check_finite()
        self.objective.train(False)
        with torch.no_grad():
            yield
        self.objective.train(True)

    def _diverged(self) -> None:
        self._save()
        done = self.done
        raise NonFiniteLossError(
            f"the loss or its gradient was not finite in {done.skipped_in_a_row} steps in a row, up to step "
            f"{done.step}; those steps were skipped and the weights before them are saved. Try a lower "
            "learning_rate, precision='float32', or look for odd pictures or texts"
        )

    def say(self, message: str, level: int = logging.INFO) -> None:
        """Tells the user, beside the progress bar; without one, the log at this level."""
        if is_first():
            say(message, self.progress, level)
