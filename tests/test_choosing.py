"""Which kernel computes a layer: chosen by time, kept on disk, told; and torch without its private names."""

import copy
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmlm.acceleration import choosing, hardware, operators
from mmlm.acceleration.copies import use_packed
from mmlm.acceleration.kernels import FP16, HALF, INT4, INT8, ONEDNN, TORCH, TWO_HALVES, WIDER, Kernel
from mmlm.acceleration.packing import choose_kernels, pack_layers
from mmlm.acceleration.tape import Tape
from support import kernels, parts

ROOT = Path(__file__).parents[1]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Relative error of a product's norm: rounding to float32, to 16 bits on the way in and out, or to fewer bits.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
QUANTISED = {"fp16": 2**-11, "int8": 0.02, "int4": 0.15}


@pytest.fixture(autouse=True)
def own_memory(monkeypatch, tmp_path):
    """Nothing is known, and what is chosen is kept in the test's own folder."""
    monkeypatch.setattr(choosing, "_known", {})
    monkeypatch.setattr(choosing, "_declined", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def stored() -> dict[str, str]:
    return json.loads(choosing._file().read_text())["choices"]


def timed(monkeypatch: pytest.MonkeyPatch, *tables: dict[str, float]) -> list[list[str]]:
    """Kernels take the seconds of each table in turn, others 9; the names that were timed."""
    asked, given = [], list(tables)

    def seconds(runs: dict[str, Any]) -> dict[str, float]:
        asked.append(list(runs))
        table = given.pop(0) if len(given) > 1 else given[0]
        return {name: table.get(name, 9.0) for name in runs}

    monkeypatch.setattr(choosing, "_seconds", seconds)
    return asked


def choose(weights: Any = "exact", rows: int = 1) -> str:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    return choosing.choose([(weight, None)], weights, torch.float32, rows)


# By time


@pytest.mark.parametrize(
    "tables, chosen",
    [
        ([{"torch": 1.0, "onednn": 0.5, "two halves": 0.7}], "onednn"),
        ([{"torch": 1.0, "onednn": 0.7, "two halves": 0.5}], "two halves"),
        ([{"torch": 1.0, "onednn": 0.97}], "torch"),  # not clearly faster
        ([{"torch": 1.0, "onednn": 0.5, "two halves": 0.49}], "onednn"),  # not clearly faster than the earlier one
        (
            [{"torch": 1.0, "onednn": 0.5, "two halves": 0.4}, {"torch": 1.0, "onednn": 0.5, "two halves": 0.5}],
            "onednn",
        ),
        ([{"torch": 1.0, "onednn": 0.5}, {"torch": 0.5, "onednn": 0.5}], "torch"),  # not twice
    ],
)
def test_the_fastest_is_chosen_if_it_is_clearly_faster_twice(monkeypatch, tables, chosen):
    timed(monkeypatch, *tables)
    assert choose() == chosen


@pytest.mark.parametrize("weights", ["fp16", "int8", "int4"])
def test_quantised_weights_give_way_to_the_layers_own_forward(monkeypatch, weights):
    timed(monkeypatch, {"torch": 1.0, weights: 1.04})
    assert choose(weights=weights, rows=1) == weights
    monkeypatch.setattr(choosing, "_known", {})
    timed(monkeypatch, {"torch": 1.0, weights: 1.1})
    assert choose(weights=weights, rows=1) == "torch"


def test_each_number_of_inputs_has_a_choice_of_its_own(monkeypatch):
    packed = {"torch": 1.0, "onednn": 0.5}
    timed(monkeypatch, packed, packed, {"onednn": 1.0, "torch": 0.5})
    assert choose(rows=1) == "onednn" and choose(rows=4) == "torch"
    assert [choosing.rows_of(count) for count in (1, 2, 4, 5, 16, 17, 256, 3000)] == [1, 4, 4, 16, 16, 256, 256, 256]


def test_the_least_time_of_each_call_counts(monkeypatch):
    """Other programs only add to a time: a slow call among others does not make a kernel slow."""
    clock = [0.0]
    monkeypatch.setattr(choosing.time, "perf_counter", lambda: clock[0])
    delays = iter([30.0, 1.0, 30.0])

    def lasts(seconds: Callable[[], float]) -> Callable[[], Any]:
        return lambda: clock.append(clock.pop() + seconds())

    runs = {"sometimes": [lasts(lambda: next(delays, 30.0))], "always": [lasts(lambda: 2.0), lasts(lambda: 3.0)]}
    assert choosing._seconds(runs) == {"sometimes": 1.0, "always": 5.0}


def test_a_layer_is_timed_with_no_more_than_it_needs(monkeypatch):
    """Of a large layer some rows, of many layers some; all rows of a small one."""
    made = []
    probe = Kernel("probe", lambda rows: True, lambda rows: made.append(tuple(rows.shape)) or TORCH.make(rows))
    monkeypatch.setattr(choosing, "kernels", lambda *args: [TORCH, probe])
    timed(monkeypatch, {})
    large = nn.Parameter(torch.zeros(1, 8192)).expand(8192, 8192)
    choosing.choose([(large, None)], "exact", torch.float32, 1)
    assert made == [(512, 8192)]
    made.clear()
    choosing.choose([(torch.zeros(20, 48), None)] * 3, "exact", torch.float32, 1)
    assert made == [(20, 48)] * 3


# What fails


def failing(error: Exception) -> Kernel:
    def make(rows: Tensor) -> Callable:
        raise error

    return Kernel("failing", lambda rows: True, make)


def test_a_kernel_that_fails_is_declined_and_told(monkeypatch):
    bad = failing(RuntimeError("could not create a primitive\nat such a place"))
    monkeypatch.setattr(choosing, "kernels", lambda *args: [TORCH, bad])
    assert choose() == "torch"
    assert choosing.declined() == {"failing for 32x64 float32": "could not create a primitive"}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory"),
        KeyError("a mistake"),
    ],
)
def test_memory_that_ends_and_mistakes_come_out(monkeypatch, error):
    monkeypatch.setattr(choosing, "kernels", lambda *args: [TORCH, failing(error)])
    with pytest.raises(type(error)):
        choose()


