"""Few-shot prompts: demonstrations from a folder of captioned pictures, the most similar ones by CLIP (RICES).

    python demos/few_shot.py

The folder is drawn on the spot and captioned in a way that nano was not taught ("small red circle"), so that one can
see how far demonstrations steer it. nano is small and learned from single pictures; a real language model follows them
better.
"""

from pathlib import Path


def main() -> None:
    from pictures import held_out_samples, write_pairs

    import mmlm

    folder = write_pairs(Path("runs/demo/examples"), 200, seed=2, held_out=False)
    model = mmlm.load("nano")
    examples = mmlm.Rices(model.encoders["image"], folder)
    for sample in held_out_samples(3, seed=2):
        print("nearest:", "; ".join(record.captions[0] for record in examples.nearest(sample.image, 4)))
        for shots in (0, 2, 4):
            result = model.generate(examples.caption_prompt(sample.image, shots, model.template))
            print(f"  {shots} demonstrations: {result.text.strip()}")


if __name__ == "__main__":
    main()
