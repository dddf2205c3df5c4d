"""Recorded steps give what plain steps give, on a CPU as a tape, on a GPU as a graph."""

import functools
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from mmlm.acceleration.probes import why_not_recorded
from mmlm.acceleration.recorded_step import RecordedStep, RecordedSteps, can_record
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.generation.decoder import Decoder
from mmlm.model.config import FusionConfig
from mmlm.model.fusion.cross_attention import CrossAttention
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.code_layout import CodeLayout
from mmlm.prompting.processor import Batch
from support import families, parts

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture
def fixed_shapes(monkeypatch):
    """All steps are captured, where the cache allows it."""
    init = Decoder.__init__

    def captures(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.record = RecordedSteps if can_record(self.cache, self.mask) else None

    return lambda: monkeypatch.setattr(Decoder, "__init__", captures)


def agree(model: MultimodalLM) -> bool:
    context = lambda: model.fusion.context(1)  # noqa: E731
    return why_not_recorded(model.language_model, context, tolerance=1e-3) is None


@torch.no_grad()
def step_logits(model: MultimodalLM, captures: bool, steps: int = 5) -> Tensor:
    run = parts.decoder(model, parts.prompts(), steps)
    run.record = RecordedSteps if captures and can_record(run.cache, run.mask) else None
    run.prefill()
    return torch.stack([run.step(torch.tensor([65, 70 + place, 75], device=model.device)) for place in range(steps)])


@pytest.mark.parametrize("family", families.FAMILIES)
def test_steps_of_fixed_shapes_give_the_same_logits(family):
    """Padded rows, two pictures, one, and none."""
    model = parts.shared(family)
    agreed = family not in ("gemma2", "gemma3", "lfm2", "gpt_neo_local")  # short windows, known to the cache or not
    assert agree(model) == agreed
    torch.testing.assert_close(step_logits(model, agreed), step_logits(model, False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "mpt", "bloom", "qwen3"])
@pytest.mark.parametrize("visibility", ["latest", "all"])
@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 3, "num_return_sequences": 2, "top_k": 20}]
)
def test_texts_are_the_same(family, visibility, options, fixed_shapes):
    model = parts.build(family, visibility=visibility)
    expected = parts.token_ids(model, parts.prompts(), max_new_tokens=12, **options)
    fixed_shapes()
    assert parts.token_ids(model, parts.prompts(), max_new_tokens=12, **options) == expected


@torch.no_grad()
def logits_of_codes(device: str, captures: bool) -> Tensor:
    """Two rows write codes, one of them from a picture's beginning in the prompt on, the other from a later one."""
    torch.manual_seed(0)
    layout = CodeLayout("image", 8, 1, (3, 3))
    host = LanguageModel(families.language_model("llama"), families.tokenizer(), layouts=(layout,)).to(device)
    span = host.vocabulary.spans["image"]
    ids = torch.tensor([[5, 6, span.begin], [7, 8, 9]], device=device)
    for adapter in host.lora.parameters():
        torch.nn.init.normal_(adapter, std=0.1)
    context = (
        CrossAttention(FusionConfig(), host.hidden_size, len(host.blocks), 16, host.vocabulary).to(device).context(2)
    )
    run = Decoder(host, context, Batch(ids, torch.ones_like(ids)), 16, codes=True)
    run.record = RecordedSteps if captures else None
    codes = span.ids_of(0)
    run.prefill()
    steps = [[codes[place % 8], [10, 11, span.begin, *codes][place]] for place in range(9)]
    logits, places = [], set()
    for step in steps:
        logits.append(run.step(torch.tensor(step, device=device)))
        places.add(run.codes._since.data_ptr())
    assert len(places) == 1, "what a graph has recorded must stay where it is"
    return torch.stack(logits)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_codes_know_their_places(device):
    torch.testing.assert_close(logits_of_codes(device, True), logits_of_codes(device, False), rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 2])
def test_a_long_text_is_captured_in_stages(beams):
    """Beyond what was captured, steps are captured anew; all give what a plain decoder gives."""
    model, logits = parts.shared("llama"), []
    for captures in (False, True):
        run = parts.decoder(model, parts.prompts()[:1], 40)
        run.record = functools.partial(RecordedSteps, room=4) if captures else None
        run.prefill()
        run.repeat(beams)
        ends = []
        for place in range(36):
            logits.append(run.step(torch.arange(beams) + 60 + place))
            run.reorder(torch.arange(beams).flip(0))
            ends.append(run.recorded and run.recorded.stage.end)
    torch.testing.assert_close(torch.stack(logits[36:]), torch.stack(logits[:36]), rtol=1e-4, atol=1e-5)
    assert len(set(ends)) > 1 and ends == sorted(ends), ends


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "mpt", "falcon"])
def test_nothing_moves_and_nothing_grows(family):
    """What a graph has recorded are addresses: they stay, and so do the shapes that a block sees."""
    model = parts.shared(family)
    run = parts.decoder(model, parts.prompts(), 6)
    run.record = RecordedSteps if can_record(run.cache, run.mask) else None
    run.prefill()
    seen = []
    for place in range(5):
        run.step(torch.tensor([65, 70 + place, 75]))
        step, layers = run.recorded.stage, run.cache.layers
        buffers = [step.ids, step.mask, step.positions, step.place]
        buffers += [buffer for layer in layers for buffer in (layer.keys, layer.values)]
        seen.append([(buffer.data_ptr(), buffer.shape) for buffer in buffers])
    assert all(one == seen[0] for one in seen)
    assert layers[0].keys.shape[2] == layers[0].capacity == run.ids.shape[1]
    held = weakref.ref(layers[0])
    gc.disable()
    try:
        del run, step, layers, buffers
        assert held() is None, "a text's keys and values go with it"
    finally:
        gc.enable()