def test_memory_that_ends_while_steps_are_tried_comes_out(monkeypatch):
    model = parts.build("llama")
    calls = []

    def ends(module: nn.Module, args: tuple) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes")

    model.language_model.blocks[0].register_forward_pre_hook(ends)
    with pytest.raises(RuntimeError, match="can't allocate"):
        model.pack()


def test_an_error_of_plain_passes_comes_out():
    model = parts.build("llama")

    def fails(module: nn.Module, args: tuple) -> None:
        raise ValueError("this model is broken")

    model.language_model.blocks[0].register_forward_pre_hook(fails)
    with pytest.raises(ValueError, match="this model is broken"):
        model.pack()


# On disk


def test_a_later_process_takes_what_was_chosen(monkeypatch):
    asked = timed(monkeypatch, {"torch": 1.0, "onednn": 0.5})
    layer = nn.Linear(64, 32)
    pack_layers(layer)
    first = choose_kernels(layer)
    assert asked and set(stored().values()) == {"onednn"}
    asked.clear()
    monkeypatch.setattr(choosing, "_known", {})  # as a new process has it
    timed_later = timed(monkeypatch, {"onednn": 1.0, "torch": 0.5})
    assert choose_kernels(layer) == first and not timed_later


def test_a_choice_that_another_process_kept_first_stays(monkeypatch):
    timed(monkeypatch, {"torch": 1.0, "onednn": 0.5})
    choose()
    choosing.save()
    key = next(key for key in stored() if key.endswith("up to 1"))
    monkeypatch.setattr(choosing, "_known", {})
    file, kept = choosing._file(), choosing._file().read_text()
    file.unlink()
    timed(monkeypatch, {"torch": 1.0, "two halves": 0.5})
    assert choose() == "two halves"
    file.write_text(kept)
    choosing.save()
    assert stored()[key] == "onednn" == choose(), "both processes now compute alike"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"choices": 3}', '{"choices": {"a": 1}}', "\0"])
def test_a_file_that_cannot_be_read_is_done_without(monkeypatch, text):
    timed(monkeypatch, {"torch": 1.0, "onednn": 0.5})
    choosing._file().parent.mkdir(parents=True)
    choosing._file().write_text(text)
    assert choose() == "onednn"
    choosing.save()
    assert set(stored().values()) == {"onednn"}


