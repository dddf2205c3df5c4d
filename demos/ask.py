"""Three questions answered by nano from recordings: two asked aloud about a picture, one written about an order.

python demos/ask.py                          the recordings in demos/questions, said by a speech synthesiser
python demos/ask.py question.wav photo.png   your own question about your own picture (drawn shapes)
"""

import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PICTURE = HERE.parent / "docs/images/scene.png"


def main(arguments: list[str]) -> None:
    start = time.perf_counter()
    import mmlm

    model = mmlm.load("nano")
    asked = [(Path(arguments[0]), None, Path(arguments[1]) if arguments[1:] else None)] if arguments else [
        (HERE / "questions/shapes.wav", None, PICTURE),
        (HERE / "questions/left.wav", None, PICTURE),
        (HERE / "questions/order.wav", "Which drink does the speaker order?", None),
    ]  # fmt: skip
    for recording, question, picture in asked:
        about = f" about {picture.name}" if picture else ""
        written = f", asked {question!r}" if question else ""
        transcript = model.transcribe(recording)
        print(f"  {recording.name}{about}{written}: heard {transcript.text!r}")
        for mode in ("transcript", "both", "features"):
            print(f"    {mode + ':':<12}{model.ask(recording, question, picture, mode=mode, transcript=transcript)}")
    print(f"Loaded nano and answered in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
