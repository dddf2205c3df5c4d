"""nano taught a new way to caption in about a minute: eyes and language model stay frozen, what joins them learns.

    python demos/train_adapters.py

The data are a folder of pictures with a metadata.jsonl, drawn on the spot into runs/demo/pairs; a folder of your own is
used the same way. To begin with adapters that know nothing, put `mmlm.assemble` in the place of `mmlm.load`; learning
to see takes longer than a minute (recipes/nano shows how long).
"""

import json
from pathlib import Path

OUTPUT = Path("runs/demo/adapters")


def main() -> None:
    from pictures import write_pairs

    import mmlm
    from mmlm.data import read_records

    pairs = write_pairs(Path("runs/demo/pairs"), 1000, seed=0, held_out=False)
    unseen = read_records(write_pairs(Path("runs/demo/unseen"), 64, seed=0, held_out=True))
    images, truths = [record.image for record in unseen], [record.captions[0] for record in unseen]

    model = mmlm.load("nano")
    before = model.caption(images)
    result = mmlm.train(
        model, pairs, held_out=unseen, output=OUTPUT, resume=False, steps=250, learning_rate=5e-4, eval_every=50
    )
    after = mmlm.load(result.model).caption(images)

    for truth, old, new in list(zip(truths, before, after, strict=True))[:4]:
        print(f"  {old}  ->  {new}  (wanted: {truth})")
    for when, captions in (("before", before), ("after", after)):
        right = sum(caption == truth for caption, truth in zip(captions, truths, strict=True))
        print(f"Held-out pictures captioned as wanted, {when} training: {right} of {len(truths)}")
    lines = [json.loads(line) for line in (OUTPUT / "metrics.jsonl").read_text().splitlines()]
    losses = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    print(f"Held-out loss, nats per token: {losses[0]:.2f} -> {losses[-1]:.2f}; the curve: {OUTPUT / 'loss.png'}")
    texts = [f"before: {old}\nafter: {new}" for old, new in zip(before, after, strict=True)]
    print(f"Eight of them: {mmlm.contact_sheet(images[:8], texts[:8], OUTPUT / 'captions.png')}")


if __name__ == "__main__":
    main()
