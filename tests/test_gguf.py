"""Files of GGUF: the network, the tokenizer and the words about faults. Nothing here needs llama.cpp's own writer."""

import json
import os
import struct
import sys
from pathlib import Path

import pytest
import regex
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import mmlm
from encoders.gguf import read_gguf
from encoders.sizes import RefusedError
from mmlm.assembly.forms.gguf_tokenizer import SPLITS, gguf_tokenizer
from mmlm.assembly.frozen import causal_model
from mmlm.cli.command import main
from support import families, gguf_files, parts

FAMILIES = ["llama", "qwen2", "qwen3", "gemma3"]
REAL = Path(os.environ.get("MMLM_REAL", Path(__file__).parents[2] / "shared/real"))


def real(name: str) -> Path:
    if not (REAL / name).exists():
        pytest.skip(f"no {name} in {REAL}: set MMLM_REAL to a folder made by shared/real/prepare.py")
    return REAL / name


@torch.no_grad()
def logits(model, ids=None) -> torch.Tensor:
    return model(torch.arange(3, 60).unsqueeze(0) if ids is None else ids).logits


def upstream(family: str, **changes):
    """A tiny model with norms that are not all ones, and a head of its own where `changes` say so."""
    name, arguments = families.FAMILIES[family]
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**arguments | changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model.eval()


# The network


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_the_logits_are_those_of_the_folder(tmp_path, family, tied):
    changes = dict(tie_word_embeddings=tied, num_hidden_layers=7)  # of gemma3, one of these layers sees everything
    if family == "gemma3":
        changes["query_pre_attn_scalar"] = 8  # the width of a head, as in all but the largest
    model = upstream(family, **changes)
    path = gguf_files.model_file(tmp_path / "model.gguf", model, family, families.tokenizer())
    loaded, tokenizer, name = causal_model(path, None, torch.float32)
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=0)
    assert name == str(path) and tokenizer("hé 12").input_ids == families.tokenizer()("hé 12").input_ids
    assert loaded.config.max_position_embeddings == 256 and loaded.generation_config.eos_token_id == [256]


def test_the_positions_of_llama_3_are_scaled(tmp_path):
    """By factors in the file, which upstream computes from four numbers."""
    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    model, plain = upstream("llama", rope_parameters=rope, head_dim=64), upstream("llama", head_dim=64)
    settings_ = gguf_files.settings_of(model, "llama") | gguf_files.tokens_of(families.tokenizer())
    factors = 500_000.0 ** -(torch.arange(0, 64, 2) / 64) / model.model.rotary_emb.inv_freq
    tensors = gguf_files.tensors_of(model, "llama") | {"rope_freqs.weight": factors}
    path = gguf_files.write(tmp_path / "a.gguf", settings_, tensors)
    loaded = causal_model(path, None, torch.float32)[0]
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=0)
    assert not torch.allclose(logits(loaded), logits(plain), atol=1e-3)
    gguf_files.write(tmp_path / "b.gguf", settings_, tensors | {"rope_freqs.weight": factors * 2})
    with pytest.raises(ValueError, match="factors of positions that are not Llama 3's"):
        causal_model(tmp_path / "b.gguf", None, torch.float32)


def test_quantised_weights_are_the_values_that_they_stand_for(tmp_path):
    pytest.importorskip("gguf")
    model = families.language_model("llama")
    names = ("blk.0.ffn_gate.weight", "token_embd.weight", "blk.1.attn_q.weight")
    path = gguf_files.model_file(tmp_path / "model.gguf", model, "llama", families.tokenizer(), quantised=names)
    loaded = causal_model(path, None, torch.float32)[0]
    for layer in ("model.layers.0.mlp.gate_proj", "model.embed_tokens"):
        expected = gguf_files.q8_0(model.get_submodule(layer).weight)[1]
        assert torch.equal(loaded.get_submodule(layer).weight, expected)
    swapped = gguf_files.q8_0(gguf_files.tensors_of(model, "llama")["blk.1.attn_q.weight"])[1]
    assert torch.equal(gguf_files.tensors_of(loaded, "llama")["blk.1.attn_q.weight"], swapped)


def test_without_the_package_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    model = families.language_model("llama")
    names = ("token_embd.weight",)
    path = gguf_files.model_file(tmp_path / "model.gguf", model, "llama", families.tokenizer(), quantised=names)
    with pytest.raises(ImportError, match=r"pip install 'mmlm\[gguf\]'"):
        causal_model(path, None, torch.float32)


