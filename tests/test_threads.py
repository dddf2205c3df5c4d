"""Many threads on one model: each gets what it gets alone, whatever the others do to the model meanwhile."""

import functools
import itertools
import re
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import mmlm
from mmlm.generation.nonfinite import watching
from mmlm.generation.options import GenerationOptions
from mmlm.model.changes import Changes, ModelChangedError
from mmlm.serving.engine import Engine
from mmlm.serving.options import EngineOptions
from mmlm.training import LossObjective, Trainer, TrainerConfig
from support import parts
from test_benchmarks import load

ROOT = Path(__file__).parents[1]
LONG = 40  # tokens: enough for steps to be recorded


@functools.cache
def nano() -> mmlm.MultimodalLM:
    return mmlm.load("nano")


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # whisper's beams
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_every_verb_gives_in_threads_what_it_gives_alone(packed):
    """Bit for bit, packed in two rounds, and without a draw from the global generators."""
    soak = load("soak_threads")
    model = nano().pack() if packed else nano().unpack()
    jobs = soak.jobs_of(model)
    expected = {verb: job() for verb, job in jobs.items()}
    state = soak.global_state()
    for turn in range(1 + packed):
        verbs = [*list(jobs)[7 * turn :], *list(jobs)[: 7 * turn]]
        assert dict(zip(verbs, soak.at_once([jobs[verb] for verb in verbs]), strict=True)) == expected
    assert soak.global_state() == state


def written(model: mmlm.MultimodalLM, seed: int = 0) -> str:
    return parts.texts(model, [parts.picture(seed), f"{seed} Output:"], max_new_tokens=LONG)


def test_texts_are_right_or_refused_while_the_model_changes(tmp_path):
    model = parts.build("llama")
    changes = [
        model.pack, lambda: model.save(tmp_path), model.unpack, lambda: model.pack("int8"), model.unpack,
        model.double, model.float, lambda: model.load_state_dict(model.state_dict()),
    ]  # fmt: skip
    right: dict[int, set[str]] = {seed: set() for seed in range(4)}
    for change in changes:
        change()
        for seed, texts in right.items():
            texts.add(written(model, seed))
    ended, refused, wrong = threading.Event(), [], []

    def work(seed: int) -> None:
        while not ended.is_set():
            try:
                text = written(model, seed)
            except ModelChangedError as error:
                refused.append(str(error))
            except BaseException as error:
                wrong.append(error)
            else:
                wrong.extend({text} - right[seed])

    with ThreadPoolExecutor(4) as pool:
        for seed in right:
            pool.submit(work, seed)
        for _ in range(2):
            for change in changes:
                change()
        ended.set()
    assert wrong == [] and refused
    assert all(written(model, seed) in texts for seed, texts in right.items())


def test_a_change_waits_for_the_passes_that_run():
    """A kernel never reads memory that another thread frees."""
    model = parts.build("llama")
    inside, go = threading.Event(), threading.Event()

    def wait(module: torch.nn.Module, args: tuple, output: object) -> None:
        inside.set()
        go.wait()

    hook = model.language_model.blocks[0].register_forward_hook(wait)
    with ThreadPoolExecutor(2) as pool:
        text = pool.submit(written, model)
        inside.wait()
        cast = pool.submit(model.half)
        while model.changes._changing is None:
            pass
        kept = model.language_model.dtype, cast.done()
        hook.remove()
        go.set()
        cast.result()
        with pytest.raises(ModelChangedError, match="moved or cast while a text was being written"):
            text.result()
    assert kept == (torch.float32, False) and model.language_model.dtype == torch.float16


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [
        (lambda model: model.to("cpu"), True),
        (lambda model: model.pack(), True),
        (lambda model: model.pack("int8"), False),
        (lambda model: model.double(), False),
        (lambda model: model.load_state_dict(model.state_dict()), False),
    ],
    ids=["moved to where it is", "packed", "quantised", "cast", "loaded"],
)
def test_a_stream_goes_on_where_results_stay(change, goes_on):
    model = parts.build("llama")
    prompt = [parts.picture(0), "0 Output:"]
    whole = parts.texts(model, prompt, max_new_tokens=LONG)
    running = model.stream(prompt, max_new_tokens=LONG)
    begun = next(running)
    change(model)
    if goes_on:
        assert begun + "".join(running) == whole
    else:
        with pytest.raises(ModelChangedError, match="begin the text again"):
            list(running)
        assert isinstance(written(model), str)


def test_a_stream_ends_where_the_model_is_trained(tmp_path):
    model = parts.build("llama")
    running = model.stream([parts.picture(0), "0 Output:"], max_new_tokens=LONG)
    next(running)
    objective = LossObjective(
        "rows", model, lambda step: model.language_model.added.embedding.square().sum(), lambda folder: folder, {}
    )
    Trainer(objective, TrainerConfig(steps=1), tmp_path, progress=False).fit()
    with pytest.raises(ModelChangedError, match="trained"):
        list(running)


