"""PPO: what a model writes earns a reward at its end, and a value head tells how much each token brought it nearer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.training.alignment.config import AlignConfig, PpoConfig
from mmlm.training.alignment.policy import aggregated, clipped, gae, value_loss, whitened
from mmlm.training.alignment.prompts import Prompts
from mmlm.training.alignment.rewards import Reward
from mmlm.training.alignment.rollouts import Prompt
from mmlm.training.objectives.rollouts import Answers, RolloutObjective


class PpoObjective(RolloutObjective):
    """The clipped policy gradient of generalised advantages, and the loss of the values that they are beside.

    The head `[1, D]` reads the last hidden states of the policy, from which no gradient goes back: what the values
    learn does not move the policy. It starts at 0, belongs to the run, and is not saved with the model.
    """

    name = "ppo"
    tokens = ("advantages", "old", "values", "returns")

    def __init__(
        self,
        model: MultimodalLM,
        prompts: Prompts,
        held: Prompts | None,
        reward: Reward,
        objective: PpoConfig,
        config: AlignConfig,
    ) -> None:
        self.objective = objective
        super().__init__(model, prompts, held, reward, objective, config)
        self.head = nn.Linear(model.language_model.hidden_size, 1, device=model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def parameters(self) -> dict[str, Parameter]:
        return self.policy() | {f"value.{name}": parameter for name, parameter in self.head.named_parameters()}

    def judged(self, answers: Answers) -> dict[str, Tensor]:
        """The reward comes with the last token of an answer; each token pays for its distance from the reference."""
        own = self.objective
        rewards = own.beta * (answers.reference - answers.old)
        mask = torch.zeros_like(rewards)
        for row, (ids, reward) in enumerate(zip(answers.ids, answers.rewards.flatten().tolist(), strict=True)):
            mask[row, : len(ids)] = 1
            rewards[row, len(ids) - 1] += reward
        assert answers.states is not None, "values are among the tokens"
        values = mask * self._values(answers.states).cpu()
        advantages, returns = gae(rewards, values, mask, own.gamma, own.lam)
        return {"advantages": advantages, "old": answers.old, "values": values, "returns": returns}

    def gathered(self, mask: Tensor) -> None:
        advantages = self.kept["rollouts.advantages"]
        advantages.copy_(whitened(advantages, mask))

    def loss(self, asked: list[Prompt], answers: list[list[int]], tokens: dict[str, Tensor], mask: Tensor) -> Tensor:
        own = self.objective
        found, states = self.writer.read(asked, answers)
        losses = clipped(found, tokens["old"], tokens["advantages"], own.clip_low, own.clip_high)
        losses = losses + own.value_weight * value_loss(
            self._values(states), tokens["values"], tokens["returns"], own.value_clip
        )
        return aggregated(losses, mask, own.aggregation, self.writer.longest)[0]

    def _values(self, states: Tensor) -> Tensor:
        """The values of states `[N, longest, D]`: `[N, longest]` float32."""
        return self.head(states.detach().to(self.head.weight.dtype)).squeeze(-1).float()
