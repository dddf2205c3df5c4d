"""GRPO: a model writes several answers to a prompt, and those that earn more than their group grow likelier."""

from __future__ import annotations

from torch import Tensor

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.training.alignment.config import AlignConfig, GrpoConfig
from mmlm.training.alignment.policy import aggregated, clipped, group_advantages, k3
from mmlm.training.alignment.prompts import Prompts
from mmlm.training.alignment.rewards import Reward
from mmlm.training.alignment.rollouts import Prompt
from mmlm.training.objectives.rollouts import Answers, RolloutObjective


class GrpoObjective(RolloutObjective):
    """The clipped policy gradient of rewards; by the config, the mean over tokens or over answers."""

    name = "grpo"

    def __init__(
        self,
        model: MultimodalLM,
        prompts: Prompts,
        held: Prompts | None,
        reward: Reward,
        objective: GrpoConfig,
        config: AlignConfig,
    ) -> None:
        self.objective = objective
        # The first step on what was written has the policy that wrote it.
        self.tokens = (
            "advantages",
            *(("old",) if objective.iterations > 1 else ()),
            *(("reference",) if objective.beta else ()),
        )
        super().__init__(model, prompts, held, reward, objective, config)

    def judged(self, answers: Answers) -> dict[str, Tensor]:
        advantages = group_advantages(answers.rewards, self.objective.scale).flatten().float()
        found = {
            "advantages": advantages.unsqueeze(1).expand(-1, self.writer.longest),
            "old": answers.old,
            "reference": answers.reference,
        }
        return {name: found[name] for name in self.tokens}

    def loss(self, asked: list[Prompt], answers: list[list[int]], tokens: dict[str, Tensor], mask: Tensor) -> Tensor:
        own = self.objective
        found = self.writer.log_probs(asked, answers)
        losses = clipped(found, tokens.get("old", found.detach()), tokens["advantages"], own.clip_low, own.clip_high)
        if own.beta:
            losses = losses + own.beta * k3(found, tokens["reference"])
        return aggregated(losses, mask, own.aggregation, self.writer.longest)[0]
