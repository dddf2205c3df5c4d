"""Pretraining from nothing (recipes/pretrain): what it writes loads elsewhere."""

import json
import shutil
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from encoders.clip import ClipImageEncoder
from mmlm.training.shuffle import Shuffle
from recipes.pretrain.clip import (
    ClipTrainConfig,
    crop_and_mirror,
    encode_text,
    patch_weights,
    stack_pictures,
    train_clip,
)
from recipes.pretrain.examples import Region
from recipes.pretrain.lm import LanguageModelTrainConfig, pack, train_language_model
from recipes.pretrain.tokenizer import train_tokenizer

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
TEXTS = [f"a {name} {thing}" for name in COLOURS for thing in ("square", "wall", "sky", "door")] * 4
SMALL_CLIP = ClipTrainConfig(
    image_size=16, patch_size=8, vision_width=32, vision_layers=1, vision_head_width=16, text_width=32, text_layers=1,
    text_heads=2, context_length=8, embed_dim=16, batch_size=4, steps=60, learning_rate=3e-3,
)  # fmt: skip
SMALL_LM = LanguageModelTrainConfig(
    hidden_size=32, num_layers=1, num_heads=2, intermediate_size=48, max_positions=64, sequence_length=16, batch_size=4,
    steps=80, learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 280, folder)
    return folder


def pictures():
    return [np.full((16, 16, 3), colour, dtype=np.uint8) for colour in COLOURS.values()]


def test_tokenizer_writes_any_text(tokenizer_folder):
    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    assert len(tokenizer) == 280 and tokenizer.eos_token_id == 279 == tokenizer.pad_token_id
    for text in ("a red wall", " two  spaces\nand a line", "Žluťoučký kůň 🦄 \x00\x7f", "日本"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert len(tokenizer("a red wall")["input_ids"]) < len("a red wall")


def test_tokenizer_refuses_a_size_it_cannot_fill(tmp_path):
    with pytest.raises(ValueError, match="at most"):
        train_tokenizer(["a b"], 1000, tmp_path)
    with pytest.raises(ValueError, match="256"):
        train_tokenizer(["a b"], 100, tmp_path)


def test_clip_learns_which_text_belongs_and_moves_house(tokenizer_folder, tmp_path):
    captions = [[f"a {name} square", f"a {name} wall"] for name in COLOURS]
    train_clip(SMALL_CLIP, pictures(), captions, tokenizer_folder, tmp_path / "clip")
    shutil.move(tmp_path / "clip", tmp_path / "moved")
    encoder = ClipImageEncoder.load(tmp_path / "moved")
    batch = torch.stack([encoder.preprocess(picture) for picture in pictures()])
    assert encoder.encode(batch).tokens.shape == (4, 4, 32)
    similarity = encoder.embed_images(batch) @ encoder.embed_texts([f"a {name} wall" for name in COLOURS]).T
    assert similarity.argmax(dim=1).tolist() == [0, 1, 2, 3]
    # Training scaled pictures by itself; open_clip's transform must do the same.
    trained = stack_pictures(SMALL_CLIP, pictures()).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(batch, trained)


def test_regions_teach_patch_tokens_what_is_where(tokenizer_folder, tmp_path):
    """Two colours side by side: each half's patch tokens, pooled and projected, find the text of their own half."""
    halves = [(a, b) for a in COLOURS for b in COLOURS if a != b]
    sides = [np.concatenate([np.full((16, 8, 3), COLOURS[n], dtype=np.uint8) for n in pair], axis=1) for pair in halves]
    boxes = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))
    regions = [
        [Region(box, (f"a {name} wall", None)) for box, name in zip(boxes, pair, strict=True)] for pair in halves
    ]
    captions = [["a wall"]] * len(halves)  # says nothing: only the regions can teach
    train_clip(SMALL_CLIP, sides, captions, tokenizer_folder, tmp_path, regions)
    encoder = ClipImageEncoder.load(tmp_path)
    tokens = encoder.encode(torch.stack([encoder.preprocess(side) for side in sides])).tokens  # 2 x 2 patches
    texts = encoder.embed_texts([f"a {name} wall" for name in COLOURS])
    for column in (0, 1):
        found = ((tokens[:, column] + tokens[:, column + 2]) @ encoder.model.visual.proj @ texts.T).argmax(dim=1)
        assert [list(COLOURS)[i] for i in found.tolist()] == [pair[column] for pair in halves]


