"""Models over one frozen giant: one copy of it in memory, and each answers as it does alone."""

import argparse
import gc
import json
import pickle
import shutil
import weakref
from pathlib import Path

import pytest
import torch

from mmlm.assembly.assemble import assemble
from mmlm.assembly.codecs import Codecs
from mmlm.assembly.load import load
from mmlm.cli.served import add_model_options, add_models, loaders_of
from mmlm.generation.options import GenerationOptions
from mmlm.model.config import LoraConfig
from mmlm.serving.engine import Engine
from support import families, parts
from support.codec_parts import image_codec
from support.saved import write_parts

PROMPTS = [
    [parts.picture(1), "Output:"],
    ["text alone, and rather more of it than elsewhere"],
    [parts.sound(0.5), "heard ", parts.picture(2), "Output:"],
    ["see: ", parts.picture(2), "and ", parts.picture(3)],
]
FROZEN = ("language_model.model.", "encoders.")


def write_models(folder: Path, family: str = "llama") -> list[Path]:
    """Two models of the same frozen parts, whose adapters differ; the second has LoRA that reads."""
    write_parts(folder, family)
    for number, lora in enumerate([LoraConfig(), LoraConfig(rank=2, reads=True)]):
        model = assemble(
            folder / "lm", folder / "clip", audio_encoder=folder / "ears.pt", resampler=parts.RESAMPLER,
            audio_resampler=parts.EARS["latents"], fusion=parts.fusion(), seed=number, lora=lora,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            parts.open_gates(model)
            for name, tensor in model.added_parameters():
                if ".lora." in name:
                    torch.nn.init.normal_(tensor, std=0.2)
        model.save(folder / str(number))
    return [folder / "0", folder / "1"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("shared"))


@torch.no_grad()
def logits(model) -> torch.Tensor:
    batch, media = parts.encoded(model, PROMPTS)
    return model(batch, media).logits


def answers(model) -> list[tuple]:
    found = [model.generate(prompt, max_new_tokens=12) for prompt in PROMPTS]
    return [(result.token_ids, result.text, result.log_probs) for result in found]


def frozen(model) -> dict[str, int]:
    return {name: one.data_ptr() for name, one in model.named_parameters() if name.startswith(FROZEN)}


def added(model) -> dict[str, int]:
    return {name: one.data_ptr() for name, one in model.added_parameters()}


@pytest.mark.parametrize("family", ["gpt2", "gemma3n"])
def test_frozen_tensors_lie_in_memory_once_and_logits_are_those_of_a_model_alone(tmp_path, family):
    folders = write_models(tmp_path, family)
    alone = [logits(load(folder)) for folder in folders]
    first = load(folders[0])
    second = load(folders[1], beside=[first])
    assert frozen(first) == frozen(second) and len(frozen(first)) > 40
    assert not set(added(first).values()) & set(added(second).values())
    assert not {*map(id, first.modules())} & {*map(id, second.modules())}
    for model, expected in [(first, alone[0]), (second, alone[1]), (first, alone[0])]:
        assert torch.equal(logits(model), expected)
    assert not torch.equal(alone[0], alone[1])


def test_answers_of_both_at_once_are_those_of_each_alone(saved):
    expected = [answers(load(folder)) for folder in saved]
    first = load(saved[0])
    both = [first, load(saved[1], beside=[first])]
    assert [answers(model) for model in both] == expected
    with Engine(both[0]) as one, Engine(both[1]) as other:
        tickets = [
            [engine.submit(prompt, GenerationOptions(max_new_tokens=12)) for engine in (one, other)]
            for prompt in PROMPTS * 3
        ]
        for index, pair in enumerate(tickets):
            for model, ticket in enumerate(pair):
                (result,) = ticket.results(60)
                assert (result.token_ids, result.text) == expected[model][index % len(PROMPTS)][:2]


def test_what_becomes_of_one_is_its_own(saved):
    expected = [logits(load(folder)) for folder in saved]
    first = load(saved[0])
    second = load(saved[1], beside=[first])
    third = load(saved[0], beside=[second])
    first.pack("int8")
    first.half()
    assert torch.equal(logits(second), expected[1])
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None, "the model that was loaded first is kept by a later one"
    assert torch.equal(logits(second), expected[1]) and torch.equal(logits(third), expected[0])


def test_packed_copies_are_shared_too(saved):
    arguments = parsed(*map(str, saved), "--pack", "int8")
    first, second = (loader() for loader in loaders_of(arguments).values())
    expected = [logits(load(folder).pack("int8")) for folder in saved]
    assert [torch.equal(logits(model), own) for model, own in zip((first, second), expected, strict=True)] == [True] * 2
    packed = [
        {name: vars(module)["forward"].weight for name, module in model.named_modules() if is_packed(module)}
        for model in (first, second)
    ]
    own = {name for name in packed[0] if packed[0][name] is not packed[1][name]}
    assert len(packed[0]) > len(own) and {name.split(".")[0] for name in own} <= {"fusion", "resamplers"}
    first.unpack()
    assert torch.equal(logits(second), expected[1])


def is_packed(module) -> bool:
    return type(vars(module).get("forward")).__name__ == "_PackedLinear"


def test_what_differs_is_not_shared(saved, tmp_path):
    first = load(saved[0])

    def shared(**options) -> set[str]:
        own, other = frozen(first), frozen(load(saved[1], beside=[first], **options))
        return {name.split(".")[0] for name in own if own[name] == other[name]}

    assert shared() == {"language_model", "encoders"}
    assert shared(dtype=torch.bfloat16) == {"encoders"}  # a Whisper is always float32
    shutil.copytree(saved[0].parent / "lm", tmp_path / "lm")
    assert shared(language_model=tmp_path / "lm") == {"encoders"}
    (tmp_path / "link").symlink_to(saved[0].parent / "lm")
    assert shared(language_model=tmp_path / "link") == {"language_model", "encoders"}
    first.to(torch.bfloat16).float()  # the names and fingerprints stay, and the values do not
    assert shared() == set()


def test_a_part_that_lies_there_with_other_weights_is_loaded(tmp_path):
    folders = write_models(tmp_path)
    first = load(folders[0])
    families.language_model("llama", seed=5).save_pretrained(tmp_path / "lm")
    config = json.loads((folders[1] / "config.json").read_text())
    remade = assemble(
        tmp_path / "lm", tmp_path / "clip", audio_encoder=tmp_path / "ears.pt", resampler=parts.RESAMPLER,
        audio_resampler=parts.EARS["latents"], fusion=parts.fusion(), codecs=Codecs(image=image_codec()),
    )  # fmt: skip
    assert remade.language_model.fingerprint() != config["language_model"]["fingerprint"]
    remade.save(tmp_path / "2")
    second = load(tmp_path / "2", beside=[first], codecs=Codecs(image=image_codec()))
    assert torch.equal(logits(second), logits(remade))
    shared = {name for name, place in frozen(second).items() if frozen(first)[name] == place}
    assert {name.split(".")[0] for name in shared} == {"encoders"}


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_models(parser)
    add_model_options(parser)
    return parser.parse_args([*words])


def test_served_models_share_and_another_process_begins_anew(saved):
    loaders = pickle.loads(pickle.dumps(loaders_of(parsed(*map(str, saved)))))
    first, second = (loader() for loader in loaders.values())
    assert frozen(first) == frozen(second)
