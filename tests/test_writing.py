"""Pictures and sound written by a language model, and training to write them."""

import copy
import functools
import io
import json

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import mmlm
from decoders.codecs.checkpoint import save_codec
from decoders.diffusion.checkpoint import save_decoder
from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig
from encoders.media.sound import Audio
from encoders.media.source import MediaError
from mmlm.assembly import Codecs, extended
from mmlm.data import BadRecordsError
from mmlm.generation.constraints.codes import MediaGrammar
from mmlm.generation.media import media_spans, picture_tensor, render
from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import Writing, request
from mmlm.generation.result import GenerationResult
from mmlm.model.config import LoraConfig
from mmlm.prompting.parts import Codes
from mmlm.tasks.draw import kept_codes
from mmlm.training import TrainerConfig, WritingTrainConfig, train_from_recipe, train_writing
from mmlm.training.optimizer import hidden_matrices, make_optimizers
from mmlm.training.pairs import read_pairs
from support import parts
from support.codec_parts import audio_codec, image_codec
from support.training_objectives import CASES, picture_folder

FAMILIES = ("llama", "gpt2", "gpt_neox", "opt")


def writing(family="llama", seed=0, lora=LoraConfig(rank=2), loud=True, **more):
    """A tiny model that draws 16 × 16 pictures of 2 × 2 codes, and speaks; its LoRA is not zero."""
    codecs = Codecs(image_codec(), audio_codec())
    made = extended(parts.build(family), codecs, lora=lora, seed=seed, **more)
    if loud:
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in made.added_parameters():
                if name.startswith(("language_model.codes.", "language_model.lora.")):
                    tensor.copy_(torch.randn(tensor.shape, generator=draw) * 0.3)
    return made


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return writing(request.param)


def generate_parts(model, prompt, mode, *, options, guidance_scale=1.0, without=None, fixed=None, max_seconds=4.0):
    """Parts of each sequence that follows a prompt, with codes as they are."""
    given = () if fixed is None else (fixed,)
    writing = Writing(mode, media_spans(model, mode, max_seconds), given, guidance_scale, without)
    rows = request(model, [prompt], options, writing).results(options.sampler(model.device))[0]
    return [list(row.parts) for row in rows]


PROMPT = ["Draw:a red ring"]
GREEDY = GenerationOptions()


def test_to_text_nothing_has_changed(model):
    """Logits without codes are those of the model that has none, bit for bit, LoRA or not."""
    family = FAMILIES[[type(model.language_model.model).__name__.lower().startswith(f.replace("_", "")[:4])
                       for f in FAMILIES].index(True)]  # fmt: skip
    bare = parts.build(family)
    batch = bare.processor.collate([bare.processor.encode(["a red ring"])])
    batch.labels = None
    assert torch.equal(model(batch, [[]]).logits, bare(batch, [[]]).logits)
    with model.language_model.request(codes=model.language_model.code_places()):
        pass
    assert torch.equal(model(batch, [[]]).logits, bare(batch, [[]]).logits)
    assert not torch.equal(model(batch, [[]], codes=True).logits[..., : bare(batch, [[]]).logits.shape[-1]],
                           bare(batch, [[]]).logits)  # fmt: skip
    assert parts.texts(model, "a red ring", max_new_tokens=8) == parts.texts(bare, "a red ring", max_new_tokens=8)


