"""What true-length features save: a Whisper encoder over short recordings, beside its own window of 30 s.

    python benchmarks/hearing.py [--model tiny] [--rounds 7]

Weights are random: time does not depend on them. Both sides run the same encoder over one recording, "padded" as
`whisper.pad_or_trim` has it; of a whole window their tokens must be equal. Prints the median of paired ratios, and the
seconds of the padded side.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import whisper
from whisper.audio import N_FRAMES, pad_or_trim

from encoders.whisper import WhisperAudioEncoder

# Encoder width, heads and layers of openai-whisper's models (its README's table).
SIZES = {"quick": (64, 2, 1), "tiny": (384, 6, 4), "base": (512, 8, 6), "small": (768, 12, 12)}


def build(name: str) -> WhisperAudioEncoder:
    width, heads, layers = SIZES[name]
    dims = whisper.ModelDimensions(
        n_mels=80, n_audio_ctx=1500, n_audio_state=width, n_audio_head=heads, n_audio_layer=layers, n_vocab=51865,
        n_text_ctx=448, n_text_state=64, n_text_head=1, n_text_layer=1,
    )  # fmt: skip
    return WhisperAudioEncoder(whisper.Whisper(dims))


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="tiny")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, nargs="+", default=[1, 3, 5, 10, 30])
    arguments = parser.parse_args(argv)
    encoder = build(arguments.model)
    print(f"whisper/{arguments.model}, {torch.get_num_threads()} threads\n")
    print("| recording | padded to 30 s | at its length | ratio |\n| --- | --- | --- | --- |")
    for length in arguments.seconds:
        mel = torch.randn(80, 100 * length, generator=torch.Generator().manual_seed(length))
        padded = pad_or_trim(mel, N_FRAMES)[None]
        for run in (lambda: encoder.encode([mel]), lambda: encoder.model.embed_audio(padded)):  # noqa: B023
            run()  # warm
        if length == 30:
            torch.testing.assert_close(encoder.encode([mel]).tokens, encoder.model.embed_audio(padded))
        pairs = [
            (seconds(lambda: encoder.model.embed_audio(padded)), seconds(lambda: encoder.encode([mel])))  # noqa: B023
            for _ in range(arguments.rounds)
        ]
        whole, short = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"| {length} s | {1000 * whole:.0f} ms | {1000 * short:.0f} ms | {ratio:.1f}x |", flush=True)


if __name__ == "__main__":
    main()