def test_a_saved_model_remembers_its_file_and_a_bundle_takes_it_along(tmp_path, recwarn):
    language_model = families.language_model("llama")
    path = gguf_files.model_file(tmp_path / "lm.gguf", language_model, "llama", families.tokenizer())
    model = mmlm.assemble(path, parts.image_encoder(), resampler=parts.RESAMPLER, fusion=parts.fusion())
    parts.open_gates(model)
    model.save(tmp_path / "model")
    assert json.loads((tmp_path / "model/config.json").read_text())["language_model"]["name"] == "../lm.gguf"
    loaded = mmlm.load(tmp_path / "model", image_encoder=parts.image_encoder())
    rows = [[parts.picture(1), "Output:"]]
    expected = parts.token_ids(model, rows, max_new_tokens=5)
    assert parts.token_ids(loaded, rows, max_new_tokens=5) == expected
    assert loaded.language_model.fingerprint() == model.language_model.fingerprint()
    from mmlm.model.language_model import LanguageModel

    folder = LanguageModel(language_model, families.tokenizer())
    assert folder.fingerprint() == model.language_model.fingerprint()  # the same weights in another form
    from mmlm.assembly.bundle import _language_model

    _language_model(model.language_model)(tmp_path / "bundle")
    again = causal_model(tmp_path / "bundle", None, torch.float32)
    assert torch.equal(logits(again[0]), logits(model.language_model.model))
    assert again[1]("a 1").input_ids == families.tokenizer()("a 1").input_ids
    assert not [one for one in recwarn if "fingerprint" in str(one.message)]


# The tokenizer

# Ways to split texts, as llama.cpp writes them
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ENDINGS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
PATTERNS = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "qwen2": [ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "tekken": [  # as Mistral's own tokenizer has it: llama.cpp's leaves marks out
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
        r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    ],
}
MERGES = ["1 2", "12 3", "Ġ t", "Ġt h", "t h", "h e", "th e", "Ġth e", "' s", "Ġ Ġ", "ĠĠ Ġ", "Ċ Ċ", "Ġ 1", "Ġ 12",
          "( )", "n n", "Ã ©", "e Ì", "L o", ") Ċ"]  # fmt: skip
TEXTS = st.lists(
    st.sampled_from([*"'\"sStTreREvmld thenx12349.,;:!?()/_-\n\r\t  ", *"éÄßжЩλ日本語ーก²½Ⅳ",
                      "👩‍🚀", "e\u0301", "'s", "123", "   "]),
    max_size=24,
).map("".join)  # fmt: skip


def naive(text: str, pieces: list[str], vocabulary: dict[str, int], merges: list[str], whole: bool) -> list[int]:
    """Byte-level BPE, merging the pair of the lowest rank again and again."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    spelling, ids = bytes_to_unicode(), []
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
    for piece in pieces:
        symbols = [spelling[byte] for byte in piece.encode()]
        if whole and "".join(symbols) in vocabulary:
            symbols = ["".join(symbols)]
        while pairs := [(ranks[pair], at) for at, pair in enumerate(zip(symbols, symbols[1:])) if pair in ranks]:
            at = min(pairs)[1]
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        ids += [vocabulary[symbol] for symbol in symbols]
    return ids


def split(text: str, patterns: list[str]) -> list[str]:
    """Each pattern splits what the ones before left: its matches and what lies between them."""
    pieces = [text]
    for pattern in patterns:
        found = []
        for piece in pieces:
            place = 0
            for match in regex.finditer(pattern, piece):
                found += [piece[place : match.start()], match[0]]
                place = match.end()
            found.append(piece[place:])
        pieces = [piece for piece in found if piece]
    return pieces


def byte_level_file(path: Path, pre: str, **changes) -> Path:
    alphabet = sorted(token for token in families.tokenizer().get_vocab() if len(token) == 1)
    tokens = [*alphabet, *(merge.replace(" ", "") for merge in MERGES), "Ġnn1", "nnn", "<|end|>"]
    settings_ = {
        "general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": list(dict.fromkeys(tokens)), "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.add_bos_token": False,
    } | changes  # fmt: skip
    count = len(settings_["tokenizer.ggml.tokens"])
    settings_.setdefault("tokenizer.ggml.token_type", [1] * (count - 1) + [3])
    settings_ = {key: one for key, one in settings_.items() if one is not None}
    return gguf_files.write(path, settings_, {"token_embd.weight": torch.zeros(1, 1)})


@pytest.mark.parametrize("pre", PATTERNS)
def test_texts_are_split_as_the_file_says(tmp_path_factory, pre):
    """Against llama.cpp's patterns and an encoder of twenty lines."""
    file = read_gguf(byte_level_file(tmp_path_factory.mktemp("gguf") / "a.gguf", pre))
    tokenizer = gguf_tokenizer(file)
    vocabulary = {token: at for at, token in enumerate(file.settings["tokenizer.ggml.tokens"])}

    @settings(max_examples=150, deadline=None)
    @given(TEXTS)
    def law(text):
        import unicodedata

        read = unicodedata.normalize("NFC", text) if pre == "qwen2" else text
        expected = naive(read, split(read, PATTERNS[pre]), vocabulary, MERGES, pre in ("llama-bpe", "tekken"))
        assert tokenizer(text).input_ids == expected
        assert tokenizer.decode(expected) == read

    law()


