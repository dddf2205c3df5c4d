"""An inventory of wrong calls: each ends in an exception of a documented type, whose message says what is wrong.

The table is written by hand: the call, the type, a word of the message. A TypeError is for a value of a wrong kind,
a ValueError (MediaError is one) for one that cannot be, FileNotFoundError for what is not there.
"""

# ruff: noqa: F401  (the calls of the table are evaluated)
import contextlib
import io
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import mmlm
from decoders.codecs.image_vqvae import ImageVQVAEConfig
from encoders.media import MediaError, audio_key, content_key, load_audio, load_image, load_video
from mmlm.cli import main
from mmlm.data import FileSlice, Record, read_records
from mmlm.data.media import find_media
from mmlm.evaluation import medium_gap, word_error_rate
from mmlm.generation.options import GenerationOptions
from mmlm.training import train_from_recipe

PYTHON = r"""
caption(None)                                          | MediaError        | not a media source
caption(5)                                             | MediaError        | not a media source
caption("")                                            | MediaError        | regular file
caption("nothere.png")                                 | FileNotFoundError | nothere.png
caption("a\0b")                                        | MediaError        | a
caption("/dev/zero")                                   | MediaError        | regular file
caption(".")                                           | MediaError        | regular file
caption(b"")                                           | MediaError        | empty
caption(b"junk")                                       | MediaError        | not an image
caption(np.zeros(3))                                   | MediaError        | [H, W]
caption(np.zeros((0, 0, 3)))                           | MediaError        | empty
caption(np.full((4, 4, 3), np.nan))                    | MediaError        | 0..1
caption(torch.zeros(3, 4, 4, device="meta"))           | MediaError        | meta
caption([P, None])                                     | MediaError        | not a media source
caption(P, None)                                       | TypeError         | examples
caption(P, 5)                                          | TypeError         | examples
caption(P, "ab")                                       | TypeError         | examples
caption(P, [(P,)])                                     | TypeError         | (picture, caption)
caption(P, [(P, None)])                                | TypeError         | text
caption(P, seed=2**70)                                 | ValueError        | seed
caption(P, seed="a")                                   | TypeError         | seed
caption(P, seed=1.5)                                   | TypeError         | seed
caption(P, num_beams=10**9)                            | ValueError        | num_beams
caption(P, num_beams=0)                                | ValueError        | num_beams
caption(P, num_beams=True)                             | TypeError         | num_beams
caption(P, max_new_tokens=10**30)                      | ValueError        | max_new_tokens
caption(P, max_new_tokens=10**6)                       | ValueError        | positions
caption(P, max_new_tokens=-1)                          | ValueError        | max_new_tokens
caption(P, max_new_tokens=None)                        | TypeError         | max_new_tokens
caption(P, min_new_tokens=99, max_new_tokens=2)        | ValueError        | min_new_tokens
caption(P, stop=5)                                     | TypeError         | stop
caption(P, stop=[""])                                  | ValueError        | stop
caption(P, stop=["\ud800"])                            | ValueError        | Unicode
caption(P, stop=["a\0"])                               | ValueError        | NUL
caption(P, stop="x" * 10**6)                           | ValueError        | characters
caption(P, stop_token_ids=[2**70])                     | ValueError        | stop_token_ids
caption(P, stop_token_ids=["a"])                       | TypeError         | stop_token_ids
caption(P, bad_words_ids=[["a"]])                      | TypeError         | bad_words_ids
caption(P, bad_words_ids=5)                            | TypeError         | bad_words_ids
caption(P, repetition_penalty=1e300)                   | ValueError        | repetition_penalty
caption(P, repetition_penalty=inf)                     | ValueError        | repetition_penalty
caption(P, repetition_penalty=nan)                     | ValueError        | repetition_penalty
caption(P, repetition_penalty=10**400)                 | ValueError        | repetition_penalty
caption(P, num_beams=2, length_penalty=10**400)        | ValueError        | length_penalty
caption(P, num_beams=2, length_penalty=1e3)            | ValueError        | length_penalty
caption(P, logits_processor=5)                         | TypeError         | logits_processor
caption(P, logits_processor=[lambda ids, s: None])     | TypeError         | logits_processor
caption(P, logits_processor=[lambda ids, s: s * nan])  | ValueError        | logits_processor
caption(P, num_return_sequences=3)                     | ValueError        | num_return_sequences
caption(P, do_sample=True, num_return_sequences=10**9) | ValueError        | num_return_sequences
caption(P, do_sample="yes")                            | TypeError         | do_sample
caption(P, do_sample=True, temperature=1e-300)         | ValueError        | temperature
caption(P, do_sample=True, temperature=inf)            | ValueError        | temperature
caption(P, do_sample=True, temperature=nan)            | ValueError        | temperature
caption(P, do_sample=True, top_p=nan)                  | ValueError        | top_p
caption(P, do_sample=True, top_k=0)                    | ValueError        | top_k
caption(P, do_sample=True, top_k=10**30)               | ValueError        | top_k
caption(P, batch_size=0)                               | ValueError        | batch_size
caption(P, batch_size="a")                             | TypeError         | batch_size
answer(P, None)                                        | TypeError         | question
answer(P, "")                                          | ValueError        | question
answer(P, "\ud800")                                    | ValueError        | Unicode
answer(P, "a\0b")                                      | ValueError        | NUL
answer(P, "x" * 10**8)                                 | ValueError        | characters
answer(P, "q?", None)                                  | TypeError         | examples
answer(P, "q?", [(P, "a")])                            | TypeError         | (picture, question, answer)
answer(P, ["a", "b"], batch_size=-1)                   | ValueError        | batch_size
answer([P, P], ["a", "b", "c"])                        | ValueError        | 2 pictures but 3
generate(None)                                         | TypeError         | prompt
generate(5)                                            | TypeError         | prompt
generate([None])                                       | TypeError         | prompt part
generate("")                                           | ValueError        | empty
generate("x" * 10**8)                                  | ValueError        | characters
generate("\ud800")                                     | ValueError        | Unicode
generate(["a", "\0"])                                  | ValueError        | NUL
generate([["a"], "b"])                                 | TypeError         | mixed
generate(["a"], generation_mode="x")                   | ValueError        | generation_mode
generate(["a"], generation_mode="any", steps="a")      | TypeError         |
generate(["a"], generation_mode="audio", max_seconds=nan) | TypeError      | max_seconds
stream(["a"], num_beams=2)                             | ValueError        | beams
stream([["a"], ["b"]])                                 | ValueError        | batch
ask(W, 5, transcript="a")                              | TypeError         | question
ask(W, "q?", transcript=5)                             | TypeError         | transcript
ask(W, "q?", mode="x")                                 | ValueError        | mode
ask(W, "q?", transcript="a", examples=None)            | TypeError         | examples
ask(W, "q?", transcript="a", examples=[("q", 5)])      | TypeError         | text
ask(W, "q?", transcript="a", chat="x")                 | TypeError         | chat
ask(W, "q?", transcript="a", seed=2**70)               | ValueError        | seed
ask("nothere.wav")                                     | FileNotFoundError | nothere.wav
ask((np.full(300, nan), 16000), "q?", mode="features") | MediaError        | finite
transcribe(None)                                       | MediaError        | not a media source
transcribe(b"")                                        | MediaError        | empty
transcribe("nothere.wav")                              | FileNotFoundError | no such file
transcribe("/dev/zero")                                | MediaError        | regular file
transcribe(np.zeros(300))                              | MediaError        | sample rate
transcribe((np.zeros(300), -5))                        | MediaError        | Hz
transcribe((np.zeros(300), 1.5))                       | MediaError        | rate must be a whole
transcribe((np.zeros(0), 16000))                       | MediaError        | 0 samples
transcribe((np.full(300, 1e30), 16000))                | MediaError        | -1..1
transcribe((np.zeros((2, 2, 2)), 16000))               | MediaError        | [T]
transcribe((np.zeros(300, complex), 16000))            | MediaError        | complex
transcribe((torch.zeros(300, device="meta"), 16000))   | MediaError        | meta
transcribe(P)                                          | MediaError        | sound
transcribe(W, language="xx")                           | ValueError        | language
transcribe(W, language=5)                              | TypeError         | language
transcribe(W, task="sing")                             | ValueError        | task
transcribe(W, prompt=5)                                | TypeError         | prompt
transcribe(W, prompt="\ud800")                         | ValueError        | prompt
transcribe(W, prompt="x" * 10**6)                      | ValueError        | prompt
transcribe(W, temperatures=[nan])                      | ValueError        | temperatures
transcribe(W, temperatures=None)                       | TypeError         | temperatures
transcribe(W, beam_size=10**9)                         | ValueError        | beam_size
transcribe(W, beam_size=0)                             | ValueError        | beam_size
transcribe(W, seed=2**70)                              | ValueError        | seed
transcribe(W, seed=None)                               | TypeError         | seed
transcribe(W, vad="x")                                 | TypeError         | vad
transcribe(W, max_seconds=nan)                         | TypeError         | max_seconds
draw(None)                                             | ValueError        | text
draw("")                                               | ValueError        | text
draw("x" * 10**8)                                      | ValueError        | characters
draw("\ud800")                                         | ValueError        | Unicode
draw("a", 0)                                           | ValueError        | num_images
draw("a", 10**9)                                       | ValueError        | num_images
draw("a", "2")                                         | TypeError         | num_images
draw("a", rerank="x")                                  | TypeError         | rerank
draw("a", init_image="nothere.png")                    | FileNotFoundError | nothere.png
draw("a", mask=P)                                      | ValueError        | init_image
draw("a", strength=2)                                  | ValueError        | strength
draw("a", strength=nan)                                | TypeError         | strength
draw("a", steps=-1)                                    | ValueError        | steps
draw("a", steps=10**9)                                 | ValueError        | steps
draw("a", guidance_scale=inf)                          | ValueError        | guidance_scale
draw("a", guidance_scale=1e300)                        | ValueError        | guidance_scale
draw("a", temperature=0)                               | ValueError        | temperature
draw("a", seed=2**70)                                  | ValueError        | seed
draw("a", seed=None)                                   | TypeError         | seed
speak(5)                                               | ValueError        | text
speak("a", max_seconds=0)                              | ValueError        | max_seconds
speak("a", max_seconds="a")                            | TypeError         | max_seconds
speak("a", seed="a")                                   | TypeError         | seed
log_probs(None, None)                                  | TypeError         | lists
log_probs([["a"]], [])                                 | ValueError        | 1 prompts but 0
log_probs([["a"]], [None])                             | TypeError         | answer
log_probs([["a"]], [[None]])                           | TypeError         | answer
log_probs([["a"]], [[1.5]])                            | TypeError         | answer
log_probs([["a"]], [[10**9]])                          | ValueError        | vocabulary
log_probs([["a"]], [[]])                               | ValueError        | no tokens
log_probs([["a"]], ["b"], batch_size=0)                | ValueError        | batch_size
log_probs([["a"]], ["b"], codes="x")                   | TypeError         | codes
log_probs([["a"]], ["x" * 10**8])                      | ValueError        | characters
pack("int5")                                           | ValueError        | int5
save(None)                                             | TypeError         |
mmlm.load(None)                                        | TypeError         | name
mmlm.load("nothere")                                   | FileNotFoundError | nothere
mmlm.load("/dev/zero")                                 | FileNotFoundError | not a saved model
mmlm.load("nano", dtype="float16")                     | TypeError         | dtype
mmlm.load("nano", device="gpu")                        | ValueError        | gpu
mmlm.assemble("/dev/zero", "preset:nano/image_encoder") | (OSError, ValueError) | /dev/zero
mmlm.assemble("preset:nano/language_model", "nothere") | ValueError        | nothere
mmlm.assemble("preset:nano/language_model", audio_encoder="/dev/zero") | ValueError | /dev/zero
mmlm.train(model, "nothere.jsonl", output="o")         | FileNotFoundError | nothere
mmlm.train(model, None, output="o")                    | TypeError         | data
mmlm.train(model, [], output="o")                      | ValueError        | no records
mmlm.train(model, "x.jsonl", output="o", unknown=5)    | TypeError         | unknown
mmlm.TrainConfig(seed=2**70)                           | ValueError        | seed
mmlm.TrainConfig(learning_rate=inf)                    | ValueError        | learning_rate
mmlm.TrainConfig(learning_rate=nan)                    | TypeError         | learning_rate
mmlm.TrainConfig(epochs=inf)                           | ValueError        | epochs
mmlm.TrainConfig(steps=10**30)                         | ValueError        | steps
mmlm.TrainConfig(betas=None)                           | TypeError         | betas
mmlm.TrainConfig(bad_limit=2)                          | ValueError        | bad_limit
train_from_recipe("nothere.yaml")                      | FileNotFoundError | nothere.yaml
train_from_recipe(P)                                   | ValueError        | YAML
train_from_recipe("/dev/zero")                         | ValueError        | regular file
read_records(5)                                        | TypeError         | data
read_records("{0..999999999}.tar")                     | ValueError        | 100,000 names
read_records("{a,b}" * 40)                             | ValueError        | 100,000 names
read_records(P)                                        | ValueError        | .jsonl
read_records("/dev/zero")                              | ValueError        | regular file
find_media("nothere", "image")                         | FileNotFoundError | nothere
Record("k")                                            | ValueError        | picture
Record("k", b"x", "abc")                               | TypeError         | captions
Record("k", b"x", (5,))                                | TypeError         | captions
Record("k", b"x", ("\ud800",))                         | ValueError        | Unicode
Record("k", b"x", ("a\0",))                            | ValueError        | NUL
FileSlice(Path("/dev/zero")).read()                    | ValueError        | regular file
mmlm.Rices(clip, "nothere")                            | FileNotFoundError | nothere
mmlm.Rices(clip, None)                                 | TypeError         | data
mmlm.PromptTemplate(question="")                       | ValueError        | question
mmlm.PromptTemplate(caption=5)                         | TypeError         | caption
mmlm.FusionConfig(heads=0)                             | ValueError        | heads
ImageVQVAEConfig(width="a")                            | TypeError         | width
load_image(P, max_pixels=1)                            | MediaError        | max_pixels
load_image(P, max_pixels=nan)                          | ValueError        | max_pixels
load_image("data:;base64,!!")                          | MediaError        | base64
load_image("data:,\ud800")                             | MediaError        | characters
load_image("http://127.0.0.1/", allow_url=True)        | MediaError        | public
load_image(io.StringIO("x"))                           | MediaError        | mode 'rb'
load_audio(W, sample_rate=10**12)                      | ValueError        | sample_rate
load_audio(W, sample_rate="a")                         | ValueError        | sample_rate
load_audio(W, max_seconds=0.1)                         | MediaError        | max_seconds
load_audio(W, max_bytes=5)                             | MediaError        | max_bytes
load_video(P, num_frames=0)                            | ValueError        | num_frames
load_video(P, num_frames=10**9)                        | ValueError        | num_frames
load_video(W)                                          | MediaError        | video
content_key(None)                                      | MediaError        | not a media source
audio_key("nothere.wav")                               | FileNotFoundError | nothere
clip.embed_texts("abc")                                | TypeError         | list of texts
clip.embed_texts([5])                                  | TypeError         | list of texts
clip.embed_texts([])                                   | ValueError        | no text
clip.embed_texts(["x" * 10**6])                        | ValueError        | characters
clip.embed_texts(["\ud800"])                           | ValueError        | Unicode
clip.encode(None)                                      | TypeError         | tensor
clip.encode(torch.zeros(0, 3, 64, 64))                 | ValueError        | expected
clip.embed_images(torch.zeros(3))                      | ValueError        | expected
clip.encode(torch.zeros(1, 3, 64, 64, device="meta"))  | ValueError        | meta
ears.encode([])                                        | ValueError        | spectrogram
ears.encode("abc")                                     | TypeError         | spectrogram
pictures.encode(None)                                  | TypeError         | tensor
pictures.encode(torch.full((1, 3, 128, 128), 1e38))    | ValueError        | 0..1
pictures.encode(torch.full((1, 3, 128, 128), nan))     | ValueError        | NaN
pictures.decode([])                                    | TypeError         | tensor
pictures.decode(torch.full((1, 1, 8, 8), 10**6))       | ValueError        |
sounds.encode(torch.full((1, 1, 6400), 1e38))          | ValueError        | -1..1
sounds.encode(np.zeros((1, 1, 64)))                    | TypeError         | tensor
word_error_rate([None], [None])                        | TypeError         | texts
word_error_rate([], [])                                | ValueError        | no word
medium_gap(model, ["a", "b"])                          | TypeError         | records
mmlm.contact_sheet(None)                               | TypeError         |
GenerationOptions(seed=-(2**64))                       | ValueError        | seed
GenerationOptions.of({"temprature": 1})                | TypeError         | temperature
"""

