"""Gradient checkpointing of the frozen language model: the same gradients to the last bit, fewer bytes kept."""

import pytest
import torch
from torch import nn

from mmlm.assembly import Codecs, extended
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.config import LoraConfig
from mmlm.prompting.parts import Codes
from mmlm.training.gradient import Gradient
from mmlm.training.objectives.base import Part
from support import families, parts
from support.codec_parts import image_codec


def writing(family: str) -> MultimodalLM:
    """A model that reads and draws pictures, with open gates and low-rank adapters that act."""
    model = extended(parts.build(family), Codecs(image=image_codec()), lora=LoraConfig(rank=2), seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.added_parameters():
            if name.startswith("language_model.lora."):
                tensor.normal_(std=0.3, generator=draw)
    model.train()
    return model


def kept_and_gradients(model: MultimodalLM) -> tuple[int, dict[str, torch.Tensor], int]:
    """Bytes kept for backward, all gradients, and how many times the first frozen block began."""
    model.zero_grad()
    kept, runs = {}, []
    first = next(m for m in model.language_model.blocks[0].modules() if isinstance(m, nn.Linear | nn.LayerNorm))
    hook = first.register_forward_pre_hook(lambda *_: runs.append(1))

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            codes = Codes("image", torch.zeros(1, 2, 2).long())
            loss = model.log_probs([[parts.picture(0), "Draw this, and no more than this:"]], [codes])[0].sum()
        loss.backward()
    finally:
        hook.remove()
    gradients = {name: tensor.grad.clone() for name, tensor in model.added_parameters() if tensor.grad is not None}
    return sum(kept.values()), gradients, len(runs)


@pytest.mark.parametrize("family", list(families.FAMILIES))
def test_checkpointing_changes_no_gradient_and_keeps_less(family):
    model = writing(family)
    kept, gradients, runs = kept_and_gradients(model)
    assert runs == 1 and any(name.startswith("language_model.lora.") for name in gradients)
    parts.checkpointing(model)
    less, same, runs = kept_and_gradients(model)
    assert runs == 2
    assert less < kept
    assert gradients.keys() == same.keys()
    for name in gradients:
        assert torch.equal(gradients[name], same[name]), name
    parts.checkpointing(model, "disable")
    assert kept_and_gradients(model)[2] == 1, "and it is switched off again"


def test_a_model_with_checkpointing_generates_as_before():
    model = parts.build("llama")
    texts = parts.texts(model, parts.prompts()[0], max_new_tokens=8)
    parts.checkpointing(model)
    assert parts.texts(model, parts.prompts()[0], max_new_tokens=8) == texts


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_step_with_checkpointing_has_the_same_gradient(precision):
    """What runs again in backward, after the forward pass's precision has ended, computes as it did before."""
    model = parts.build("opt").train()
    trained = [tensor.requires_grad_() for _, tensor in model.added_parameters()]
    batch, media = parts.encoded(model, [[parts.picture(0), "What is this?"]])
    batch.labels = batch.input_ids.masked_fill(batch.input_ids >= model.language_model.vocabulary.offset, -100)

    def gradients() -> list[torch.Tensor]:
        part = Part(1, lambda: model(batch, media).loss)
        Gradient(trained, precision, torch.device("cpu"), 1.0).of([part])
        found = [tensor.grad.clone() for tensor in trained if tensor.grad is not None]
        model.zero_grad()
        return found

    plain = gradients()
    parts.checkpointing(model)
    assert len(plain) > 10 and all(map(torch.equal, plain, gradients()))


@pytest.mark.parametrize("rows_train", [True, False])
def test_blocks_below_the_first_gated_block_have_a_graph_for_the_added_rows_alone(rows_train):
    """An added token's row acts on the loss through every block above it, so its gradient passes them all."""
    model = parts.build("opt", every=2).train()
    for name, tensor in model.added_parameters():
        tensor.requires_grad_(rows_train or name != "language_model.added.embedding")
    batch, media = parts.encoded(model, [[parts.picture(0), "What is this?"]])
    batch.labels = batch.input_ids.masked_fill(batch.input_ids >= model.language_model.vocabulary.offset, -100)
    seen = []
    hook = model.language_model.blocks[0].register_forward_hook(
        lambda module, args, output: seen.append((output[0] if isinstance(output, tuple) else output).requires_grad)
    )
    model(batch, media).loss.backward()
    hook.remove()
    assert seen == [rows_train]
    gradient, vocabulary = model.language_model.added.embedding.grad, model.language_model.vocabulary
    assert (gradient is not None) == rows_train
    assert not rows_train or bool(gradient[vocabulary.image_id - vocabulary.offset].any())