@pytest.mark.parametrize("mode", ["image", "audio"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_cached_and_guided_steps_are_whole_passes(model, mode, scale):
    """Greedy codes against passes over the whole row, with the prompt and without, and arithmetic of our own."""
    without = ["Draw:"]
    (found,) = generate_parts(
        model, PROMPT, mode, options=GREEDY, guidance_scale=scale, without=without, max_seconds=0.1
    )
    span = model.language_model.vocabulary.spans[mode]
    ids = span.to_ids(found[0].codes)
    rows = [model.processor.encode(own).input_ids for own in (PROMPT, without)]
    for place in range(1, len(ids) - 1):
        logits = []
        for row in rows:
            example = model.processor.encode(["x"])
            batch = model.processor.collate([example])
            batch.input_ids, batch.labels = torch.tensor([[*row, *ids[:place]]]), None
            batch.attention_mask = torch.ones_like(batch.input_ids)
            with torch.no_grad():
                logits.append(model(batch, [[]], codes=True).logits[0, -1].double())
        mixed = logits[1] + scale * (logits[0] - logits[1])
        own = [span.ids_of(book) for book in range(span.layout.num_codebooks) if ids[place] in span.ids_of(book)][0]
        assert int(mixed[own.start : own.stop].argmax()) == ids[place] - own.start, place


@pytest.mark.parametrize("mode", ["image", "audio", "any"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_captured_steps_write_the_same(mode, scale):
    model = writing()
    options = GenerationOptions(max_new_tokens=20, num_return_sequences=2, do_sample=True, seed=4)
    more = dict(options=options, guidance_scale=scale, without=["Draw:"], max_seconds=1.0)
    expected = generate_parts(model, PROMPT, mode, **more)
    assert model.pack().language_model.acceleration.records_on == "cpu"
    for row, same in zip(generate_parts(model, PROMPT, mode, **more), expected, strict=True):
        assert len(row) == len(same)
        for part, other in zip(row, same, strict=True):
            assert part == other if isinstance(part, str) else torch.equal(part.codes, other.codes)


def test_pictures_are_whole_and_seeds_tell_them_apart(model):
    first = model.draw("a red ring", 3, seed=1)
    assert [picture.size for picture in first] == [(16, 16)] * 3
    again = model.draw("a red ring", 3, seed=1)
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not all(np.array_equal(*pair) for pair in zip(first, model.draw("a red ring", 3, seed=2), strict=True))
    assert isinstance(model.draw("a red ring"), Image.Image)
    assert len(model.draw(["a red ring", "a blue star"], 2)) == 2


TEXTS = ["a red ring", "a very large blue star on the left", "a", "two white stars", "a ring"]


@pytest.mark.parametrize("options", [{}, {"num_images": 2, "guidance_scale": 2.0, "steps": 0}, {"strength": 0.7}])
def test_each_of_several_drawings_is_what_it_is_alone(model, options):
    if "strength" in options:
        options = {**options, "init_image": parts.picture(3)}
    together = model.draw(TEXTS, seed=5, batch_size=3, details=True, temperature=0.7, **options)
    for seed, (text, results) in enumerate(zip(TEXTS, together, strict=True), 5):
        alone = model.draw(text, seed=seed, details=True, temperature=0.7, **options)
        results, alone = ([own] if isinstance(own, GenerationResult) else own for own in (results, alone))
        for own, other in zip(results, alone, strict=True):
            assert own.token_ids == other.token_ids and np.array_equal(own.media[0], other.media[0])
            assert own.log_probs == pytest.approx(other.log_probs, abs=1e-4)


def test_each_of_several_sounds_is_what_it_is_alone(model):
    together = model.speak(TEXTS, seed=5, batch_size=3, max_seconds=0.3)
    alone = [model.speak(text, seed=seed, max_seconds=0.3) for seed, text in enumerate(TEXTS, 5)]
    assert len({sound.seconds for sound in alone}) > 1, "they end at different steps"
    for own, other in zip(together, alone, strict=True):
        assert np.array_equal(own.waveform, other.waveform)


@pytest.mark.parametrize("mode", ["image", "audio", "any"])
def test_media_of_several_prompts_are_what_each_gives_alone(model, mode):
    prompts = [[text, ":"] for text in TEXTS]
    more = dict(generation_mode=mode, max_new_tokens=5, max_seconds=0.2, steps=0)
    together = model.generate(prompts, batch_size=3, num_return_sequences=2, num_beams=2, **more)
    for prompt, results in zip(prompts, together, strict=True):
        alone = model.generate([prompt], num_return_sequences=2, num_beams=2, **more)
        assert [own.token_ids for own in results] == [own.token_ids for own in alone[0]]
        for own, other in zip(results, alone[0], strict=True):
            assert len(own.parts) == len(other.parts)
            assert all(map(same_part, own.parts, other.parts))
    (plain,) = model.generate([prompts[0]], **more)
    assert all(map(same_part, plain.parts, model.generate(prompts[0], **more).parts))


def same_part(own, other) -> bool:
    if isinstance(own, Audio):
        return np.array_equal(own.waveform, other.waveform)
    return own == other if isinstance(own, str) else np.array_equal(own, other)


def test_several_drawings_share_their_passes_and_one_bad_text_begins_none(monkeypatch):
    model = writing()
    rows = []
    forward = model.language_model.forward
    monkeypatch.setattr(
        model.language_model, "forward", lambda ids, **own: (rows.append(len(ids)), forward(ids, **own))[1]
    )
    model.draw(TEXTS, batch_size=4)
    assert rows == [4] * 6 + [1] * 6
    rows.clear()
    for wrong in (" ", 5):
        with pytest.raises(ValueError, match="at least one word"):
            model.draw([*TEXTS, wrong], batch_size=2)
    for verb in (model.draw, model.speak):
        with pytest.raises(ValueError, match="batch_size must be at least 1"):
            verb(TEXTS, batch_size=0)
    assert not rows


def test_the_prompt_is_read_once(monkeypatch):
    model = writing()
    lengths = []
    forward = model.language_model.forward
    monkeypatch.setattr(
        model.language_model, "forward", lambda ids, **own: (lengths.append(list(ids.shape)), forward(ids, **own))[1]
    )
    model.draw("a red ring", 4, guidance_scale=2.0)
    prompt, steps = lengths[0], lengths[1:]
    assert prompt[0] == 2 and steps == [[8, 1]] * 5  # a beginning and four codes; nothing is run after the end


def test_speech_ends_in_time(model):
    sound = model.speak("seven", max_seconds=0.3, seed=0)
    assert isinstance(sound, Audio) and sound.sample_rate == 8000 and 0 < sound.seconds <= 0.3
    assert np.abs(sound.waveform).max() <= 1
    assert len(model.speak(["seven", "two"], max_seconds=0.1)) == 2
    with pytest.raises(ValueError, match="max_seconds"):
        model.speak("seven", max_seconds=0)


def test_a_picture_goes_on_from_another():
    model = writing()
    start = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    codec = model.codecs["image"]
    codes = codec.encode(picture_tensor(start, 16)).codes
    plain = (codec.decode(codes)[0] * 255).round().byte().permute(1, 2, 0).numpy()
    with pytest.warns(UserWarning, match="marks nothing"):
        kept = model.draw("a red ring", init_image=start, mask=np.zeros((16, 16), np.uint8), steps=0)
    assert np.array_equal(np.asarray(kept), plain)
    anew = model.draw("a red ring", init_image=start, mask=np.full((16, 16), 255, np.uint8), seed=3, steps=0)
    assert np.array_equal(np.asarray(anew), np.asarray(model.draw("a red ring", seed=3, steps=0)))
    half = np.zeros((32, 32), np.uint8)
    half[20, 20] = 255  # one pixel, in the last of the four cells
    for seed in range(5):
        drawn = generate_parts(
            model, PROMPT, "image", options=GenerationOptions(do_sample=True, seed=seed),
            fixed=kept_codes(model, start, half, 0.5, [0])[0],
        )[0][0].codes  # fmt: skip
        assert torch.equal(drawn.flatten()[:3], codes.flatten()[:3])
    assert len(kept_codes(model, start, None, 0.25, [0])[0]) == 3
    assert model.draw("a ring", init_image=start, strength=0.0, steps=0).tobytes() == plain.tobytes()
    with pytest.raises(ValueError, match="strength"):
        model.draw("a ring", init_image=start, strength=1.5)


def test_text_and_media_in_one_stream():
    """What may follow is narrowed, so that one word, a picture, a sound and the end follow one another."""
    model = writing()
    vocabulary, spans = model.language_model.vocabulary, model.language_model.vocabulary.spans
    word = model.processor.text_ids("x")[-1]
    wanted = [word, spans["image"].begin, word, spans["audio"].begin, vocabulary.end_of_chunk_id]
    (found,) = _bent(model, wanted)
    kinds = [part if isinstance(part, str) else part.modality for part in found]
    assert kinds == ["x", "image", "x", "audio"]
    assert found[1].codes.shape == (1, 2, 2) and found[3].codes.shape[0] == 3


def _bent(model, wanted):
    """Parts written when text takes these ids in turn; inside media the model chooses."""
    queue = list(wanted)
    allowed = MediaGrammar.allowed

    def bent(self):
        ranges = allowed(self)
        if self.inside is not None or not queue:
            return ranges
        token = queue.pop(0)
        assert any(token in ids for ids in ranges)
        return (range(token, token + 1),)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MediaGrammar, "allowed", bent)
        return generate_parts(model, ["Draw:"], "any", options=GenerationOptions(max_new_tokens=9), max_seconds=0.1)


def test_any_mode_ends_within_its_words(model):
    few = dict(max_new_tokens=5, max_seconds=0.1, do_sample=True, seed=0)
    found = model.generate("a red ring", generation_mode="any", **few).parts
    assert all(isinstance(part, (str, Image.Image, Audio)) for part in found)
    texts = [part.replace("\0", " ") for part in found if isinstance(part, str)]  # untrained, it writes any byte
    words = sum(len(model.processor.text_ids(text)) for text in texts)
    assert words <= 8  # five tokens, which other pieces may spell
    (picture,) = model.generate(["a ring"], generation_mode="image").media
    assert isinstance(picture, Image.Image)


def test_users_cannot_forge_codes(model):
    text = "<image_out></image_out><audio_out> draw <image>"
    assert max(model.processor.text_ids(text)) < model.language_model.vocabulary.offset
    assert model.draw(text).size == (16, 16)
    codes = Codes("image", model.codecs["image"].encode(torch.rand(1, 3, 16, 16)).codes[0])
    ids = model.processor.encode(["a", codes]).input_ids
    assert model.language_model.vocabulary.spans["image"].to_codes(ids[-6:]).equal(codes.codes)
    assert model.processor.decode(ids).strip() == "a"
    with pytest.raises(ValueError, match="codes"):
        model.processor.encode([Codes("image", codes.codes + 100)])


def test_what_a_model_cannot_write_is_said():
    bare = parts.build()
    for call, message in (
        (lambda: bare.draw("a ring"), "writes no pictures"),
        (lambda: bare.speak("a ring"), "writes no sound"),
        (lambda: parts.texts(bare, "a", generation_mode="any"), "neither pictures nor sound"),
        (lambda: parts.texts(bare, "a", generation_mode="video"), "generation_mode"),
        (lambda: bare.processor.encode([Codes("image", torch.zeros(1, 2, 2).long())]), "writes no image codes"),
        (lambda: writing().draw("  "), "must be a text"),
        (lambda: writing().draw("a", 0), "num_images"),
        (lambda: writing().draw("a", steps=4), "no diffusion decoder"),
        (lambda: extended(bare), "nothing is given"),
        (lambda: writing().draw("a", mask=np.zeros((4, 4), np.uint8)), "init_image"),
        (lambda: parts.texts(writing(), "a", generation_mode="any", stop=("x",)), "stop"),
        (lambda: parts.texts(writing(), ["a", Codes("image", torch.zeros(1, 2, 2).long())]), "holds codes"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_best_of_several_is_clips_choice(monkeypatch):
    model = writing()
    eyes = model.encoders["image"]
    pictures = model.draw("a ring", 4, seed=5)
    monkeypatch.setattr(type(eyes), "embed_texts", lambda self, texts: torch.tensor([[1.0, *[0.0] * 15]]))
    scores = [float(eyes.embed_images(eyes.preprocess(picture)[None])[0, 0]) for picture in pictures]
    chosen = model.draw("a ring", 4, seed=5, rerank=True)
    assert np.array_equal(chosen, pictures[int(np.argmax(scores))])


def decoder_of(codec):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = DiffusionDecoder(codec, DiffusionDecoderConfig(channels=(16,), window=64, hop=40)).eval()
        torch.nn.init.normal_(made.unet.conv_out.weight, std=0.1)
    return made


def test_saved_and_loaded_it_draws_the_same(tmp_path):
    for name, codec in (("image", image_codec()), ("audio", audio_codec())):
        save_codec(codec, tmp_path / name)
        save_decoder(decoder_of(codec), tmp_path / f"{name}-decoder")
    bare = parts.build()
    model = extended(
        bare, Codecs(*(tmp_path / name for name in ("image", "audio", "image-decoder", "audio-decoder"))),
        lora=LoraConfig(rank=3),
    )  # fmt: skip
    model.save(tmp_path / "model")
    frozen = dict(language_model=parts.build().language_model.model, tokenizer=bare.language_model.tokenizer,
                  image_encoder=parts.image_encoder())  # fmt: skip
    again = mmlm.load(tmp_path / "model", **frozen)
    seen = []
    first = model.draw("a ring", seed=2, progress=lambda *own: seen.append(own))
    assert np.array_equal(first, again.draw("a ring", seed=2))
    assert np.array_equal(model.speak("two", max_seconds=0.1).waveform, again.speak("two", max_seconds=0.1).waveform)
    assert [one for one in seen if one[0] == "decoding"] == [("decoding", step, 4) for step in (1, 2, 3, 4)]
    assert seen[0] == ("codes", 1, 6) and not np.array_equal(first, model.draw("a ring", seed=2, steps=0))
    save_codec(image_codec(seed=9), tmp_path / "image")
    with pytest.raises(ValueError, match="is of codec"):  # the decoder is of the codec that was there
        mmlm.load(tmp_path / "model", **frozen)


def test_sounds_of_unequal_length_are_rendered_one_by_one():
    model = writing()
    codes = [Codes("audio", torch.zeros(3, steps, dtype=torch.long)) for steps in (2, 5)]
    assert [len(sound.waveform) for sound in render(model, codes)] == [320, 800]
    assert render(model, []) == []


def test_a_copy_of_a_model_writes_by_its_own_adapters():
    model = writing()
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for _, tensor in model.added_parameters():
            tensor.zero_()
    untouched = writing()
    batch = untouched.processor.collate([untouched.processor.encode(PROMPT)])
    batch.labels = None
    assert torch.equal(untouched(batch, [[]], codes=True).logits, copied(batch, [[]], codes=True).logits)


def test_what_was_trained_stays_when_more_is_added():
    drawing = extended(parts.build(), Codecs(image=image_codec()), lora=LoraConfig(rank=2))
    with torch.no_grad():
        for name, tensor in drawing.added_parameters():
            if ".codes." in name or ".lora." in name:
                tensor.normal_(std=0.3)
    both = extended(drawing, Codecs(audio=audio_codec()))
    assert set(both.codecs) == {"image", "audio"} and both.language_model.lora_config == LoraConfig(rank=2)
    own, same = (generate_parts(one, PROMPT, "image", options=GREEDY)[0][0].codes for one in (drawing, both))
    assert torch.equal(own, same)
    again = extended(both, Codecs(image_codec(), audio_codec()))
    for one, other in zip(both.language_model.codes.parameters(), again.language_model.codes.parameters(), strict=True):
        assert torch.equal(one, other)
    changed = extended(both, Codecs(image=image_codec(seed=1))).language_model
    span = changed.vocabulary.spans["image"]
    first = span.begin - changed.vocabulary.code_offset
    rows = slice(first, first + span.layout.rows)
    assert not torch.equal(changed.codes.embedding[rows], both.language_model.codes.embedding[rows])
    rendered = extended(both, Codecs(image_decoder=decoder_of(both.codecs["image"])))
    assert np.array_equal(rendered.draw("a ring", seed=4, steps=0), both.draw("a ring", seed=4))
    assert "image" in rendered.decoders and "image" not in both.decoders


def test_a_mask_lies_on_the_picture_as_that_is_cut():
    model = writing()
    wide = np.zeros((16, 64, 3), np.uint8)
    outside, inside = np.zeros((16, 64), bool), np.zeros((16, 64), bool)
    outside[:, :20], inside[2, 30] = True, True  # the middle square is columns 24 to 39
    with pytest.warns(UserWarning, match="nothing is drawn anew"):
        assert len(kept_codes(model, wide, outside, 0.5, [0])[0]) == 4
    assert sorted(kept_codes(model, wide, inside, 0.5, [0])[0]) == [(0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize(
    "form", ["bool", "uint8", "int64", "uint8 255", "tensor", "bool tensor", "float", "png", "one bit"]
)
def test_a_mask_of_any_form_means_the_same(form):
    marked = np.zeros((16, 16), bool)
    marked[2, 3] = True  # in the first of four cells
    encoded = io.BytesIO()
    Image.fromarray(marked.astype(np.uint8)).save(encoded, "PNG")  # of zeros and ones
    mask = {
        "bool": marked, "uint8": marked.astype(np.uint8), "int64": marked.astype(np.int64), "float": marked * 1.0,
        "uint8 255": marked.astype(np.uint8) * 255, "tensor": torch.from_numpy(marked.astype(np.uint8)),
        "bool tensor": torch.from_numpy(marked), "png": encoded.getvalue(), "one bit": Image.fromarray(marked),
    }[form]  # fmt: skip
    model, start = writing(), np.zeros((16, 16, 3), np.uint8)
    assert sorted(kept_codes(model, start, mask, 0.5, [0])[0]) == [(0, 1), (0, 2), (0, 3)]


def stroke(colour, mode="RGBA"):
    """A square of one colour [16, 16] in a transparent ground, whose first cell is the square."""
    picture = Image.new("RGBA", (16, 16))
    picture.paste((*colour, 255), (0, 0, 8, 8))
    return picture.convert(mode)


def test_of_a_mask_with_holes_what_is_opaque_is_kept():
    model, start = writing(), np.zeros((16, 16, 3), np.uint8)
    holed = np.dstack([np.random.default_rng(0).integers(0, 256, (16, 16, 3)), np.full((16, 16), 255)]).astype(np.uint8)
    holed[:8, 8:, 3] = 0  # a picture of any colours, transparent in its second cell
    encoded = io.BytesIO()
    Image.fromarray(holed).save(encoded, "PNG")
    for mask in (holed, Image.fromarray(holed), encoded.getvalue(), torch.from_numpy(holed).permute(2, 0, 1)):
        assert sorted(kept_codes(model, start, mask, None, [0])[0]) == [(0, 0), (0, 2), (0, 3)]
    for mask in (stroke((0, 0, 0)), stroke((0, 0, 0), "LA")):  # black stays, in both ways to read it
        assert sorted(kept_codes(model, start, mask, None, [0])[0]) == [(0, 0)]
    assert not kept_codes(model, start, Image.new("RGBA", (16, 16)), None, [0])[0]
    solid = np.dstack([np.repeat((holed[..., 3:] == 0) * 255, 3, 2), np.full((16, 16), 255)]).astype(np.uint8)
    assert sorted(kept_codes(model, start, solid, None, [0])[0]) == [(0, 0), (0, 2), (0, 3)]  # its alpha says nothing


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (stroke((255, 255, 255)), "one colour on a transparent ground"),
        (stroke((200, 0, 0)), "one colour on a transparent ground"),
        (stroke((255, 255, 255), "LA"), "one colour on a transparent ground"),
        (np.eye(16, dtype=np.uint8) * 2, "brightest value is 2 of 255"),  # numbers of labels
        (np.eye(16) * 0.3, "brightest value is 76 of 255"),
        (torch.zeros(16, 16, dtype=torch.bool, device="meta"), "meta"),
        ([[0, 1], [0, 1]], "not a media source"),
    ],
)
def test_a_mask_that_does_not_say_what_is_drawn_anew_is_an_error(mask, named):
    with pytest.raises(ValueError, match=named):
        kept_codes(writing(), np.zeros((16, 16, 3), np.uint8), mask, None, 0)


def test_a_mask_of_nothing_and_a_share_beside_a_mask_are_told():
    model, start = writing(), np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(MediaError, match="give a dense one"):
        kept_codes(model, start, torch.ones(16, 16, dtype=torch.bool).to_sparse(), None, [0])
    for black in (np.zeros((16, 16), bool), np.zeros((16, 16), np.uint16)):
        with pytest.warns(UserWarning, match="the mask marks nothing: nothing is drawn anew"):
            assert len(kept_codes(model, start, black, None, [0])[0]) == 4
    for given in (dict(), dict(init_image=start, mask=np.ones((16, 16), bool))):
        with pytest.raises(ValueError, match="strength is a share of init_image"):
            model.draw("a ring", strength=0.5, **given)
    half = kept_codes(model, start, None, None, [0])[0]
    assert len(half) == 2 and half == kept_codes(model, start, None, 0.5, [0])[0]


def test_a_mask_of_other_proportions_is_an_error():
    model, wide = writing(), np.zeros((16, 64, 3), np.uint8)
    for height, width in ((16, 16), (64, 16), (16, 60), (15, 64)):
        with pytest.raises(ValueError, match=f"the mask is {width} x {height} and the picture 64 x 16"):
            kept_codes(model, wide, np.ones((height, width), bool), 0.5, [0])[0]
    for height, width in ((16, 64), (8, 32), (1, 4), (5, 20), (17, 66)):  # the last one to within a pixel
        kept_codes(model, wide, np.ones((height, width), bool), 0.5, [0])[0]
    outside = np.zeros((16, 64), bool)
    outside[:, :8] = True
    with pytest.warns(UserWarning, match="nothing is drawn anew"):
        kept_codes(model, wide, outside, 0.5, [0])[0]


def test_media_are_begun_only_where_they_have_room(model):
    spans = model.language_model.vocabulary.spans
    row = MediaGrammar("any", spans, range(100), frozenset(), max_text=9, room=6)
    assert row.allowed() == (range(100), range(spans["image"].begin, spans["image"].begin + 1))  # six ids
    row = row.advance(5)
    assert row.allowed() == (range(100),)
    for _ in range(5):
        assert row.finished is None
        row = row.advance(5)
    assert row.finished == "length"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for index, colour in enumerate(["red", "blue", "green", "black"]):
        draw = np.random.default_rng(index)
        Image.fromarray(draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{colour}.png")
        soundfile.write(folder / f"{colour}.wav", draw.uniform(-0.5, 0.5, 800), 8000)
        lines += [{"image": f"{colour}.png", "caption": colour}, {"audio": f"{colour}.wav", "transcript": colour}]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "pairs.jsonl"


def test_it_learns_what_to_draw_and_to_say(pairs, tmp_path):
    model = writing(loud=False)
    learns = ("language_model.codes.", "language_model.lora.")
    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith(learns)}
    config = WritingTrainConfig(steps=120, batch_size=8, learning_rate=2e-2, eval_every=60, precision="float32")
    train_writing(model, pairs, tmp_path, pairs, config, progress=False)
    for name, tensor in frozen.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    for record in mmlm.data.read_records(pairs):
        if record.source is not None:
            codes = model.codecs["image"].encode(picture_tensor(record.image, 16)).codes[0]
            prompt, mode = model.template.writing_prompt("image", record.captions[0]), "image"
        else:
            sound = torch.from_numpy(soundfile.read(str(record.sound.path), dtype="float32")[0])[None, None]
            codes = model.codecs["audio"].encode(sound).codes[0]
            prompt, mode = model.template.writing_prompt("audio", record.transcript), "audio"
        (found,) = generate_parts(model, prompt, mode, options=GREEDY, max_seconds=0.5)
        assert torch.equal(found[0].codes, codes), record.key
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "held_out_loss_image" in line] == [0, 60, 120]
    assert lines[-1]["held_out_loss_image"] < 0.5 and lines[-1]["held_out_loss_audio"] < 0.5
    assert all(parameter.requires_grad for _, parameter in model.added_parameters())


@pytest.mark.parametrize("tune", ["rows", "lora", "full"])
def test_what_is_tuned_and_what_is_not(tune, pairs, tmp_path):
    model = writing(loud=False)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    config = WritingTrainConfig(steps=3, batch_size=4, tune=tune, pairs_per_row=2, precision="float32")
    train_writing(model, pairs, tmp_path, config=config, progress=False)
    moved = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    kinds = {".".join(name.split(".")[:2]) for name in moved}
    expected = {"language_model.codes"} | ({"language_model.lora"} if tune != "rows" else set())
    assert kinds == expected | ({"language_model.model"} if tune == "full" else set())
    again = mmlm.load(
        tmp_path / "model", image_encoder=parts.image_encoder(), codecs=Codecs(image_codec(), audio_codec()),
        language_model=None if tune == "full" else parts.build().language_model.model,
        tokenizer=model.language_model.tokenizer,
    )  # fmt: skip
    assert np.array_equal(model.draw("red"), again.draw("red"))


def test_codes_are_computed_once(pairs, tmp_path, monkeypatch):
    model = writing(loud=False)
    config = WritingTrainConfig(steps=1, batch_size=4, max_seconds=0.05)
    with pytest.raises(ValueError, match="nothing to draw"):
        only = [record for record in mmlm.data.read_records(pairs) if record.sound is not None]
        train_writing(writing(loud=False), only, tmp_path / "none", config=config, progress=False)
    train_writing(model, pairs, tmp_path, config=config, progress=False)
    monkeypatch.setattr(type(model.codecs["image"]), "encode", None)
    train_writing(model, pairs, tmp_path, config=config, resume=False, progress=False)


@pytest.mark.parametrize("wrong", [dict(tune="all"), dict(steps=0), dict(text_dropped=1.0), dict(pairs_per_row=0)])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ValueError):
        WritingTrainConfig(**wrong)


def test_a_recipe_trains_it(pairs, tmp_path):
    save_codec(image_codec(), tmp_path / "codec")
    parts_of = parts.build()
    parts_of.language_model.model.save_pretrained(tmp_path / "lm")
    parts_of.language_model.tokenizer.save_pretrained(tmp_path / "lm")
    parts_of.language_model.name = str(tmp_path / "lm")
    parts_of.save(tmp_path / "start")
    (tmp_path / "recipe.yaml").write_text(f"""
model: {{load: {tmp_path}/start, image_codec: {tmp_path}/codec, lora: {{rank: 2}}}}
write: {{steps: 2, batch_size: 2}}
data: {pairs}
output: {tmp_path}/run
""")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmlm.training.run.load", functools.partial(mmlm.load, image_encoder=parts.image_encoder()))
        result = train_from_recipe(tmp_path / "recipe.yaml", ["write.steps=1"], progress=False)
        assert result.steps == 1
        loaded = mmlm.load(result.model, image_encoder=parts.image_encoder())
        assert loaded.draw("red").size == (16, 16)
    with pytest.raises(ValueError, match="write.stepz"):
        train_from_recipe(tmp_path / "recipe.yaml", ["write.stepz=1"], progress=False)


def test_muon_is_for_lora_and_never_for_the_codes_rows():
    host = writing().language_model
    trained = torch.nn.ModuleDict({"codes": host.codes, "lora": host.lora}).requires_grad_(True)
    names = {parameter: name for name, parameter in trained.named_parameters()}
    config = TrainerConfig(optimizer="muon")
    adamw, muon = make_optimizers(dict(trained.named_parameters()), hidden_matrices(trained), config)
    by_muon = {names[p] for group in muon.param_groups for p in group["params"]}
    assert by_muon == {name for name in names.values() if name.startswith("lora.")} != set()
    assert {names[p] for group in adamw.param_groups for p in group["params"]} == set(names.values()) - by_muon


def test_a_medium_that_comes_several_times_is_encoded_once(tmp_path, monkeypatch):
    model = writing()
    record = {"image": "a.png", "caption": "a ring"}
    for index, name in enumerate(("a.png", "b.png")):
        Image.fromarray(np.full((16, 16, 3), 90 * index, dtype=np.uint8)).save(tmp_path / name)
    lines = [record, {**record, "image": "b.png"}, {**record, "caption": "again"}, record]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    codec, seen = model.codecs["image"], []
    encode = codec.encode
    monkeypatch.setattr(codec, "encode", lambda media: (seen.append(len(media)), encode(media))[1])
    found = read_pairs(model, pairs, tmp_path / "codes", 4.0, progress=False)
    assert sum(seen) == 2 and [pair.texts for pair in found] == [("a ring",), ("a ring",), ("again",), ("a ring",)]
    for pair, name in zip(found, ("a.png", "b.png", "a.png", "a.png"), strict=True):
        assert torch.equal(pair.codes, encode(picture_tensor(tmp_path / name, codec.size)).codes[0])


# The cache of codes


def test_damaged_codes_are_made_again_and_a_bad_picture_is_named(tmp_path, caplog):
    """By the bytes of the pictures, with a checksum: never by names, never what a disk has changed."""
    model, folder = CASES["codes"].build(), picture_folder(tmp_path)
    read = lambda: read_pairs(model, folder, tmp_path / "codes", 4.0, progress=False)  # noqa: E731
    fresh = read()
    (path,) = (tmp_path / "codes").rglob("*.safetensors")
    whole = path.read_bytes()
    for damaged in (whole[:-4] + bytes([whole[-4] ^ 8]) + whole[-3:], whole[: len(whole) // 2], b"", b"garbage" * 9):
        path.write_bytes(damaged)
        again = read()
        assert all(torch.equal(one.codes, other.codes) for one, other in zip(fresh, again, strict=True))
        assert path.read_bytes() == whole
    (folder / "03.png").write_bytes((folder / "04.png").read_bytes())  # another picture under the same name
    swapped = read()
    assert swapped.digest != fresh.digest and torch.equal(swapped[3].codes, fresh[4].codes)
    (folder / "03.png").write_bytes(b"no picture")
    with pytest.raises(BadRecordsError, match="(?s)1 of 16 records are bad.*03.png"):
        read()