COMMANDS = r"""
caption nothere.png                      | no such file
caption bad.png                          | not an image
caption fifo                             | regular file
caption /dev/zero                        | regular file
caption {0..999999999}.png               | 100,000 names
caption P --seed 99999999999999999999999 | seed
caption P --num-beams 1000000000         | --num-beams
caption P --temperature nan              | temperature
caption P --temperature 1e-300           | temperature
caption P --top-p 7                      | --top-p
caption P --repetition-penalty inf       | --repetition-penalty
caption P --model nothere                | nothere
caption P --model /dev/zero              | not a saved model
caption P --device gpu                   | gpu
caption P --max-pixels 1                 | --max-pixels
caption P --examples nothere             | nothere
caption --data fifo.jsonl                | regular file
caption --data fifo.tar                  | regular file
caption --data fifo.json                 | regular file
caption --data bad.json                  | no JSON of captions
caption https://127.0.0.1/a --allow-url  | public
answer P ""                              | question
answer P SURROGATE                       | Unicode
generate --text ""                       | empty
generate                                 | --text
ask nothere.wav                          | no such file
ask fifo                                 | regular file
ask W --pcm-rate -5                      | Hz
ask W --max-seconds nan                  | --max-seconds
transcribe W --language klingon          | klingon
transcribe /dev/zero                     | regular file
draw "" -o x.png                         | text
draw a -o x.xyz                          | .png
draw a -o no/where/x.png                 | no such folder
draw a -o x.png --seed 99999999999999999999999 | seed
draw a -o x.png --guidance-scale inf     | --guidance-scale
draw a -o x.png --temperature nan        | temperature
draw a -o x.png --steps 1000000000       | steps
draw a -o x.png -n 1000000000            | num
speak a -o x.wav --max-seconds nan       | --max-seconds
speak a -o x.wav --max-seconds -1        | --max-seconds
init r.yaml --data nothere               | nothere
init r.yaml --data {0..999999999}.tar    | 100,000 names
init no/where/r.yaml                     | no such folder
train nothere.yaml                       | nothere.yaml
train fifo.yaml                          | regular file
train bad.png                            | YAML
train P                                  | YAML
eval nano fifo.jsonl                     | regular file
convert nothere out                      | nothere
convert /dev/zero out                    | not a saved model
"""


