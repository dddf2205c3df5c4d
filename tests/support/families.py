"""Tiny random models of many language model families, each of its upstream transformers class."""

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

VOCAB = 272  # 256 bytes, 16 spare rows
WIDTH = 32
LAYERS = 3

_COMMON = dict(
    vocab_size=VOCAB,
    hidden_size=WIDTH,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=256,
    bos_token_id=None,
    eos_token_id=256,
    pad_token_id=None,
)
_GROUPED = dict(_COMMON, num_key_value_heads=2)
_GPT2 = dict(
    vocab_size=VOCAB, n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=256, bos_token_id=None, eos_token_id=256
)
_MOE = dict(_GROUPED, num_experts_per_tok=2)

# family → (config class, its arguments)
FAMILIES = {
    "gpt2": ("GPT2Config", _GPT2),
    "gptj": ("GPTJConfig", dict(_GPT2, rotary_dim=4)),
    "codegen": ("CodeGenConfig", dict(_GPT2, rotary_dim=4)),
    "gpt_neo": (
        "GPTNeoConfig",
        dict(_COMMON, num_layers=LAYERS, num_heads=4, attention_types=[[["global"], LAYERS]], window_size=64),
    ),
    "gpt_neo_local": (
        "GPTNeoConfig",
        dict(_COMMON, num_layers=LAYERS, num_heads=4, attention_types=[[["global", "local"], 1], [["local"], 1]])
        | dict(window_size=8),
    ),
    "gpt_neox": ("GPTNeoXConfig", _COMMON),
    "gpt_bigcode": ("GPTBigCodeConfig", _GPT2),
    "opt": ("OPTConfig", dict(_COMMON, ffn_dim=48, word_embed_proj_dim=WIDTH, pad_token_id=1)),
    "bloom": ("BloomConfig", dict(_COMMON, n_layer=LAYERS, n_head=4)),
    "mpt": (
        "MptConfig",
        dict(vocab_size=VOCAB, d_model=WIDTH, n_layers=LAYERS, n_heads=4, max_seq_len=256, eos_token_id=256),
    ),
    "falcon": ("FalconConfig", _COMMON),
    "llama": ("LlamaConfig", _GROUPED),
    "mistral": ("MistralConfig", _GROUPED),
    "mixtral": ("MixtralConfig", dict(_MOE, num_local_experts=LAYERS)),
    "qwen2": ("Qwen2Config", _GROUPED),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        dict(_MOE, num_experts=LAYERS, moe_intermediate_size=16, shared_expert_intermediate_size=16),
    ),
    "qwen3": ("Qwen3Config", dict(_GROUPED, head_dim=8)),
    "qwen3_moe": ("Qwen3MoeConfig", dict(_MOE, head_dim=8, num_experts=LAYERS, moe_intermediate_size=16)),
    "gemma": ("GemmaConfig", dict(_GROUPED, head_dim=8)),
    "gemma2": ("Gemma2Config", dict(_GROUPED, head_dim=8, sliding_window=8)),
    "gemma3": ("Gemma3TextConfig", dict(_GROUPED, head_dim=8, sliding_window=8)),
    "phi": ("PhiConfig", _COMMON),
    "phi3": ("Phi3Config", dict(_GROUPED, pad_token_id=0)),
    "stablelm": ("StableLmConfig", _GROUPED),
    "olmo2": ("Olmo2Config", _GROUPED),
    "smollm3": ("SmolLM3Config", dict(_GROUPED, pad_token_id=0)),
    "granite": ("GraniteConfig", dict(_GROUPED, logits_scaling=2.0)),
    "starcoder2": ("Starcoder2Config", _GROUPED),
    "cohere": ("CohereConfig", dict(_GROUPED, logit_scale=0.5)),
    "lfm2": ("Lfm2Config", dict(_GROUPED, full_attn_idxs=[1], block_auto_adjust_ff_dim=False)),
}

# Those whose blocks look the ids up again, in embeddings of their own; the first has several streams of hidden states.
READS_IDS_AGAIN = {
    "gemma3n": (
        "Gemma3nTextConfig",
        dict(_GROUPED, head_dim=8, sliding_window=8, vocab_size_per_layer_input=VOCAB, hidden_size_per_layer_input=8)
        | dict(laurel_rank=4, altup_num_inputs=2, num_kv_shared_layers=0, activation_sparsity_pattern=[0.0] * LAYERS),
    ),
    "gemma4": (
        "Gemma4TextConfig",
        dict(_GROUPED, head_dim=8, global_head_dim=8, sliding_window=8, num_kv_shared_layers=0)
        | dict(vocab_size_per_layer_input=VOCAB, hidden_size_per_layer_input=8),
    ),
}


def language_model(family: str, seed: int = 0) -> torch.nn.Module:
    """A tiny random model of a family, with weights large enough that every part of it matters."""
    name, arguments = (FAMILIES | READS_IDS_AGAIN)[family]
    config = getattr(transformers, name)(**arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for path, parameter in model.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
            elif "correct_output_scale" in path:
                torch.nn.init.ones_(parameter)
    return model.eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: one id a byte, and `<|endoftext|>` as 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")


def sentencepiece_bpe(merges: tuple[tuple[str, str], ...] = ()) -> PreTrainedTokenizerFast:
    """Llama's kind: `▁` for spaces, bytes for what has no piece, `<s>` and `</s>` among the pieces."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁<>/|sabcdeilmnoz",
        "</",
        "s>",
        "<s",
    ]
    core = Tokenizer(
        models.BPE(
            {p: i for i, p in enumerate(pieces)}, list(merges), unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
