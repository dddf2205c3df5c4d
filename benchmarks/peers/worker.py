"""OpenFlamingo in its own environment, one request a line: JSON in, JSON out. Started by `open_flamingo.py`.

    FOLDER/bin/python benchmarks/peers/worker.py THREADS DEVICE

Requests are {"load": folder, "dtype": name}, {"generate": inputs, "options": {…}} and {"logits": inputs, "to": file};
inputs are files of `pixels [B, N, 3, H, W]` and `ids [B, T]`. {"step": inputs, "precision": name, "lr": rate} trains on
a file that has `mask` and `labels [B, T]`, too; with "count": true it counts operations. Replies tell the seconds that
the call itself took, and a step its loss.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import torch
from open_flamingo import create_model_and_transforms
from torch.utils.flop_counter import FlopCounterMode


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


class Training:
    """The step of open_flamingo/train: train.py's optimizer, and what train_utils.py's `train_one_epoch` does.

    The mode stays eval: the dropout of the frozen language model would make each loss another.
    """

    def __init__(self, model: torch.nn.Module, rate: float):
        self.model = model
        named = [(name, own) for name, own in model.named_parameters() if own.requires_grad]
        gated, others = ([own for name, own in named if ("gated_cross_attn" in name) == kind] for kind in (True, False))
        groups = [{"params": gated}, {"params": others}]  # train.py, 383-408; both sides do without its decay
        self.optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)

    @torch.enable_grad()
    def step(self, inputs: dict[str, torch.Tensor], precision: str) -> float:
        """The loss before the step. precision: of autocast; "float32" is none."""
        model = self.model
        with torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext():
            loss = model(inputs["pixels"], inputs["ids"], attention_mask=inputs["mask"], labels=inputs["labels"])[0]
        loss.backward()
        embedding = model.lang_encoder.get_input_embeddings().weight  # train_utils.py, 178-200
        mask = torch.zeros_like(embedding.grad)
        for token in (model.media_token_id, model.eoc_token_id):
            mask[token] = torch.ones_like(mask[token])
        embedding.grad = embedding.grad * mask
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


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
                model, training = load(Path(request["load"]), dtype, device), None
            elif "generate" in request:
                ids, pixels = read(request["generate"], dtype, device)
                options = {"attention_mask": torch.ones_like(ids), "eos_token_id": -1, **request["options"]}
                start = time.perf_counter()
                out = model.generate(pixels, ids, pad_token_id=0, do_sample=False, **options)
                tokens = out[:, ids.shape[1] :].cpu()  # which waits for a GPU
                reply = {"seconds": time.perf_counter() - start, "tokens": tokens.tolist()}
            elif "step" in request:
                training = training or Training(model, request["lr"])
                inputs = torch.load(request["step"])
                inputs["pixels"] = inputs["pixels"].unsqueeze(2)
                counter = FlopCounterMode(display=False)
                start = time.perf_counter()
                with counter if request.get("count") else contextlib.nullcontext():
                    loss = training.step(inputs, request["precision"])
                reply = {"seconds": time.perf_counter() - start, "loss": loss, "operations": counter.get_total_flops()}
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
