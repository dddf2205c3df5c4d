"""What the decode loop costs beside transformers' own, over the same model, media and cache of keys and values.

    python benchmarks/decoding.py [--rounds 7] [--tokens 64] [--batch 1] [--pictures 1] [--sizes 256x4 768x12]

Both loops run the same hooks, so the ratio shows the loop alone; "bare" is the limit, the same passes with the tokens
known beforehand and nothing between them. Prints medians of paired ratios.
"""

import argparse
import statistics
import time

import torch
import transformers
from parts import progress
from tokenizers import Tokenizer, models

from encoders.base import Features, FrozenEncoder
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.generation.decoder import Decoder
from mmlm.generation.loop import decode
from mmlm.generation.options import GenerationOptions
from mmlm.model.config import FusionConfig, ResamplerConfig
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.processor import Batch


class GivenFeatures(FrozenEncoder):
    """Stands in for a picture encoder: this benchmark begins after it."""

    modality, dim = "image", 128


def build(hidden: int, layers: int) -> MultimodalLM:
    """A random Llama with a gated block before every block."""
    config = transformers.LlamaConfig(
        vocab_size=2048,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=hidden * 8 // 3,
        bos_token_id=None,
        eos_token_id=None,
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))
    model = MultimodalLM(
        LanguageModel(transformers.LlamaForCausalLM(config), tokenizer),
        GivenFeatures(),
        ResamplerConfig(depth=2),
        FusionConfig(),
    )
    for layer in model.fusion.layers:
        torch.nn.init.ones_(layer.attn_gate)
        torch.nn.init.ones_(layer.ff_gate)
    torch.nn.init.zeros_(model.language_model.added.head)
    return model.eval()


def ours(model: MultimodalLM, batch: Batch, media: list, tokens: int) -> torch.Tensor:
    """The library's greedy loop."""
    decoder = Decoder(model.language_model, model.media_context(batch, media), batch, tokens)
    return torch.stack([step.tokens for step in decode(decoder, GenerationOptions(max_new_tokens=tokens), [-1])], dim=1)


def theirs(model: MultimodalLM, batch: Batch, media: list, tokens: int) -> torch.Tensor:
    """transformers' greedy loop, with the same hooks."""
    host = model.language_model
    with host.request(model.media_context(batch, media)):
        ids = host.model.generate(
            batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=tokens,
            do_sample=False,
            suppress_tokens=list(range(host.vocabulary.offset, host.vocabulary.offset + len(host.vocabulary))),
        )
    return ids[:, batch.input_ids.shape[1] :]


def bare(model: MultimodalLM, batch: Batch, media: list, tokens: int, known: torch.Tensor) -> None:
    """The passes alone."""
    decoder = Decoder(model.language_model, model.media_context(batch, media), batch, tokens)
    decoder.prefill()
    for step in range(tokens - 1):
        decoder.step(known[:, step])


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=1)
    parser.add_argument("--sizes", nargs="+", default=["256x4", "768x12"], help="width x blocks")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    print("| language model | ms a token | transformers' loop | bare passes |\n| --- | --- | --- | --- |")
    for size in args.sizes:
        hidden, layers = map(int, size.split("x"))
        model = build(hidden, layers)
        ids = torch.randint(0, 2048, (args.batch, 32))
        ids[:, : args.pictures] = model.language_model.vocabulary.image_id
        batch = Batch(ids, torch.ones_like(ids))
        media = [[Features(torch.randn(1, 64, 128)) for _ in range(args.pictures)] for _ in range(args.batch)]
        known = ours(model, batch, media, args.tokens)
        assert torch.equal(known, theirs(model, batch, media, args.tokens)), "the two loops write different tokens"
        own, ratios, limits = [], [], []
        for done in range(args.rounds):
            progress(f"{size}: round {done + 1} of {args.rounds}")
            times = []
            for run in (ours, theirs, lambda *a, known=known: bare(*a, known)):
                start = time.perf_counter()
                run(model, batch, media, args.tokens)
                times.append((time.perf_counter() - start) / args.tokens * 1000)
            own.append(times[0])
            ratios.append(times[1] / times[0])
            limits.append(times[2] / times[0])
        median = statistics.median
        print(f"| {layers} x {hidden} | {median(own):.2f} | {median(ratios):.2f} x | {median(limits):.2f} x |")


if __name__ == "__main__":
    main()