@pytest.mark.parametrize("family, settles", [("mistral", True), ("gemma2", False), ("lfm2", False)])
def test_a_window_that_is_too_short_and_convolutions_stay_plain(family, settles):
    """Mistral's window is 4096 tokens, gemma2's is 8 here, and lfm2 has convolutions."""
    run = parts.decoder(parts.shared(family), parts.prompts(), 4)
    assert can_record(run.cache, run.mask) == settles


def test_a_family_that_counts_its_cache_is_not_captured():
    """Positions from the length of the cache would be those of its end."""
    model = parts.build("llama")
    inner = model.language_model.model.model

    def counted(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        length = kwargs["past_key_values"].get_seq_length()
        new = kwargs["input_ids"].shape[1]
        return args, kwargs | {"position_ids": torch.arange(length, length + new).unsqueeze(0)}

    assert agree(model)
    inner.register_forward_pre_hook(counted, with_kwargs=True)
    assert not agree(model)


def test_a_family_whose_steps_fail_to_be_captured_is_not(monkeypatch):
    model = parts.build("llama")

    def refuse(self: RecordedStep, *args: Tensor) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(RecordedStep, "__call__", refuse)
    assert not agree(model)


def test_a_family_that_goes_by_values_is_not_captured():
    model = parts.build("llama")

    def sums(module: nn.Module, args: tuple) -> None:
        if args[0].sum() > 0:
            module.seen = True

    model.language_model.model.get_output_embeddings().register_forward_pre_hook(sums)
    expected = parts.texts(model, ["x"], max_new_tokens=24)
    assert model.pack().language_model.acceleration.records_on is None
    assert parts.texts(model, ["x"], max_new_tokens=24) == expected


def test_pack_captures_and_unpack_does_not():
    model = parts.build("llama").pack()
    assert model.language_model.acceleration.records_on == "cpu"

    def records(max_new_tokens: int) -> bool:
        run = parts.decoder(model, parts.prompts(), max_new_tokens)
        run.prefill()
        run.step(torch.tensor([65, 70, 75]))
        return run.recorded is not None

    assert records(20) and not records(4), "4 tokens are too few to be worth it"
    model.unpack()
    assert not records(20)


@torch.no_grad()
def test_a_repeated_step_runs_none_of_the_language_model_s_python():
    model = parts.build("llama").pack()
    run, calls = parts.decoder(model, parts.prompts(), 20), []
    model.language_model.blocks[0].register_forward_pre_hook(lambda module, args: calls.append(1))
    run.prefill()
    for place in range(6):
        run.step(torch.tensor([65, 70 + place, 75]))
    assert len(calls) == 3, "the prompt, the first step, and the second, which is recorded"


@ON_GPU
@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_graph_gives_the_same_logits(family):
    model = parts.build(family).to("cuda")
    plain = step_logits(model, False, 12)
    captured = model.pack().language_model.acceleration.records_on is not None
    torch.testing.assert_close(step_logits(model, captured, 12), plain, rtol=1e-3, atol=1e-4)


@ON_GPU
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "mpt", "bloom", "qwen3"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 3, "num_return_sequences": 2}])
def test_on_a_gpu_texts_are_the_same(family, options):
    model = parts.build(family).to("cuda")
    expected = parts.texts(model, parts.prompts(), max_new_tokens=24, **options)
    assert model.pack().language_model.acceleration.records_on == "cuda"
    assert parts.texts(model, parts.prompts(), max_new_tokens=24, **options) == expected
    assert parts.texts(model.unpack(), parts.prompts(), max_new_tokens=24, **options) == expected


@ON_GPU
def test_a_capture_that_fails_leaves_the_gpu_as_it_was():
    model = parts.build("llama").to("cuda")
    stream = torch.cuda.current_stream()

    def sums(module: nn.Module, args: tuple) -> None:
        args[0].sum().item()

    model.language_model.blocks[0].register_forward_pre_hook(sums)
    expected = parts.texts(model, ["x"], max_new_tokens=24)
    assert model.pack().language_model.acceleration.records_on is None
    assert torch.cuda.current_stream() == stream
    assert parts.texts(model, ["x"], max_new_tokens=24) == expected


@ON_GPU
def test_rounded_weights_are_for_a_cpu():
    with pytest.raises(ValueError, match="for a CPU"):
        parts.build("gpt2").to("cuda").pack("int8")