def test_ways_of_splitting_are_the_same_by_all_their_names():
    assert SPLITS["starcoder"] == SPLITS["refact"] == SPLITS["command-r"] == SPLITS["smollm"]
    assert SPLITS["llama3"] == SPLITS["llama-v3"] == SPLITS["llama-bpe"] and SPLITS["phi-2"] == SPLITS["gpt-2"]


@pytest.mark.parametrize("pre", ["poro-chat", "default", None])
def test_an_unknown_way_of_splitting_is_refused_and_a_given_tokenizer_helps(tmp_path, pre):
    changes = {"tokenizer.ggml.pre": pre}
    model = families.language_model("llama")
    path = gguf_files.model_file(tmp_path / "a.gguf", model, "llama", families.tokenizer(), **changes)
    with pytest.raises(ValueError, match=f"splits texts in the way {pre!r}, which is not known: put .* beside it"):
        causal_model(path, None, torch.float32)
    given_ = families.tokenizer()
    assert causal_model(path, given_, torch.float32)[1] is given_


def test_a_tokenizer_beside_a_file_stands_for_one_that_is_not_read(tmp_path, capsys):
    """In Python, in a saved model and on the command line, whose messages name what helps there."""
    language_model, ears = families.language_model("llama"), Path(__file__).parents[1] / "mmlm/nano/audio_encoder.pt"
    changes = {"tokenizer.ggml.pre": "poro-chat"}
    path = gguf_files.model_file(tmp_path / "lm.gguf", language_model, "llama", families.tokenizer(), **changes)
    asked = ["chat", "hi", "--language-model", str(path), "--audio-encoder", str(ears), "--max-new-tokens", "4"]
    assert main(asked) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "tokenizer_config.json of the model's folder beside it\n" in line

    families.tokenizer().save_pretrained(tmp_path)
    assert main(asked) == 0
    written = mmlm.assemble(
        language_model, audio_encoder=ears, tokenizer=families.tokenizer()
    ).chat([{"role": "user", "content": "hi"}], max_new_tokens=4)  # fmt: skip
    assert capsys.readouterr().out.split() == written.split()
    model = mmlm.assemble(path, parts.image_encoder(), resampler=parts.RESAMPLER, fusion=parts.fusion())
    again = mmlm.load(model.save(tmp_path / "model"), image_encoder=parts.image_encoder())
    assert again.language_model.tokenizer("hé 12").input_ids == families.tokenizer()("hé 12").input_ids
    assert again.language_model.stop_ids == model.language_model.stop_ids

    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())
    ids = vocabulary["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(RefusedError, match="another model's: '[ab]' has the id"):
        causal_model(path, None, torch.float32)
    own = {"tokenizer.ggml.pre": "smollm"}  # a file's own comes first
    gguf_files.model_file(path, language_model, "llama", families.tokenizer(), **own)
    assert causal_model(path, None, torch.float32)[1]("ab").input_ids == families.tokenizer()("ab").input_ids


def test_special_tokens_and_templates_are_those_of_the_file(tmp_path):
    last = len(read_gguf(byte_level_file(tmp_path / "a.gguf", "llama-bpe")).settings["tokenizer.ggml.tokens"]) - 1
    path = byte_level_file(tmp_path / "a.gguf", "llama-bpe", **{
        "tokenizer.ggml.add_bos_token": None, "tokenizer.ggml.bos_token_id": 5, "tokenizer.ggml.eos_token_id": last,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}<|end|>",
    })  # fmt: skip
    tokenizer = gguf_tokenizer(read_gguf(path))
    assert (
        tokenizer("a<|end|>").input_ids[0] == 5
        and tokenizer("a<|end|>").input_ids[-1] == last == tokenizer.eos_token_id
    )
    assert tokenizer("ab", "c").input_ids.count(5) == 2
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "x"}])["input_ids"]
    assert ids[-1] == last and tokenizer.decode(ids, skip_special_tokens=True) == "x"


