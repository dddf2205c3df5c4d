"""Values that are no numbers: an error that names the first layer and its precision, wherever they begin."""

import math

import pytest
import torch

from mmlm.generation.nonfinite import NonFiniteLogitsError, watching
from support import parts

WAYS = [{}, {"do_sample": True, "seed": 0}, {"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}]
BREAKS = [
    "language_model.model.model.embed_tokens",
    "language_model.model.model.layers.1.mlp.up_proj",
    "language_model.model.model.layers.2.self_attn.o_proj",
    "language_model.model.lm_head",
    "fusion.layers.1.attn.to_out",
    "resamplers.image.norm",
    "encoders.image.model.visual.conv1",
]


def failing(model, **options) -> NonFiniteLogitsError:
    with pytest.raises(NonFiniteLogitsError) as error:
        model.generate([parts.picture(1), "Output:"], max_new_tokens=4, **options)
    return error.value


@pytest.mark.parametrize("layer", BREAKS)
def test_the_layer_with_broken_weights_is_named(layer):
    model = parts.build("llama")
    with torch.no_grad():
        model.get_submodule(layer).weight[..., 0] = math.nan
    error = failing(model)
    assert error.layer == layer and error.precision == torch.float32 and error.step == 1
    assert f"began in {layer}, which computes in float32" in str(error)


@pytest.mark.parametrize("options", WAYS)
def test_it_is_found_in_every_way_of_writing(options):
    model = parts.build("llama")
    with torch.no_grad():
        model.get_submodule(BREAKS[1]).weight[0, 0] = math.inf
    assert failing(model, **options).layer == BREAKS[1]


def test_streams_and_packed_models_name_it_too():
    model = parts.build("llama")
    with torch.no_grad():
        model.get_submodule(BREAKS[1]).weight[0, 0] = math.nan
    with pytest.raises(NonFiniteLogitsError, match=r"layers\.1\.mlp"):
        list(model.stream([parts.picture(1), "Output:"], max_new_tokens=4))
    model.pack()
    assert failing(model).layer.startswith("language_model.model.model.layers.1.mlp")


def test_an_overflow_between_two_layers_is_of_the_module_around_them():
    """Finite weights; the product of two finite tensors is past 65504."""
    model = parts.build("llama")
    mlp = model.language_model.model.model.layers[1].mlp
    with torch.no_grad():
        mlp.up_proj.weight.mul_(3e3)
        mlp.gate_proj.weight.mul_(3e3)
    model.to(torch.float16)
    error = failing(model)
    assert error.layer == "language_model.model.model.layers.1.mlp" and error.precision == torch.float16
    assert "float16" in str(error)


def test_a_text_that_breaks_late_is_computed_again_with_all_that_was_written():
    """The rows of the embedding that the prompt does not use are broken: the first token written fails."""
    model = parts.build("llama")
    prompt = model.processor.encode([parts.picture(1), "Output:"]).input_ids
    with torch.no_grad():
        weight = model.language_model.model.get_input_embeddings().weight
        weight[[row for row in range(len(weight)) if row not in prompt]] = math.nan
        head = model.language_model.model.get_output_embeddings().weight
        head[200] = head.abs().max() * 50 * torch.sign(torch.randn(head.shape[1]))
    written = parts.token_ids(model, [[parts.picture(1), "Output:"]], max_new_tokens=1)[0][0]
    if written in prompt:
        pytest.skip("the token written is one of the prompt's")
    error = failing(model)
    assert error.step == 2 and error.layer == "language_model.model.model.embed_tokens"


def test_nothing_stays_behind_and_good_values_are_not_accused():
    model = parts.build("llama")
    before = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    with watching(model, torch.float32) as found:
        model.generate(["text"], max_new_tokens=2)
    assert found.name is None
    assert before == sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
