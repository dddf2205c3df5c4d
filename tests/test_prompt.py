"""Prompts: text is text, parts alone make control tokens, labels are exact by construction."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from encoders.base import Features
from mmlm.prompting.parts import END_OF_CHUNK, Image, Markup, as_part
from mmlm.prompting.processor import Batch, Example, Processor
from mmlm.prompting.templates import PromptTemplate, demonstrations
from mmlm.prompting.vocabulary import MediaVocabulary
from support import families, parts
from support.families import sentencepiece_bpe

END, IMAGE, PAD = families.VOCAB, families.VOCAB + 1, families.VOCAB + 2


def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2's kind, with control tokens of a chat model added, special and not."""
    tokenizer = families.tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<image>", "<|endofchunk|>"]})
    tokenizer.add_tokens(["<|fim_prefix|>", "<｜User｜>", "llama"])  # control tokens that are not called so; a word
    tokenizer.bos_token = "<|im_start|>"
    return tokenizer


def spelling_bpe() -> PreTrainedTokenizerFast:
    """The same with merges that spell its control tokens, as some converted vocabularies have."""
    return sentencepiece_bpe((("<", "/"), ("s", ">"), ("<", "s"), ("</", "s>"), ("<s", ">")))


def unigram() -> PreTrainedTokenizerFast:
    """A Unigram vocabulary, which matches any piece it holds, control tokens included."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((c, -5.0) for c in "▁<>/|sabcdeilmnoz")]
    core = Tokenizer(models.Unigram(pieces, 0))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {f.__name__: f() for f in (byte_level, sentencepiece_bpe, spelling_bpe, unigram)}
UNMARKED = ["<|fim_prefix|>", "<｜User｜>"]
CONTROL = ["<image>", "<|endofchunk|>", "<|pad|>", "<|endoftext|>", "<|im_start|>", "<s>", "</s>", "<unk>", *UNMARKED]


def processor(tokenizer: PreTrainedTokenizerFast, max_length: int | None = None) -> Processor:
    return Processor(tokenizer, MediaVocabulary(max(families.VOCAB, len(tokenizer))), max_length)


def texts() -> st.SearchStrategy[str]:
    """Text around, between and across the control tokens that a user might type."""
    piece = (
        st.sampled_from(CONTROL)
        | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=6)
        | st.sampled_from(["<", "</", "s>", "<|", "|>", " ", "é", "🙂"])
    )
    return st.lists(piece, max_size=6).map("".join)


@pytest.mark.parametrize("kind", list(TOKENIZERS))
@settings(max_examples=60, deadline=None)
@given(text=texts())
def test_user_text_never_becomes_a_control_token(kind, text):
    tokenizer = TOKENIZERS[kind]
    made = processor(tokenizer)
    control = {i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id}
    control |= {tokenizer.convert_tokens_to_ids(token) for token in UNMARKED if token in tokenizer.get_vocab()}
    ids = made.text_ids(text)
    assert not control & set(ids)
    assert all(token < made.vocabulary.offset for token in ids)
    example = made.encode([text, Image("a.png"), text, END_OF_CHUNK], target=text)
    assert example.input_ids == [*made.prefix, *ids, made.vocabulary.image_id, *ids, made.vocabulary.end_of_chunk_id,
                                 *ids, made.vocabulary.end_of_chunk_id]  # fmt: skip
    assert example.media == [Image("a.png")]
    known = "".join(c for c in text if kind != "unigram" or c in "<>/|sabcdeilmnoz")
    if known == text and "  " not in text and text == text.strip():
        assert made.decode(ids) == text, "and what was typed is what comes back"


@settings(max_examples=60, deadline=None)
@given(prompt=texts(), target=texts())
def test_loss_is_on_the_target_and_its_end_alone(prompt, target):
    made = processor(families.tokenizer())
    example = made.encode(["q", prompt, Image("a"), "Output:"], target=target)
    letters = len(target.encode())  # a byte-level tokenizer without merges: one id a byte
    start = 1 + len(prompt.encode()) + 1 + len("Output:")
    assert len(example.input_ids) == len(example.labels) == start + letters + 1
    assert example.labels[:start] == [-100] * start
    assert example.labels[start:] == example.input_ids[start:]
    assert example.labels[-1] == END
    assert IMAGE not in example.labels
    assert made.decode(example.labels[start:]) == target


def test_a_prompt_without_target_carries_no_loss():
    example = processor(families.tokenizer()).encode(["ab", Image("x"), END_OF_CHUNK])
    assert example.labels == [-100] * 4


def test_added_words_stay_words():
    made = processor(byte_level())
    assert made.text_ids("llama") == [made.tokenizer.convert_tokens_to_ids("llama")]
    assert made.decode(made.text_ids("a <｜User｜> llama")) == "a <｜User｜> llama"


def test_text_with_a_token_that_the_language_model_has_no_row_for_is_an_error():
    tokenizer = families.tokenizer()
    tokenizer.add_tokens([f"[token {i}]" for i in range(40)])
    made = Processor(tokenizer, MediaVocabulary(families.VOCAB))
    made.text_ids("[token 1]")
    first_outside = families.VOCAB - 257
    beyond = f"[token {first_outside}]"  # its id is that of <|endofchunk|>
    for prompt in (beyond, [Markup(beyond)], [Markup(beyond), f"a {tokenizer.eos_token} that was typed"]):
        with pytest.raises(ValueError, match="id 272 .*272 rows"):
            made.encode(prompt)


def test_the_beginning_token_is_written_where_the_tokenizer_writes_it():
    tokenizer = sentencepiece_bpe()
    assert processor(tokenizer).encode(["ab"]).input_ids[0] != 1, "a bos token is set, but never written"
    tokenizer = sentencepiece_bpe()
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert tokenizer("ab")["input_ids"][0] == 1
    ids = processor(tokenizer).encode(["ab", Image("x"), "ab"], target="ab").input_ids
    assert [place for place, token in enumerate(ids) if token == 1] == [0], "once, at the start"


def test_batches_are_padded_on_the_side_asked_for():
    made = processor(families.tokenizer())
    examples = [Example([5, 6, 7], [-100, 6, 7], []), Example([8], [8], [])]
    left, right = made.collate(examples, "left"), made.collate(examples, "right")
    assert left.input_ids.tolist() == [[5, 6, 7], [PAD, PAD, 8]]
    assert left.attention_mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert left.labels.tolist() == [[-100, 6, 7], [-100, -100, 8]]
    assert right.input_ids.tolist() == [[5, 6, 7], [8, PAD, PAD]]
    assert right.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert right.labels.tolist() == [[-100, 6, 7], [8, -100, -100]]
    with pytest.raises(ValueError, match="middle"):
        made.collate(examples, "middle")


def test_ids_stay_integers_whatever_the_precision():
    model = parts.build("llama")
    model.to(torch.bfloat16)
    batch, media = parts.encoded(model, parts.prompts())
    assert batch.input_ids.dtype == torch.int64
    text = parts.texts(model, parts.prompts(), max_new_tokens=3)
    assert len(text) == 3


def test_empty_and_overlong_prompts_are_errors():
    made = processor(families.tokenizer(), max_length=8)
    for empty in ([], [""], ""):
        with pytest.raises(ValueError, match="empty"):
            made.encode(empty)
    made.encode(["1234567", Image("x")])
    with pytest.raises(ValueError, match="9 tokens.*8 positions"):
        made.encode(["12345678", Image("x")])


@pytest.mark.parametrize("value", [None, 3, 2.5, True, {"image": 1}, ["text"], ("a",)])
def test_what_is_no_part_is_a_clear_error(value):
    with pytest.raises(TypeError, match=type(value).__name__):
        as_part(value)
    with pytest.raises(TypeError):
        prompt = value if isinstance(value, dict | int | float | type(None)) else ["a", value]
        parts.shared("llama").generate(prompt)


def test_pictures_of_any_kind_become_image_parts():
    for source in (Path("a.png"), parts.picture(0), np.zeros((2, 2, 3)), b"bytes", Features(torch.zeros(1, 2, 3))):
        assert as_part(source) == Image(source) or as_part(source).source is source
    assert as_part("a.png") == "a.png", "a plain string is text, never a path"
    assert as_part(END_OF_CHUNK) is END_OF_CHUNK


def test_templates_are_openflamingos_and_questions_are_text():
    template = PromptTemplate()
    assert template.caption_prompt("a.png") == [Image("a.png"), "Output:"]
    assert template.question_prompt(Image("a.png"), "What {question} is {0}?") == [
        Image("a.png"),
        "Question:What {question} is {0}? Short answer:",
    ]
    shots = demonstrations([(template.caption_prompt("1"), "one"), (template.caption_prompt("2"), "two")])
    assert shots == [Image("1"), "Output:", "one", END_OF_CHUNK, Image("2"), "Output:", "two", END_OF_CHUNK]
    with pytest.raises(ValueError, match="{question}"):
        PromptTemplate(question="Q: {q}")
    with pytest.raises(ValueError, match="empty"):
        template.question_prompt("a.png", "  ")


def test_vocabulary_ids_round_trip_and_end_where_they_end():
    vocabulary = MediaVocabulary(100)
    assert [vocabulary.token(vocabulary.id(token)) for token in vocabulary.tokens] == list(vocabulary.tokens)
    assert (vocabulary.end_of_chunk_id, vocabulary.image_id, vocabulary.pad_id, len(vocabulary)) == (100, 101, 102, 3)
    assert 99 not in vocabulary and 100 in vocabulary and 102 in vocabulary and 103 not in vocabulary
    for outside in (99, 103, -1):
        with pytest.raises(ValueError, match=str(outside)):
            vocabulary.token(outside)
    with pytest.raises(ValueError, match="<audio>"):
        vocabulary.id("<audio>")


def test_decoded_text_has_no_control_tokens():
    made = processor(families.tokenizer())
    ids = torch.tensor([*made.text_ids("a b"), END, 256, IMAGE, *made.text_ids("<image>")])
    assert made.decode(ids) == "a b<image>"


def test_batch_moves_whole():
    batch = Batch(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.long))
    moved = batch.to("meta")
    assert moved.input_ids.device.type == moved.attention_mask.device.type == "meta"
    assert moved.labels is None