def test_patch_weights_share_a_box_out_by_area():
    # A box over the left half and the upper three quarters of 2 x 2 patches: areas 1/4 and 1/8 in the left column.
    weights = patch_weights(torch.tensor([[0.0, 0.0, 0.5, 0.75], [0.5, 0.5, 1.0, 1.0]]), 2)
    torch.testing.assert_close(weights, torch.tensor([[2 / 3, 0, 1 / 3, 0], [0, 0, 0, 1.0]]))


def test_texts_are_encoded_as_open_clip_does(tokenizer_folder):
    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    model = open_clip.CLIP(**SMALL_CLIP.model_config(tokenizer)["model_cfg"]).eval()
    tokens = torch.tensor([[5, 9, 279, 279, 279, 279, 279, 279], [7, 279, 279, 279, 279, 279, 279, 279]])
    torch.testing.assert_close(encode_text(model, tokens), model.encode_text(tokens, normalize=True))


def test_clip_refuses_captions_that_do_not_fit(tokenizer_folder, tmp_path):
    with pytest.raises(ValueError, match="captions"):
        train_clip(SMALL_CLIP, pictures(), [["a"], ["b"]], tokenizer_folder, tmp_path)
    with pytest.raises(ValueError, match="captions"):
        train_clip(SMALL_CLIP, pictures(), [["a"], ["b"], [], ["d"]], tokenizer_folder, tmp_path)


def test_crops_are_windows_of_the_picture_or_its_mirror_image():
    picture = torch.arange(9 * 9, dtype=torch.uint8).view(1, 9, 9, 1)
    crops = crop_and_mirror(picture.expand(64, -1, -1, -1), 8, torch.Generator().manual_seed(0))
    windows = {bytes(w.flatten().tolist()) for p in (picture[0], picture[0].flip(1)) for w in
               (p[y : y + 8, x : x + 8] for y in (0, 1) for x in (0, 1))}  # fmt: skip
    assert {bytes(crop.flatten().tolist()) for crop in crops} == windows


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_language_model_learns_its_texts_and_loads(tokenizer_folder, tmp_path, optimizer):
    train_language_model(replace(SMALL_LM, optimizer=optimizer), [[text] for text in TEXTS], tokenizer_folder, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("<|endoftext|>a green", return_tensors="pt")["input_ids"]
    following = model(ids).logits[0, -1].softmax(-1)
    things = [tokenizer(f" {thing}")["input_ids"][0] for thing in ("square", "wall", "sky", "door")]
    assert following[things].sum() > 0.6
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


def test_packing_keeps_every_document_whole_and_every_text_closed(tokenizer_folder):
    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    documents = [["a red wall", "a red sky"], ["a blue door"], ["a green sky", "a blue sky", "a green door"]] * 5
    rows = pack(tokenizer, documents, 8, seed=0)
    written = tokenizer.decode(rows.flatten().tolist()).split("<|endoftext|>")[:-1]
    closed = {"".join(f"{text}." for text in document) for document in documents}
    whole = "".join(f"{text}." for text in written)
    while whole:  # taken apart from the front; the last document may be cut where the last row ends
        first = next((document for document in closed if whole.startswith(document)), None)
        if first is None:
            break
        whole = whole.removeprefix(first)
    assert len(written) >= 25 and any(document.startswith(whole) for document in closed)


def test_an_epoch_shows_every_example_once():
    order = Shuffle(10, 5, seed=0)
    first, second = ([order.batch(2 * epoch + i).tolist() for i in (0, 1)] for epoch in (0, 1))
    assert sorted(sum(first, [])) == list(range(10)) == sorted(sum(second, [])) and first != second
    assert Shuffle(10, 5, seed=0).batch(3).tolist() == second[1]  # any step, at any time
