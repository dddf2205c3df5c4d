"""What each process of a launcher does in tests/test_ranks.py: `together.py FOLDER SCENARIO...`.

`together.py launch [PROCESSES:RESTARTS:FOLDER:SCENARIO,SCENARIO]...` is a launcher itself, torchrun's, whose processes
are forks of this one, so that one import is enough for all of them.
"""

import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn import Parameter

from mmlm.assembly import extended
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data import Record, RecordSet
from mmlm.model.config import LoraConfig
from mmlm.training import TrainerConfig, trainer
from mmlm.training.optimizer import make_optimizers
from support import alignment, parts, training_objectives
from support.training_objectives import CASES, picture_folder, png, tiny_model

UNEVEN = dict(steps=6, learning_rate=1e-3, batch_size=5, accumulation=3, log_every=1, eval_every=3, save_every=100)


def adapters(output: Path) -> None:
    """15 examples a step, of answers of different lengths."""
    CASES["adapters"].train(tiny_model(), output, **UNEVEN)


def codes(output: Path) -> None:
    CASES["codes"].train(CASES["codes"].build(), output, picture_folder(output.parent), **{**UNEVEN, "batch_size": 4})


def preferences(output: Path) -> None:
    """Three batches of two pairs a step, of which two processes have three pairs each."""
    alignment.run("kto of pairs", output, accumulation=3, log_every=1, learning_rate=1e-3)


def rewards(output: Path) -> None:
    """Batches are written whole, by whichever process."""
    alignment.run("grpo", output, accumulation=3, log_every=1, learning_rate=1e-3)


def values(output: Path) -> None:
    """The same with a value head."""
    alignment.run("ppo", output, accumulation=3, log_every=1, learning_rate=1e-3)


def samples(output: Path) -> None:
    """Of a teacher, whose batches are sampled and kept by whichever process."""
    alignment.run("distill of samples", output, accumulation=3, log_every=1, learning_rate=1e-3)


def on_policy(output: Path) -> None:
    """The student writes in one step of four."""
    alignment.run("distill on policy", output, accumulation=3, log_every=1, learning_rate=1e-3)


def without_media(output: Path) -> None:
    """Sorted by length, steps of two: where there are two processes, one hears and the other one sees."""
    model = parts.build("gpt2", ears="latents")
    seen = [Record(f"p{i}", png("red", dot=i), captions=("red",)) for i in range(4)]
    heard = [Record(f"s{i}", None, sound=wav(i), transcript="a longer text") for i in range(4)]
    records = RecordSet((*seen, *heard))
    CASES["adapters"].train(model, output, records, **{**UNEVEN, "batch_size": 2, "accumulation": 1})


def wav(seed: int) -> bytes:
    buffer = io.BytesIO()
    sound = np.random.default_rng(seed).normal(size=4000).clip(-1, 1)
    soundfile.write(buffer, sound.astype(np.float32), 16_000, format="WAV")
    return buffer.getvalue()


def stopped(output: Path) -> None:
    """The last process is told to stop in step 4, and all of them stop; then the run goes on."""
    with at_step(4, lambda: is_last() and os.kill(os.getpid(), signal.SIGTERM)), suppress(SystemExit):
        adapters(output)
        raise AssertionError("it did not stop")
    if is_last():
        lock = shutil.ignore_patterns(".owner")  # the first process removes it meanwhile
        shutil.copytree(output, output.with_name("stopped-there"), ignore=lock)
    adapters(output)


def killed(output: Path) -> None:
    """The last process dies in step 4, once."""
    mark = output.with_name("killed-once")

    def die() -> None:
        if is_last() and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    with at_step(4, die):
        CASES["adapters"].train(tiny_model(), output, **{**UNEVEN, "save_every": 2})


def is_last() -> bool:
    return int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1