def spm(text: str, tokens: list[str], user_defined: set[str]) -> list[str]:
    """llama.cpp's SentencePiece: user-defined tokens, then the two neighbours that make the token of the lowest id."""
    ids = {token: at for at, token in enumerate(tokens)}
    pattern = "|".join(map(regex.escape, sorted(user_defined, key=len, reverse=True))) or "(?!)"
    found, place = [], 0
    for match in [*regex.finditer(pattern, text), None]:
        symbols = list(text[place : match.start() if match else None].replace(" ", "▁"))
        while pairs := [(ids[a + b], at) for at, (a, b) in enumerate(zip(symbols, symbols[1:])) if a + b in ids]:
            at = min(pairs)[1]
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        for symbol in symbols:
            found += [symbol] if symbol in ids else [f"<0x{byte:02X}>" for byte in symbol.encode()]
        if match:
            found.append("▁" * len(match[0]) if not match[0].strip(" ") else match[0])
            place = match.end()
    return found


def test_pieces_of_sentencepiece_are_merged_by_their_ids(tmp_path_factory):
    pieces = ["▁t", "he", "▁the", "en", "th", "▁▁", "12", "▁1", "re", "ther", "▁then"]
    letters = sorted({letter for letter in "▁then1239.,'srvmdl()"})
    control = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*control, "\n\n", *bytes_, *pieces, *letters]
    types = [3] * 3 + [4] + [6] * 256 + [1] * (len(pieces) + len(letters))
    settings_ = {
        "general.architecture": "gemma3", "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types, "tokenizer.ggml.scores": [-float(at) for at in range(len(tokens))],
        "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.add_space_prefix": False,
    }  # fmt: skip
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    embedding = {"token_embd.weight": torch.zeros(1, 1)}
    tokenizer = gguf_tokenizer(read_gguf(gguf_files.write(path, settings_, embedding)))

    @settings(max_examples=150, deadline=None)
    @given(TEXTS)
    def law(text):
        assert tokenizer.tokenize(text) == spm(text, tokens, {"\n\n"})
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text

    law()
    assert tokenizer("a").input_ids[0] == 1
    prefixed = gguf_tokenizer(
        read_gguf(gguf_files.write(path, settings_ | {"tokenizer.ggml.add_space_prefix": True}, embedding))
    )
    assert prefixed.tokenize("the") == ["▁the"] and prefixed.decode(prefixed("the").input_ids[1:]) == "the"


# Faults


LONG = ["a" * 10**6, *(f"<{number}>" for number in range(256))]  # its halves alone are 10^12 characters


def whole(tmp_path: Path, **changes) -> Path:
    model = families.language_model("llama")
    return gguf_files.model_file(tmp_path / "whole.gguf", model, "llama", families.tokenizer(), **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"general.architecture": "clip"}, "no language model but a part of one"),
        ({"general.type": "mmproj"}, "no language model but a part of one \\(mmproj\\)"),
        ({"general.type": "adapter"}, "no language model but a part of one \\(adapter\\)"),
        ({"split.count": 3}, "one of 3 parts: join them"),
        ({"general.architecture": "rwkv6"}, "holds a rwkv6, and GGUF is read for llama"),
        ({"llama.expert_count": 8}, "not understood \\(expert_count\\)"),
        ({"llama.rope.scaling.type": "yarn"}, "scaling of positions is 'yarn'"),
        ({"llama.block_count": 10**9}, "not those of its tensors"),
        ({"llama.embedding_length": 64}, "not those of its tensors"),
        ({"llama.feed_forward_length": 10**9}, "not those of the network|cannot fill"),
        ({"llama.attention.head_count": 1000}, "not a multiple|not those of the network"),
        ({"llama.attention.head_count": 0}, "lacks settings|division"),
        ({"llama.attention.head_count": "many"}, "lacks settings"),
        ({"llama.rope.dimension_count": 10**9}, "not those of the network|cannot fill"),
        ({"llama.block_count": None}, "lacks settings of a llama"),
        ({"tokenizer.ggml.model": "rwkv"}, "tokenizer of the kind 'rwkv', which is not read: put .* beside it"),
        ({"tokenizer.ggml.eos_token_id": 5000}, "special ones, than it has tokens"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": LONG}, "a token of more than 1,000 characters"),
        ({"general.alignment": 0}, "no alignment 0"),
    ],
    ids=str,
)
def test_what_is_not_read_is_refused_in_one_line(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words) as caught:
        causal_model(whole(tmp_path, **changes), None, torch.float32)
    assert "\n" not in str(caught.value)