def test_a_name_that_is_no_kernel_is_chosen_anew(monkeypatch):
    timed(monkeypatch, {"torch": 1.0, "onednn": 0.5})
    choose()
    choosing.save()
    file = choosing._file()
    file.write_text(file.read_text().replace('"onednn"', '"a kernel of old"'))
    monkeypatch.setattr(choosing, "_known", {})
    assert choose() == "onednn"


def test_a_folder_that_cannot_be_written_is_done_without(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    timed(monkeypatch, {"torch": 1.0, "onednn": 0.5})
    assert choose() == "onednn"
    with caplog.at_level(logging.INFO):
        choosing.save()
    assert "not kept" in caplog.text


def test_processors_threads_and_versions_have_files_of_their_own(monkeypatch):
    for name in ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    files, threads = {choosing._file()}, torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        files.add(choosing._file())
    finally:
        torch.set_num_threads(threads)
    for name, value in (("ONEDNN_MAX_CPU_ISA", "AVX2"), ("ATEN_CPU_CAPABILITY", "default")):
        monkeypatch.setenv(name, value)
        files.add(choosing._file())
    monkeypatch.setattr(choosing, "_processor", lambda: "another")
    files.add(choosing._file())
    monkeypatch.setattr(torch, "__version__", "9.9")
    files.add(choosing._file())
    assert len(files) == 6


def test_a_step_that_is_recorded_does_not_record_the_choice():
    layer, x = nn.Linear(64, 32), torch.randn(1, 64)
    pack_layers(layer)
    with torch.no_grad(), use_packed():
        with Tape() as tape:
            y = layer(x)
        assert len(tape.calls) <= 4
        assert torch.equal(tape.repeat(y)(), layer(x))


# What is told


def test_pack_tells_what_it_chose_and_what_it_declined(monkeypatch, caplog):
    timed(monkeypatch, {"torch": 1.0, "onednn": 0.5})
    model = parts.build("llama")

    def sums(module: nn.Module, args: tuple) -> None:
        if args[0].sum() > 0:
            module.seen = True

    model.language_model.model.get_output_embeddings().register_forward_pre_hook(sums)
    with caplog.at_level(logging.INFO, "mmlm"):
        found = model.pack().language_model.acceleration
    assert "reads the values of a tensor" in found.declined["recorded steps"]
    layers = [module for module in model.language_model.modules() if isinstance(module, nn.Linear)]
    assert sum(one.layers for one in found.chosen) > len(layers)
    assert all(name == "onednn" for one in found.chosen for name in one.kernels.values())
    told = str(found)
    assert "steps are recorded: no" in told and "up to 1: onednn" in told and "reads the values" in told
    assert told in caplog.text


# Each kernel, by float64


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 4, 9, 40])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [TORCH, ONEDNN, HALF, TWO_HALVES, *WIDER], ids=lambda kernel: kernel.name)
def test_a_kernel_of_exact_weights_is_as_exact_as_the_dtype(kernel, dtype, rows, bias):
    layer, x = nn.Linear(96, 48, bias=bias).to(dtype), torch.randn(rows, 96).to(dtype)
    if kernel is HALF and dtype == torch.float32:
        layer.weight.copy_(layer.weight.half())
    if not kernel.fits(layer.weight.detach()):
        pytest.skip("does not fit, or is not in this torch")
    exact = nn.functional.linear(x.double(), layer.weight.double(), None if not bias else layer.bias.double())
    product = kernel.make(layer.weight.detach())
    inputs = [x] if dtype == torch.float32 else [x, x.float()]
    for given in inputs:
        found = product(given, None if not bias else layer.bias.to(given.dtype))
        assert found.dtype == given.dtype
        assert (found.double() - exact).norm() <= 2 * ROUNDING[dtype] * exact.norm()


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 4, 9, 40])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [FP16, INT8, INT4], ids=lambda kernel: kernel.name)
def test_a_kernel_of_quantised_weights_is_off_by_no_more_than_their_bits(kernel, dtype, rows):
    layer, x = nn.Linear(96, 48, bias=False).to(dtype), torch.randn(rows, 96).to(dtype)
    if not kernel.fits(layer.weight):
        pytest.skip("is not in this torch")
    exact = nn.functional.linear(x.double(), layer.weight.double())
    found = kernel.make(layer.weight)(x, None)
    assert (found.double() - exact).norm() <= (QUANTISED[kernel.name] + 2 * ROUNDING[dtype]) * exact.norm()