def rows(table: str, parts: int) -> list[tuple[str, ...]]:
    found = [tuple(part.strip() for part in f"{line} ".rsplit(" | ", parts - 1)) for line in table.strip().splitlines()]
    assert len(set(found)) == len(found)
    return found


@pytest.fixture(scope="module")
def names(nano_folder) -> dict:
    """What the calls of the table may name."""
    root = nano_folder.parents[1]
    model = mmlm.load("nano")
    verbs = "caption answer generate stream ask transcribe draw speak log_probs pack save".split()
    return {
        **globals(), **{verb: getattr(model, verb) for verb in verbs}, "model": model, "Path": Path,
        "P": str(root / "docs/images/scene.png"), "W": str(root / "demos/questions/shapes.wav"),
        "clip": model.encoders["image"], "ears": model.encoders["audio"], "pictures": model.codecs["image"],
        "sounds": model.codecs["audio"], "nan": float("nan"), "inf": float("inf"),
    }  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "word"), rows(PYTHON, 3))
def test_a_wrong_call_ends_in_a_documented_error(call, kind, word, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(eval(kind, names)) as caught:
        eval(call, names)
    assert word.lower() in str(caught.value).lower() and str(caught.value)
    assert type(caught.value) is not ValueError or "object has no attribute" not in str(caught.value)
    assert len(str(caught.value)) < 1500, "a message does not repeat what was given"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("command", "word"), rows(COMMANDS, 2))
def test_a_wrong_command_ends_in_one_line(command, word, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for fifo in ("fifo", "fifo.jsonl", "fifo.tar", "fifo.json", "fifo.yaml"):
        os.mkfifo(fifo)
    Path("bad.png").write_bytes(b"\x89PNG junk")
    Path("bad.json").write_text("[" * 5000)
    given = {"P": names["P"], "W": names["W"], "SURROGATE": "\udcff"}
    before, errors = sorted(os.listdir()), io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = main([given.get(word, word) for word in shlex.split(command)])
    assert code == 2
    (line,) = errors.getvalue().splitlines()
    assert line.startswith(f"mmlm {command.split()[0]}: ") and word in line
    assert sorted(os.listdir()) == before
