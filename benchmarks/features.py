"""Features in 16 bits beside those in float32: bytes on the disk, and what rounding changes in the loss of a model.

    python benchmarks/features.py ../shared/data/fsdd/dev-000000.tar [--model nano] [--whisper FILE] [--count 200]

For each encoder of the model that the records use, and for another Whisper if one is given: the size of the cache with
the tokens as the encoder makes them and as they are kept, and the largest step of rounding, as a share of the largest
value of its token. Then the loss of the model, as it is, over all texts of the records with either, in nats per answer
token. Nothing is trained, so that the difference is that of rounding alone.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from parts import machine, progress

import mmlm
from encoders.base import Features, FrozenEncoder
from encoders.whisper import WhisperAudioEncoder
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.cache import TensorCache
from mmlm.data.readers import read_records
from mmlm.data.records import RecordSet
from mmlm.prompting.parts import modality_of
from mmlm.training.config import TrainConfig
from mmlm.training.examples import Examples, prepare
from mmlm.training.features import StoredFeatures, cached_features, folder_of, key_of, read_medium
from mmlm.training.rows import Ready, batch_of


def as_made(records: RecordSet, encoder: FrozenEncoder, folder: Path) -> tuple[dict[int, Features], int]:
    """Features of each medium as the encoder makes them, by its key, and the bytes of a cache of them."""
    cache, found = TensorCache(folder), {}
    for index, record in enumerate(records):
        for number, (modality, place) in enumerate(record.places):
            if modality == encoder.modality:
                source, key = read_medium(place, encoder)
                (found[key_of(record, index, number)],) = encoder.encode_items([encoder.preprocess(source)])
                if key not in cache:
                    cache.add(key, found[key_of(record, index, number)].tokens[0])
    cache.flush()
    return found, size_of(folder)


def size_of(folder: Path) -> int:
    """Bytes of the shards of a cache."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def row(name: str, made: dict[int, Features], before: int, kept: StoredFeatures, after: int) -> str:
    """A line of the table of one encoder."""
    moved = 0.0
    for key, own in made.items():
        step = (own.tokens.float() - kept[key].tokens.float()).abs().amax(-1) / own.tokens.float().abs().amax(-1)
        moved = max(moved, float(step.max()))
    return f"| {name} | {len(made)} | {before:,} | {after:,} | {before / after:.3f}x | {moved:.1e} |"


def loss(model: MultimodalLM, examples: Examples, features: Mapping[str, Mapping[int, Features]]) -> float:
    """Nats per answer token over all texts of all records."""
    total, count = 0.0, 0
    for index, record in enumerate(examples.records):
        for text in range(len(record.texts)):
            example = examples.encode(index, text)
            own = [features[modality_of(part)][key_of(record, index, part.source)] for part in example.media]
            with torch.no_grad():
                found = model(*batch_of(model.processor, [[Ready(example, own)]]))
            total, count = total + float(found.loss) * found.num_tokens, count + found.num_tokens
    return total / count


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--whisper", help="a checkpoint file of another Whisper, whose features are measured as well")
    parser.add_argument("--count", type=int, default=200, help="records, at most")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    model = mmlm.load(args.model, codecs=None)
    records = RecordSet(tuple(read_records(args.data).records[: args.count]))
    print(f"{machine('cpu', args.threads)}; {len(records)} records of {args.data}\n")
    print("| encoder | media | bytes, float32 | bytes, kept | ratio | moved at most |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        folder, plain = Path(place), {}
        examples = prepare(model, records, cache=folder, config=TrainConfig(), progress=False)
        for modality, encoder in model.encoders.items():
            progress(modality)
            plain[modality], before = as_made(examples.records, encoder, folder / f"{modality} as made")
            if plain[modality]:
                kept, after = examples.features[modality], size_of(folder_of(encoder, folder))
                print(row(f"{args.model}, {modality}", plain[modality], before, kept, after), flush=True)
        if args.whisper is not None:
            progress("whisper")
            other = WhisperAudioEncoder.load(args.whisper)
            made, before = as_made(records, other, folder / "whisper as made")
            kept = cached_features(records, other, folder / "whisper", progress=False).features
            after = size_of(folder_of(other, folder / "whisper"))
            print(row(Path(args.whisper).stem, made, before, kept, after), flush=True)
        losses = [loss(model, examples, features) for features in (plain, examples.features)]
    print(
        f"\nloss {losses[0]:.6f} as made, {losses[1]:.6f} as kept, difference {losses[1] - losses[0]:+.1e} nats a token"
    )


if __name__ == "__main__":
    main()