@torch.no_grad()
@pytest.mark.parametrize("name", ["torch", "onednn", "half", "two halves", "float32", "float32 onednn"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_whatever_is_chosen_logits_are_the_plain_ones(monkeypatch, tmp_path, name, dtype):
    kernels.choose_by(monkeypatch, tmp_path, kernels.only(name))
    model = parts.build("llama").to(dtype)
    exact = logits(copy.deepcopy(model).float())
    plain, packed = (float((logits(one) - exact).norm() / exact.norm()) for one in (model, model.pack()))
    assert packed <= max(2 * plain, 1e-5), "no farther from the weights' own than plain ones are"


@torch.no_grad()
def logits(model: Any) -> Tensor:
    run = parts.decoder(model, parts.prompts(), 20)
    found = [run.prefill()] + [run.step(torch.tensor([65 + step, 70, 75])) for step in range(4)]
    stacked = torch.stack(found)
    return stacked.where(stacked.isfinite(), 0)


# torch's private names


PRIVATE = re.compile(r"torch\.(ops\b|_(?!_)\w+|(?:cpu|backends|cuda|nn|utils|overrides)(?:\.\w+)*\._\w+)")


def names() -> list[str]:
    """Each private name that the package asks torch for: all of them by `operators.py`."""
    texts = [file.read_text() for file in (ROOT / "mmlm" / "acceleration").glob("*.py")]
    return sorted({name for text in texts for name in re.findall(r'"((?:mkldnn|quantized|aten)\.\w+|_is_\w+)"', text)})


def test_private_names_are_looked_up_in_one_place():
    files = [file for room in ("mmlm", "encoders", "decoders") for file in (ROOT / room).rglob("*.py")]
    found = {str(file.relative_to(ROOT)) for file in files if PRIVATE.search(file.read_text())}
    # TorchDispatchMode is documented ("Extending PyTorch"), though its module's name begins with an underscore.
    # torchscript.py has names as they stand in files, and asks torch for none of them.
    names_of_files = "encoders/clip_forms/torchscript.py"
    watching = {"mmlm/model/draws.py", "mmlm/training/resting.py"}
    assert found == {"mmlm/acceleration/operators.py", *watching, names_of_files}
    assert len(names()) >= 12


class Lacking:
    """torch.ops without some names."""

    def __init__(self, ops: Any, missing: set[str], prefix: str = ""):
        self.ops, self.missing, self.prefix = ops, missing, prefix

    def __getattr__(self, name: str) -> Any:
        full = f"{self.prefix}{name}"
        if full in self.missing:
            raise AttributeError(f"'_OpNamespace' object has no attribute '{name}'")
        found = getattr(self.ops, name)
        return found if self.prefix else Lacking(found, self.missing, f"{full}.")


@pytest.mark.parametrize("missing", [*([name] for name in names()), names()], ids=lambda names: "+".join(names)[:40])
def test_a_torch_without_a_private_name_computes_the_same(monkeypatch, missing):
    lacking = Lacking(torch.ops, set(missing))
    monkeypatch.setattr(operators, "torch", type("Torch", (), {"ops": lacking, "cpu": torch.cpu}))
    for name in missing:
        if name.startswith("_is_"):
            monkeypatch.delattr(torch.cpu, name)
    assert operators.operator(missing[0]) is None or "." not in missing[0]
    assert hardware.multiplies(torch.float32) and isinstance(hardware.multiplies(torch.bfloat16), bool)
    for weights, bound in (("exact", 1e-5), ("fp16", 1e-2), ("int8", 0.1), ("int4", 0.5)):
        layer, x = nn.Linear(64, 32), torch.randn(3, 64)
        plain = layer(x).detach()
        pack_layers(layer, weights)
        choose_kernels(layer)
        with torch.no_grad(), use_packed():
            assert (layer(x) - plain).norm() <= bound * plain.norm()