def test_a_tensor_that_lacks_or_is_too_many_is_told(tmp_path):
    model = families.language_model("llama")
    settings_ = gguf_files.settings_of(model, "llama") | gguf_files.tokens_of(families.tokenizer())
    tensors = gguf_files.tensors_of(model, "llama")
    lacking = {name: tensor for name, tensor in tensors.items() if name != "blk.1.ffn_up.weight"}
    for changed, words in [
        (lacking, "mlp.up_proj"),
        (tensors | {"v.patch_embd.weight": torch.zeros(2)}, "v.patch_embd"),
    ]:
        gguf_files.write(tmp_path / "a.gguf", settings_, changed)
        with pytest.raises(ValueError, match=words):
            causal_model(tmp_path / "a.gguf", None, torch.float32)


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path):
    data = whole(tmp_path).read_bytes()
    for end in [*range(5, 400, 7), *range(400, len(data), len(data) // 60), len(data) - 1]:
        (tmp_path / "cut.gguf").write_bytes(data[:end])
        with pytest.raises(RefusedError, match="cut off"):
            causal_model(tmp_path / "cut.gguf", None, torch.float32)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(4, 6000), data=st.binary(min_size=1, max_size=8))
def test_a_damaged_header_is_an_error_of_a_documented_type_or_none(tmp_path_factory, place, data):
    folder = tmp_path_factory.getbasetemp()
    if not (folder / "whole.gguf").exists():
        whole(folder)
    content = bytearray((folder / "whole.gguf").read_bytes())
    content[place : place + len(data)] = data
    (folder / "damaged.gguf").write_bytes(content)
    try:
        causal_model(folder / "damaged.gguf", None, torch.float32)
    except (ValueError, ImportError, OSError) as error:
        assert "\n" not in str(error)


def test_lengths_beyond_the_file_take_no_memory(tmp_path):
    head = b"GGUF" + struct.pack("<I", 3)
    huge = struct.pack("<Q", 1 << 60)
    key = gguf_files.text("a")
    for rest in [
        huge + struct.pack("<Q", 0),
        struct.pack("<Q", 0) + huge,
        struct.pack("<QQ", 0, 1) + huge,
        struct.pack("<QQ", 0, 1) + key + struct.pack("<I", 8) + huge,
        struct.pack("<QQ", 0, 1) + key + struct.pack("<II", 9, 8) + huge,
        struct.pack("<QQ", 0, 1) + key + struct.pack("<II", 9, 5) + huge,
        struct.pack("<QQ", 1, 0) + key + struct.pack("<I", 1 << 31),
        struct.pack("<QQ", 1, 0) + key + struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0),
        struct.pack("<QQ", 0, 1) + key + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 9, 1) * 9,
    ]:
        (tmp_path / "a.gguf").write_bytes(head + rest + bytes(200))
        with pytest.raises(RefusedError):
            read_gguf(tmp_path / "a.gguf")


# Real files


def test_a_real_file_has_the_tokenizer_of_its_folder():
    tokenizer = gguf_tokenizer(read_gguf(real("SmolLM2-135M-Instruct.Q4_1.gguf")))
    expected = transformers.AutoTokenizer.from_pretrained(real("smollm2-135m-instruct"))

    @settings(max_examples=300, deadline=None)
    @given(
        st.one_of(
            st.text(max_size=60), TEXTS, st.sampled_from(["<|im_start|>user\nhi<|im_end|>", "def f(x):\n\treturn 12"])
        )
    )
    def law(text):
        assert tokenizer(text).input_ids == expected(text).input_ids

    law()
    assert tokenizer.special_tokens_map == expected.special_tokens_map
    assert tokenizer.chat_template == expected.chat_template
    turns = [{"role": "user", "content": "What is 12 + 30?"}]
    assert tokenizer.apply_chat_template(turns) == expected.apply_chat_template(turns)


@pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m.Q4_K_M.gguf"])
def test_a_real_file_has_the_logits_of_transformers(name, tmp_path):
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate", reason="transformers reads GGUF with accelerate")
    model = causal_model(real(name), families.tokenizer(), torch.float32)[0]
    expected = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=str(real(name)), dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )  # fmt: skip
    torch.testing.assert_close(logits(model), logits(expected.eval()), atol=1e-5, rtol=0)
