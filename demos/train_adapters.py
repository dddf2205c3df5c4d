"""Adapters trained from nothing in about a minute: nano's eyes and language model stay frozen, what joins them learns.

    python demos/train_adapters.py

The data are a folder of drawn pictures with a metadata.jsonl, written to runs/demo/pairs to look at; a folder of your
own is used the same way. The adapters start from random weights, so that before training the model cannot see.
"""

import json
import sys
from pathlib import Path

OUTPUT = Path("runs/demo/adapters")
STEPS = 400


def main() -> None:
    from pictures import write_pairs

    import mmlm
    from mmlm.data import read_records

    pairs = write_pairs(Path("runs/demo/pairs"), 1500, seed=0, held_out=False)
    unseen = read_records(write_pairs(Path("runs/demo/unseen"), 64, seed=0, held_out=True))
    images, truths = [record.image for record in unseen], [record.captions[0] for record in unseen]

    model = mmlm.assemble(
        "preset:nano/language_model",
        "preset:nano/image_encoder",
        resampler=mmlm.ResamplerConfig(depth=2, num_latents=32, heads=4, dim_head=32),
        fusion=mmlm.FusionConfig(heads=4, dim_head=64),
    )
    before = model.caption(images)
    result = mmlm.train(
        model, pairs, held_out=unseen, output=OUTPUT, resume=False, steps=STEPS, learning_rate=1e-3, eval_every=100
    )
    after = mmlm.load(result.model).caption(images)

    losses = [entry["loss"] for entry in map(json.loads, open(OUTPUT / "metrics.jsonl")) if "loss" in entry]
    print(f"Loss, nats per token: {losses[0]:.2f} at first, {losses[-1]:.2f} at last; the curve: {OUTPUT / 'loss.png'}")
    for name, captions in (("before", before), ("after", after)):
        right = sum(caption == truth for caption, truth in zip(captions, truths, strict=True))
        print(f"Captions of {len(truths)} held-out pictures that are exactly right, {name} training: {right}")
    texts = [f"before: {old}\nafter: {new}" for old, new in zip(before, after, strict=True)]
    sheet = mmlm.contact_sheet(images[:8], texts[:8], OUTPUT / "captions.png")
    print(f"Eight of them: {sheet}")


if __name__ == "__main__":
    sys.exit(main())