@contextmanager
def at_step(step: int, action: Callable[[], Any]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        training_objectives.at_step(patch, CASES["adapters"], step, action)
        yield


IN_PARTS = {**UNEVEN, "batch_size": 4, "accumulation": 2, "save_every": 4}


def plain_llama(output: Path) -> None:
    CASES["adapters"].train(tiny_model("llama"), output, **IN_PARTS)


def sizes_of_llama() -> tuple[dict[str, int], dict[str, int]]:
    """The frozen weights of `plain_llama`, and those of its gated blocks."""
    model = tiny_model("llama")
    parts = model.language_model.model, model.fusion.layers
    return tuple({name: weight.numel() for name, weight in part.named_parameters()} for part in parts)


def sharded(output: Path) -> None:
    """The weights and moments are in parts, and the frozen ones have moved by nothing."""
    model, made = tiny_model("llama"), []
    before = {name: weight.clone() for name, weight in model.language_model.model.named_parameters()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "make_optimizers", lambda *given: made.extend(make_optimizers(*given)) or made)
        CASES["adapters"].train(model, output, **IN_PARTS, shard=True)
    host = model.language_model.model
    host.reshard()  # the last evaluation has no backward pass, after which what is outside of blocks is given up
    frozen, trained = dict(host.named_parameters()), dict(model.fusion.layers.named_parameters())
    assert all(torch.equal(weight.full_tensor(), before[name]) for name, weight in frozen.items())
    kept = {
        "frozen": {name: weight.to_local().numel() for name, weight in frozen.items()},
        "trained": {name: weight.to_local().numel() for name, weight in trained.items()},
    }
    for moment in ("exp_avg", "exp_avg_sq"):
        state = {name: made[0].state[weight][moment] for name, weight in trained.items()}
        kept[moment] = {name: value.to_local().numel() for name, value in state.items()}
    (output / f"kept-{os.environ['RANK']}.json").write_text(json.dumps(kept))
    sharded_resumed(output)  # it is at its end, and is saved again


def sharded_resumed(output: Path) -> None:
    """Goes on from a checkpoint that is there already."""
    CASES["adapters"].train(tiny_model("llama"), output, **IN_PARTS, shard=True)


def texts_alone(output: Path, **settings: Any) -> None:
    """Steps of two examples, of which both have media, one has, or none has, and one example cannot be used.

    Losses of long answers are computed in parts.
    """
    texts = [Record(f"t{i}", document=(f"number {i}, and nothing to see or to hear",)) for i in range(6)]
    seen = [Record(f"p{i}", png("red", dot=i), captions=("red",)) for i in range(3)]
    heard = [Record(f"s{i}", None, sound=wav(i), transcript="a longer text") for i in range(3)]
    bad = Record("bad", b"no picture", captions=("red",))
    model = parts.build("gpt2", ears="latents")
    small = {**UNEVEN, "steps": 9, "batch_size": 2, "accumulation": 1, "sort_window": 1}
    small |= dict(features="ahead", bad_limit=1.0, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmlm.model.network.AT_ONCE", 8 * model.language_model.vocabulary.offset)
        CASES["adapters"].train(model, output, RecordSet((*seen, *texts, *heard, bad)), **small)


def texts_alone_sharded(output: Path) -> None:
    """In which steps this process had media."""
    given: list[bool] = []
    context = MultimodalLM.media_context

    def noted(model: MultimodalLM, batch: Any, media: Any) -> Any:
        if torch.is_grad_enabled():
            given.append(any(media))
        return context(model, batch, media)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MultimodalLM, "media_context", noted)
        texts_alone(output, shard=True)
    (output / f"given-{os.environ['RANK']}.json").write_text(json.dumps(given))


def prefix(output: Path, **settings: Any) -> None:
    """Prefix fusion and LoRA that reads: what trains lies outside of the units."""
    model = extended(parts.build("llama", visibility="prefix"), lora=LoraConfig(rank=2, alpha=4, reads=True))
    CASES["adapters"].train(model, output, **IN_PARTS, **settings)


def prefix_sharded(output: Path) -> None:
    prefix(output, shard=True)


def muon_of_parts(output: Path) -> None:
    """Muon over matrices of which each process has some rows, or none, does what it does to whole ones."""
    mesh = init_device_mesh("cpu", (int(os.environ["WORLD_SIZE"]),))
    draw, config = torch.Generator().manual_seed(0), TrainerConfig(optimizer="muon", learning_rate=0.1)
    for shape in ((7, 5), (1, 6)):
        whole = Parameter(torch.randn(shape, generator=draw))
        inside = Parameter(distribute_tensor(whole.detach().clone(), mesh, [Shard(0)]))
        (plain,), (of_parts,) = (make_optimizers({"w": weight}, {weight}, config) for weight in (whole, inside))
        for _ in range(3):
            whole.grad = torch.randn(shape, generator=draw)
            inside.grad = distribute_tensor(whole.grad.clone(), mesh, [Shard(0)])
            plain.step()
            of_parts.step()
        assert torch.equal(inside.full_tensor(), whole)
        assert of_parts.state[inside]["momentum_buffer"].to_local().shape == inside.to_local().shape


def refused(output: Path) -> None:
    """What every process is told."""
    told = []
    for work in (
        lambda: CASES["codec"].train(CASES["codec"].build(), output / "codec", picture_folder(output.parent)),
        lambda: CASES["adapters"].train(tiny_model(), output / "few", **{**UNEVEN, "batch_size": 1, "accumulation": 1}),
    ):
        try:
            work()
        except ValueError as error:
            told.append(str(error))
    output.mkdir(exist_ok=True)
    (output / f"told-{os.environ['RANK']}.json").write_text(json.dumps(told))


def work(folder: str, *names: str) -> None:
    torch.set_num_threads(1)
    for name in names:
        globals()[name](Path(folder, name))


def launch(processes: str, restarts: str, folder: str, names: str) -> None:
    """What `torchrun --standalone --nproc-per-node PROCESSES --max-restarts RESTARTS` does with a function."""
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=int(processes), max_restarts=int(restarts), start_method="fork",
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id=Path(folder).name,
    )  # fmt: skip
    elastic_launch(config, work)(folder, *names.split(","))


def main() -> None:
    if sys.argv[1] == "launch":
        for one in sys.argv[2:]:
            launch(*one.split(":"))
    else:
        work(*sys.argv[1:])


if __name__ == "__main__":
    main()
