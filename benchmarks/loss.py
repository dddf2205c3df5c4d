"""The loss over a large vocabulary: its memory and time with all logits at once, and some at a time, as in training.

    python benchmarks/loss.py [--vocabulary 151936] [--tokens 2048] [--rounds 3] [--threads 2] [--device cuda]

A language model of two blocks of width 896 learns all tokens of documents; forward and backward, in float32 and with
autocast. Memory is the most that was held above that before the step. Both have the same loss and gradients
(tests/test_loss_in_parts.py).
"""

import argparse
import statistics
import time

import torch
from parts import Size, causal_lm, machine
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mmlm.assembly.assemble import assemble
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.processor import Batch
from mmlm.training.memory import forget_peak, peak
from mmlm.training.precision import computing
from mmlm.training.resting import resting

ROWS = 4


def build(vocabulary: int, device: str) -> MultimodalLM:
    """Without media: the adapters stay out of the way, and the added rows learn."""
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocabulary)}, "t0"))
    host = LanguageModel(causal_lm(Size(896, 2, vocabulary)), PreTrainedTokenizerFast(tokenizer_object=words))
    return assemble(host, "preset:nano/image_encoder").to(device).train()


def step(model: MultimodalLM, batch: Batch, precision: str, parts: bool) -> tuple[float, float, float]:
    """Seconds, GB above what was held, and the loss."""
    device = model.device
    with resting(model.language_model) if precision == "bfloat16" else torch.enable_grad():
        forget_peak(device)
        held = peak(device) or 0
        start = time.perf_counter()
        with computing(precision, device):
            loss = model(batch, [[]] * ROWS, logits=not parts).loss
        loss.backward()
        value = float(loss.detach())
        seconds = time.perf_counter() - start
        most = peak(device) or 0
    model.zero_grad()
    return seconds, (most - held) / 1e9, value


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    model = build(args.vocabulary, args.device)
    model.requires_grad_(False)
    for _, own in model.added_parameters():
        own.requires_grad_()
    ids = torch.randint(4, args.vocabulary, (ROWS, args.tokens // ROWS))
    batch = Batch(ids, torch.ones_like(ids), ids.clone())
    print(f"{machine(args.device, args.threads)}, {args.tokens} tokens, a vocabulary of {args.vocabulary:,}\n")
    print("| precision | logits | GB | seconds | loss |\n| --- | --- | --- | --- | --- |")
    for precision in ("float32", "bfloat16"):
        for parts in (False, True):
            found = [step(model, batch, precision, parts) for _ in range(args.rounds + 1)][1:]
            seconds, memory = statistics.median(one[0] for one in found), max(one[1] for one in found)
            name = "some at a time" if parts else "all at once"
            print(f"| {precision} | {name} | {memory:.2f} | {seconds:.2f} | {found[0][2]:.6f} |", flush=True)


if __name__ == "__main__":
    main()
