"""OpenFlamingo in its own environment, one request a line: JSON in, JSON out. Started by `open_flamingo.py`.

    FOLDER/bin/python benchmarks/peers/worker.py THREADS

Requests are {"load": folder}, {"generate": inputs, "options": {…}} and {"logits": inputs, "to": file}; inputs are files
of `pixels [B, N, 3, H, W]` and `ids [B, T]`. Replies tell the seconds that the call itself took.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import torch
from open_flamingo import create_model_and_transforms


def load(folder: Path) -> torch.nn.Module:
    """The peer's model of a folder, by its own factory; the checkpoint goes over it as its evaluation does it."""
    language_model = str(folder / "language_model")
    model, _, _ = create_model_and_transforms(
        "ViT-B-32", str(folder / "clip.pt"), language_model, language_model, cross_attn_every_n_layers=1
    )
    model.vision_encoder.final_ln_after_pool = True  # its open_clip left the tokens before the last norm
    _, unexpected = model.load_state_dict(torch.load(folder / "checkpoint.pt"), strict=False)
    assert not unexpected, unexpected
    return model.eval()


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    replies = sys.stdout
    for line in sys.stdin:
        request, reply = json.loads(line), {}
        with contextlib.redirect_stdout(sys.stderr):
            if "load" in request:
                model = load(Path(request["load"]))
            elif "generate" in request:
                inputs = torch.load(request["generate"])
                ids, pixels = inputs["ids"], inputs["pixels"].unsqueeze(2)  # one frame each
                options = {"attention_mask": torch.ones_like(ids), "eos_token_id": -1, **request["options"]}
                start = time.perf_counter()
                out = model.generate(pixels, ids, pad_token_id=0, do_sample=False, **options)
                reply = {"seconds": time.perf_counter() - start, "tokens": out[:, ids.shape[1] :].tolist()}
            else:
                inputs = torch.load(request["logits"])
                ids = inputs["ids"]
                logits = model(inputs["pixels"].unsqueeze(2), ids, attention_mask=torch.ones_like(ids)).logits
                torch.save(logits, request["to"])
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
