"""What a full-size Whisper costs here: time and memory of features and of transcribing, at random weights.

    python benchmarks/whisper_sizes.py recording.flac [--models tiny base small]

Each size runs in a process of its own, so that its peak of memory is its own. Random weights say nonsense, and more of
it than speech has: at most so many tokens a window as `--tokens` allows (30 s of speech have about 100). "packed" is
how many times faster transcribing is on packed weights, the median of paired ratios; memory is that without them.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

# Width, heads and layers of openai-whisper's models (its README's table); all have 80 mels and 51,865 tokens.
SIZES = {"quick": (64, 2, 1), "tiny": (384, 6, 4), "base": (512, 8, 6), "small": (768, 12, 12)}


def measure(name: str, recording: str, tokens: int, rounds: int) -> dict:
    import torch
    import whisper

    from encoders.media.sound import load_audio
    from encoders.transcription.transcriber import Transcriber
    from encoders.whisper import WhisperAudioEncoder
    from mmlm.acceleration.copies import use_packed
    from mmlm.acceleration.packing import pack_layers

    torch.manual_seed(0)
    width, heads, layers = SIZES[name]
    dims = whisper.ModelDimensions(
        n_mels=80, n_audio_ctx=1500, n_audio_state=width, n_audio_head=heads, n_audio_layer=layers, n_vocab=51865,
        n_text_ctx=2 * tokens, n_text_state=width, n_text_head=heads, n_text_layer=layers,
    )  # fmt: skip
    model = whisper.Whisper(dims)
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.02)
    sound = load_audio(recording)
    encoder, transcriber = WhisperAudioEncoder(model), Transcriber(model)
    start = time.perf_counter()
    (features,) = encoder.features([sound])
    hearing = time.perf_counter() - start

    def transcribe() -> tuple[float, str]:
        began = time.perf_counter()
        text = transcriber.transcribe(sound, language="en", temperatures=(0.0,)).text
        return time.perf_counter() - began, text

    _, said = transcribe()
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    pack_layers(model)
    with use_packed():
        assert transcribe()[1] == said, "packed weights write down something else"
    pairs = []
    for _ in range(rounds):
        plain, _ = transcribe()
        with use_packed():
            pairs.append((plain, transcribe()[0]))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": sound.seconds,
        "features": list(features.tokens.shape),
        "hearing": hearing,
        "transcribing": statistics.median(plain for plain, _ in pairs),
        "ratio": statistics.median(plain / packed for plain, packed in pairs),
        "gigabytes": gigabytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording")
    parser.add_argument("--models", nargs="+", choices=SIZES, default=["tiny", "base", "small"])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child, arguments.recording, arguments.tokens, arguments.rounds)))
        return
    columns = ("Whisper", "parameters", "recording", "features", "time", "transcribing", "packed", "peak memory")
    print(f"| {' | '.join(columns)} |\n" + "| --- " * len(columns) + "|")
    for name in arguments.models:
        options = ["--tokens", str(arguments.tokens), "--rounds", str(arguments.rounds), "--child", name]
        command = [sys.executable, __file__, arguments.recording, *options]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"| {name} | {found['parameters'] / 1e6:.0f} M | {found['seconds']:.1f} s | {found['features']} "
            f"| {found['hearing']:.2f} s | {found['transcribing']:.1f} s | {found['ratio']:.2f}x "
            f"| {found['gigabytes']:.2f} GB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