def test_copies_change_by_themselves_and_extended_models_together():
    changes = Changes()
    with changes.changing("packed"):
        pass
    assert changes.count == 1 and Changes().count == 0
    model = parts.build("llama")
    assert model.changes is model.language_model.changes


@pytest.mark.parametrize("step", range(1, 6))
def test_an_interrupt_in_a_pass_leaves_the_model_as_it_was(step):
    """In the prompt's pass, in a plain step, in the one that is recorded, and in a later one."""
    model = parts.build("llama").pack()
    expected, passes = written(model), 0

    def interrupt(module: torch.nn.Module, args: tuple, output: object) -> None:
        nonlocal passes
        passes += 1
        if passes == step:
            raise KeyboardInterrupt

    hook = model.language_model.blocks[1].register_forward_hook(interrupt)
    try:
        written(model)
    except KeyboardInterrupt:
        assert passes == step
    else:
        assert passes < step, "replayed steps run no hooks"
    hook.remove()
    assert written(model) == expected
    with ThreadPoolExecutor(1) as other:  # nobody waits for the pass that was interrupted
        other.submit(model.pack).result()
    assert written(model) == expected


def test_an_interrupt_where_turns_are_taken_leaves_them_to_other_threads():
    """At the beginning and at the end of every function of the condition that passes and changes wait for."""
    changes = Changes()

    def use() -> None:
        with changes.passing():
            pass
        with changes.changing("packed"):
            pass

    assert interrupted_at_every_moment(use) > 4


def test_an_interrupt_where_an_engine_is_asked_leaves_it_to_others():
    engine = Engine(parts.shared("llama"), EngineOptions(max_waiting=10_000))
    tickets = []

    def use() -> None:
        tickets.append(engine.submit(["a"], GenerationOptions(max_new_tokens=1)))

    interrupted_at_every_moment(use)
    assert tickets[-1].results(60)[0].text is not None
    engine.close()


def interrupted_at_every_moment(use) -> int:
    """How often `use` was interrupted, at each call and return of threading's functions in turn; after each interrupt
    another thread does the same, and is not kept from it.
    """
    for moment in itertools.count():
        left = moment

        def interrupt(frame, event, _):
            nonlocal left
            if frame.f_code.co_filename != threading.__file__ or event not in ("call", "return"):
                return interrupt
            left -= 1
            if left == -1:
                raise KeyboardInterrupt
            return interrupt

        sys.settrace(interrupt)
        try:
            use()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        other = threading.Thread(target=use, daemon=True)
        other.start()
        other.join(20)
        assert not other.is_alive(), f"interrupted at {moment}"
        if left >= 0:
            return moment
    raise AssertionError("the count has no end")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_interrupts_at_any_moment_leave_the_model_as_it_was():
    model = parts.build("llama").pack()
    expected = written(model)
    draw = torch.Generator().manual_seed(0)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(16):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.001 + 0.06 * float(torch.rand(1, generator=draw)))
                while True:
                    written(model)
            except KeyboardInterrupt:
                pass
            assert written(model) == expected
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        torch.set_grad_enabled(True)  # torch.no_grad may be interrupted before it has put this back
    with ThreadPoolExecutor(1) as other:
        other.submit(model.pack).result()
    assert written(model) == expected


def test_who_looks_for_nan_does_not_look_at_other_threads():
    """Looking reads values, which a step that is being recorded must not do."""
    model = parts.build("llama").pack()
    expected = written(model)
    with watching(model, torch.float32) as found, ThreadPoolExecutor(1) as other:
        assert other.submit(written, model).result() == expected
    assert found.name is None


def test_one_place_touches_the_global_generators():
    touching = re.compile(
        r"manual_seed_all|torch\.(cuda\.)?manual_seed|default_generator|fork_rng|np\.random\.(seed|rand)"
    )
    found = {
        str(path.relative_to(ROOT))
        for package in ("mmlm", "encoders", "decoders")
        for path in (ROOT / package).rglob("*.py")
        if touching.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"mmlm/model/draws.py"}


def test_what_is_typed_in_one_thread_and_markup_in_another_stay_apart():
    processor, mark = parts.build("llama").processor, "<|endoftext|>"
    ways = [processor.text_ids, processor.markup_ids]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(ways[at % 2], mark) for at in range(4000)]
            found = [one.result() for one in asked]
    finally:
        sys.setswitchinterval(interval)
    assert all(ids == [256] for ids in found[1::2])
    assert all(len(ids) == len(mark) and 256 not in ids for ids in found[::2])
