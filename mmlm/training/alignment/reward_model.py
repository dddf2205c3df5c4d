"""A reward model: an assembled model with one more head, which tells how good an answer is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from decoders.files import beside, save_tensors
from mmlm.assembly.load import load
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.prompts import asking_parts
from mmlm.data.records import FileSlice
from mmlm.prompting.processor import IGNORE_INDEX, Example
from mmlm.training.alignment.rewards import Reward, Written
from mmlm.training.alignment.scored import answer_span, head_inputs
from mmlm.training.rows import Ready, batch_of

FILE = "reward.safetensors"  # beside the model's own


class RewardModel(nn.Module):
    """A model, and the head `[1, D]` that reads the last hidden state of an answer; it starts at 0 for all answers."""

    def __init__(self, model: MultimodalLM) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(model.language_model.hidden_size, 1, device=model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def rewards(self, ready: Sequence[Ready], codes: bool = False) -> Tensor:
        """The rewards of answers `[N]`, with gradients."""
        ends = [_ended(one) for one in ready]
        batch, media = batch_of(self.model.processor, [[one] for one in ends])
        with head_inputs(self.model) as seen:
            self.model(batch, media, codes=codes)
        return self.head(seen[-1].to(self.head.weight.dtype)).squeeze(-1)

    @torch.no_grad()
    def score(self, prompts: Sequence[Sequence[Any]], answers: Sequence[str]) -> list[float]:
        """The rewards of texts that answer prompts, lists of parts as `generate` takes them."""
        found = []
        for prompt, answer in zip(prompts, answers, strict=True):
            example = self.model.processor.encode(prompt, answer)
            found.append(float(self.rewards([Ready(example, self.model.encode_media(example.media))])[0]))
        return found

    def save(self, folder: Path) -> Path:
        """Writes the model, for `load`, and the head beside it."""
        self.model.save(folder)
        with beside(folder) as parts:
            tensors = {name: tensor.detach().cpu() for name, tensor in self.head.state_dict().items()}
            save_tensors(tensors, parts / FILE)
            os.replace(parts / FILE, folder / FILE)
        return folder

    @classmethod
    def load(cls, folder: str | Path, **placed: Any) -> RewardModel:
        """A reward model from the folder it was saved in. placed: as of `mmlm.load`.

        ValueError where the folder holds no head, or one of another width.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise ValueError(f"{folder} holds no reward model: it has no {FILE}, which a run with kind: reward writes")
        found = cls(load(folder, **placed))
        try:
            found.head.load_state_dict(load_file(path, device=str(found.model.device)))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged, or of another model: {error}") from error
        return found


def learned_reward(judge: RewardModel) -> Reward:
    """What a reward model finds of texts, as a reward for GRPO."""

    def reward(written: Sequence[Written]) -> list[float]:
        prompts, model = [], judge.model
        for one in written:
            sources = [place.read() if isinstance(place, FileSlice) else place for _, place in one.record.places]
            prompts.append(asking_parts(model.processor.tokenizer, model.template, one.record, one.text, sources))
        return judge.score(prompts, [one.result.text for one in written])

    return reward


def _ended(ready: Ready) -> Ready:
    """The example up to the end of its last answer; its last state alone is kept, as if one more token came."""
    example = ready.example
    ids = example.input_ids[: answer_span(example).stop]
    return Ready(Example([*ids, ids[-1]], [IGNORE_INDEX] * len(ids) + [ids[-1]], example.media), ready.features)
