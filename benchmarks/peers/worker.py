"""OpenFlamingo in its own environment, one request a line: JSON in, JSON out. Started by `open_flamingo.py`.

    FOLDER/bin/python benchmarks/peers/worker.py THREADS DEVICE

Requests are {"load": folder, "dtype": name}, {"generate": inputs, "options": {…}} and {"logits": inputs, "to": file};
inputs are files of `pixels [B, N, 3, H, W]` and `ids [B, T]`. Replies tell the seconds that the call itself took.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import torch
from open_flamingo import create_model_and_transforms


def load(folder: Path, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """The peer's model of a folder, by its own factory; the checkpoint goes over it as its evaluation does it."""
    language_model = str(folder / "language_model")
    model, _, _ = create_model_and_transforms(
        "ViT-B-32", str(folder / "clip.pt"), language_model, language_model, cross_attn_every_n_layers=1
    )
    model.vision_encoder.final_ln_after_pool = True  # its open_clip left the tokens before the last norm
    _, unexpected = model.load_state_dict(torch.load(folder / "checkpoint.pt"), strict=False)
    assert not unexpected, unexpected
    return model.eval().to(device, dtype)


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    device = sys.argv[2]
    replies = sys.stdout
    for line in sys.stdin:
        request, reply = json.loads(line), {}
        with contextlib.redirect_stdout(sys.stderr):
            if "load" in request:
                dtype = getattr(torch, request["dtype"])
                model = load(Path(request["load"]), dtype, device)
            elif "generate" in request:
                ids, pixels = read(request["generate"], dtype, device)
                options = {"attention_mask": torch.ones_like(ids), "eos_token_id": -1, **request["options"]}
                start = time.perf_counter()
                out = model.generate(pixels, ids, pad_token_id=0, do_sample=False, **options)
                tokens = out[:, ids.shape[1] :].cpu()  # which waits for a GPU
                reply = {"seconds": time.perf_counter() - start, "tokens": tokens.tolist()}
            else:
                ids, pixels = read(request["logits"], dtype, device)
                torch.save(model(pixels, ids, attention_mask=torch.ones_like(ids)).logits.cpu(), request["to"])
        print(json.dumps(reply), file=replies, flush=True)


def read(path: str, dtype: torch.dtype, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [B, T], and pixels of one frame each [B, N, 1, 3, H, W]."""
    inputs = torch.load(path)
    return inputs["ids"].to(device), inputs["pixels"].unsqueeze(2).to(device, dtype)


if __name__ == "__main__":
    main()
