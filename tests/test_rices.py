"""Retrieval of demonstrations: order against a float64 reference, prompts by hand, the cache by its calls."""

import io
import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image as PILImage

from encoders.clip import ClipImageEncoder
from mmlm.assembly.assemble import assemble
from mmlm.data import Record
from mmlm.model.config import ResamplerConfig
from mmlm.prompting.parts import END_OF_CHUNK, Image
from mmlm.prompting.templates import PromptTemplate
from mmlm.retrieval.rices import Rices
from support import parts
from support.families import language_model, tokenizer


class CountingEncoder(ClipImageEncoder):
    """A tiny random CLIP that counts the pictures it embeds."""

    def __init__(self, seed: int = 0):
        torch.manual_seed(seed)
        model = open_clip.CLIP(
            embed_dim=16,
            vision_cfg=dict(image_size=16, patch_size=8, width=32, layers=2, head_width=16),
            text_cfg=dict(context_length=8, vocab_size=32, width=16, heads=2, layers=1),
        )
        super().__init__(model, preprocess=to_tensor)
        self.embedded = 0

    def embed_images(self, batch):
        self.embedded += len(batch)
        return super().embed_images(batch)


def to_tensor(picture: PILImage.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture.resize((16, 16)), dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    PILImage.fromarray(pixels).resize((16, 16), PILImage.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def record(seed: int, key: str | None = None) -> Record:
    captions, qa = (f"caption {seed}", f"other {seed}"), ((f"what {seed}?", f"it {seed}"),)
    return Record(key or f"p{seed}", png(seed), captions, qa)


@pytest.fixture(scope="module")
def encoder():
    return CountingEncoder()


def cosine(encoder: ClipImageEncoder, first: bytes, second: bytes) -> float:
    """Similarity by the bare open_clip model in double precision."""
    model = encoder.model
    both = torch.stack([to_tensor(PILImage.open(io.BytesIO(data)).convert("RGB")) for data in (first, second)])
    with torch.no_grad():
        a, b = model.encode_image(both).double().numpy()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_nearest_against_a_reference(encoder):
    records = [record(seed) for seed in range(12)]
    index = Rices(encoder, records)
    assert torch.allclose(index.embeddings.norm(dim=1), torch.ones(12), atol=1e-6)
    for seed in (100, 101, 102):
        query = png(seed)
        order = sorted(records, key=lambda r: cosine(encoder, query, r.image))  # the most similar last
        assert [r.key for r in index.nearest(query, 4)] == [r.key for r in order[-4:]]
        assert [r.key for r in index.nearest(query, 50)] == [r.key for r in order]
    assert index.nearest(png(7), 3)[-1].key == "p7"  # its own picture is the nearest
    assert index.nearest(png(7), 0) == []
    with pytest.raises(ValueError, match="not -1"):
        index.nearest(png(7), -1)


def test_equal_pictures_keep_their_order(encoder):
    index = Rices(encoder, [record(1, "first"), record(2, "far"), record(1, "second"), record(1, "third")])
    assert [r.key for r in index.nearest(png(1), 3)] == ["third", "second", "first"]


def test_caption_prompt_by_hand(encoder):
    query = png(3)
    index = Rices(encoder, [record(3), record(4)])
    assert index.caption_prompt(query, 2) == [
        *(Image(png(4)), "Output:", "caption 4", END_OF_CHUNK),
        *(Image(png(3)), "Output:", "caption 3", END_OF_CHUNK),
        *(Image(query), "Output:"),
    ]
    assert index.caption_prompt(query, 0, PromptTemplate(caption="A photo of")) == [Image(query), "A photo of"]


def test_question_prompt_by_hand(encoder):
    query = png(3)
    index = Rices(encoder, [record(3), record(4)])
    assert index.question_prompt(query, "how many?", 1) == [
        *(Image(png(3)), "Question:what 3? Short answer:", "it 3", END_OF_CHUNK),
        *(Image(query), "Question:how many? Short answer:"),
    ]


def test_what_a_record_lacks_is_named(encoder):
    index = Rices(encoder, [Record("bare", png(1), (), (("q?", "a"),)), Record("mute", png(2), ("a caption",))])
    with pytest.raises(ValueError, match="'bare' has no caption"):
        index.caption_prompt(png(1), 1)
    with pytest.raises(ValueError, match="'mute' has no question"):
        index.question_prompt(png(2), "what?", 1)


def test_a_picture_that_cannot_be_decoded_is_named(encoder):
    broken = Record("photos/7.jpg", png(1)[:60], captions=("x",))
    with pytest.raises(ValueError, match="record 'photos/7.jpg'"):
        Rices(encoder, [record(1), broken])


def test_cache_embeds_each_picture_once(tmp_path):
    encoder = CountingEncoder()
    first = Rices(encoder, [record(1), record(2), record(1, "again")], cache=tmp_path)
    assert encoder.embedded == 2
    # Other keys and another order: nothing is embedded. A new picture: it alone is.
    second = Rices(encoder, [record(2, "renamed"), record(1)], cache=tmp_path)
    assert encoder.embedded == 2
    assert torch.equal(second.embeddings, first.embeddings[[1, 0]])
    third = Rices(encoder, [record(3), record(1)], cache=tmp_path)
    assert encoder.embedded == 3
    assert torch.equal(third.embeddings[1], first.embeddings[0])
    assert Rices(encoder, [record(seed) for seed in (1, 2, 3)], cache=tmp_path).embeddings.shape == (3, 16)
    assert encoder.embedded == 3


def test_cache_belongs_to_one_encoder(tmp_path):
    one, other = CountingEncoder(seed=0), CountingEncoder(seed=1)
    kept = Rices(one, [record(1)], cache=tmp_path).embeddings
    assert not torch.equal(Rices(other, [record(1)], cache=tmp_path).embeddings, kept)
    assert other.embedded == 1 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"not a cache", None])
def test_damaged_cache_is_made_again(tmp_path, damage):
    encoder = CountingEncoder()
    expected = Rices(encoder, [record(1)], cache=tmp_path).embeddings
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-5] if damage is None else damage)
    assert torch.equal(Rices(encoder, [record(1)], cache=tmp_path).embeddings, expected)
    assert encoder.embedded == 2
    assert torch.equal(Rices(encoder, [record(1)], cache=tmp_path).embeddings, expected)
    assert encoder.embedded == 2 and list(tmp_path.rglob("*.safetensors")) == [path]


def test_prompt_is_what_caption_makes_of_the_same_examples(encoder):
    model = assemble(language_model("llama"), encoder, tokenizer=tokenizer(), resampler=ResamplerConfig(depth=1))
    query, records = png(9), [record(seed) for seed in range(4)]
    index = Rices(encoder, records)
    examples = [(r.image, r.captions[0]) for r in index.nearest(query, 2)]
    written = parts.texts(model, index.caption_prompt(query, 2), max_new_tokens=6)
    assert written.strip() == model.caption(query, examples=examples, max_new_tokens=6)


def test_folder_of_captioned_pictures(tmp_path, encoder):
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": f"{seed}.png", "text": f"number {seed}"}) for seed in (5, 6))
    )
    for seed in (5, 6):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    index = Rices(encoder, tmp_path)
    assert [r.captions for r in index.nearest(tmp_path / "6.png", 1)] == [("number 6",)]
