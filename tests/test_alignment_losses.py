"""Losses of alignment against the papers' formulas, written out one value at a time, and against recorded values.

Recorded: trl 1.16.0 (DPOTrainer, KTOTrainer and GRPOTrainer's `_compute_loss`, CPOTrainer's `cpo_loss`, GKDTrainer's
`generalized_jsd_loss`) and verl 0.9.1 (`core_algos`), each run once on the tensors of `fixed`, in float64.
"""

import math

import pytest
import torch

from mmlm.training.alignment.distances import bucketed, jsd, kl
from mmlm.training.alignment.policy import Aggregation, aggregated, clipped, gae, group_advantages, k3, value_loss
from mmlm.training.alignment.preferences import bradley_terry, dpo, ipo, kto, simpo


def fixed(*size: int, low: float, high: float, start: float) -> torch.Tensor:
    """Float64 between low and high, without a generator, whose draws may differ between versions."""
    values = [low + (high - low) * (math.sin(start + 1.7 * i) + 1) / 2 for i in range(math.prod(size))]
    return torch.tensor(values, dtype=torch.float64).reshape(size)


LENGTHS = torch.tensor([3, 5, 2, 4, 4, 2, 5, 3])  # four chosen answers, four rejected ones
MASK = (torch.arange(5)[None] < LENGTHS[:, None]).double()
OWN = fixed(8, 5, low=-3, high=-0.1, start=0.3)
REFERENCE = fixed(8, 5, low=-3, high=-0.1, start=1.1)
RATIOS = ((OWN - REFERENCE) * MASK).sum(1)
MEAN_RATIOS, MEANS = RATIOS / LENGTHS, (OWN * MASK).sum(1) / LENGTHS


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def close(found: torch.Tensor | float, expected: float) -> None:
    assert float(found) == pytest.approx(expected, abs=1e-9)


def test_preferences_are_those_of_trl():
    close(dpo(RATIOS[:4], RATIOS[4:], 0.1).mean(), 0.6755356251065252)
    close(dpo(RATIOS[:4], RATIOS[4:], 0.3).mean(), 0.6595776573873157)
    close(ipo(MEAN_RATIOS[:4], MEAN_RATIOS[4:], 0.1).mean(), 24.229173382141305)
    close(simpo(MEANS[:4], MEANS[4:], 2.0, 0.5).mean(), 1.0772351537947897)
    good = torch.tensor([True, False, True, True, False, False, True, False])
    others = torch.tensor([0.5, -0.2, 0.9, 0.3, 0.1, 0.4, -0.1, 0.2]).double().mean().clamp(min=0)
    close(kto(RATIOS, good, others, 0.2, (1.0, 0.7)).mean(), 0.43178216927256396)


def test_preferences_are_the_formulas_of_their_papers():
    pairs = list(zip(RATIOS[:4].tolist(), RATIOS[4:].tolist(), strict=True))
    for found, (w, l) in zip(dpo(RATIOS[:4], RATIOS[4:], 0.3, 0.1), pairs, strict=True):  # noqa: E741
        close(found, -0.9 * math.log(sigmoid(0.3 * (w - l))) - 0.1 * math.log(sigmoid(-0.3 * (w - l))))
    for found, (w, l) in zip(bradley_terry(RATIOS[:4], RATIOS[4:], 0.01), pairs, strict=True):  # noqa: E741
        close(found, -math.log(math.exp(w) / (math.exp(w) + math.exp(l))) + 0.01 * (w + l) ** 2)
    close(dpo(torch.zeros(1), torch.zeros(1))[0].double(), float(torch.tensor(2.0).log()))
    close(kto(torch.zeros(2), torch.tensor([True, False]), 0.0).mean(), 0.5)
    extreme = torch.tensor([1e4, -1e4], dtype=torch.float64)
    assert dpo(extreme, -extreme).isfinite().all() and bradley_terry(extreme, -extreme).isfinite().all()


def grpo(way: Aggregation, beta: float, high: float) -> float:
    rewards = fixed(2, 4, low=0, high=1, start=0.9)
    advantages = group_advantages(rewards).reshape(-1, 1)
    old = OWN + fixed(8, 5, low=-0.6, high=0.6, start=2.2)
    losses = clipped(OWN, old, advantages, 0.2, high) + beta * k3(OWN, REFERENCE)
    return float(aggregated(losses, MASK, way, 5)[0])


def test_policy_losses_are_those_of_trl():
    close(grpo("sequences", 0.04, 0.2), 0.01845332683222657)
    close(grpo("tokens", 0.0, 0.28), -0.013473205889799857)
    close(grpo("tokens", 0.1, 0.28), 0.021554330725227593)
    close(grpo("constant", 0.0, 0.2), 0.0019607784792215533)


def test_policy_losses_are_the_formulas_of_their_papers():
    rewards = fixed(2, 4, low=0, high=1, start=0.9)
    for group, found in zip(rewards.tolist(), group_advantages(rewards).tolist(), strict=True):
        mean = sum(group) / 4
        spread = math.sqrt(sum((own - mean) ** 2 for own in group) / 3)
        for own, advantage in zip(group, found, strict=True):
            close(advantage, (own - mean) / (spread + 1e-4))
    assert torch.equal(group_advantages(torch.ones(3, 4)), torch.zeros(3, 4))
    close(group_advantages(rewards, "none")[0, 0], float(rewards[0, 0] - rewards[0].mean()))
    for ratio, advantage, expected in ((1.5, 2, -2.56), (1.5, -2, 3.0), (0.5, 2, -1.0), (0.5, -2, 1.6), (1.1, 1, -1.1)):
        moved, gain = (torch.tensor([[value]], dtype=torch.float64) for value in (math.log(ratio), advantage))
        close(clipped(moved, torch.zeros_like(moved), gain, 0.2, 0.28), expected)


def test_k3_is_kullback_leibler_on_average_and_never_below_zero():
    own, other = (fixed(6, low=-2, high=2, start=s).log_softmax(0) for s in (0.1, 1.9))
    samples = k3(own, other)
    close((own.exp() * samples).sum(), float((own.exp() * (own - other)).sum()))
    assert (samples >= 0).all()


def test_parts_of_a_step_make_its_loss_whichever_way_it_is_cut():
    """The trainer weighs the loss of a part by its count."""
    losses = fixed(8, 5, low=-1, high=2, start=0.4)
    ways: tuple[Aggregation, ...] = ("tokens", "sequences", "constant")
    for way in ways:
        whole, total = aggregated(losses, MASK, way, 5)
        cut = [aggregated(losses[own], MASK[own], way, 5) for own in (slice(0, 3), slice(3, 4), slice(4, 8))]
        assert sum(count for _, count in cut) == total
        close(sum(loss * count for loss, count in cut) / total, float(whole))


def test_advantages_by_a_value_head_are_those_of_verl():
    mask = MASK[:4]
    rewards, values = (fixed(4, 5, low=-1, high=1, start=start) * mask for start in (0.2, 0.8))
    advantages, returns = gae(rewards, values, mask, 0.9, 0.95)
    expected = [
        [-0.039696324, -0.069747945, 0.429055329, 0.0, 0.0],
        [0.183336768, 0.63720836, 0.403667585, 0.137374376, 0.588538899],
        [-0.059337194, -0.555117182, 0.0, 0.0, 0.0],
        [-0.651264872, -0.599677916, -0.240175562, -0.561789182, 0.0],
    ]
    torch.testing.assert_close(advantages, torch.tensor(expected).double(), rtol=0, atol=1e-7)
    close(returns.sum(), -0.1885816020864418)
    moved = values + fixed(4, 5, low=-0.5, high=0.5, start=0.5)
    close(aggregated(value_loss(moved, values, returns), mask, "tokens", 5)[0], 0.2022306906329127)


def test_without_discount_advantages_are_what_comes_less_what_was_expected():
    rewards, values, mask = (fixed(1, 4, low=-1, high=1, start=s) for s in (0.2, 0.8, 0.0))
    advantages, returns = gae(rewards, values, torch.ones_like(mask), 1.0, 1.0)
    for step in range(4):
        close(returns[0, step], float(rewards[0, step:].sum()))
        close(advantages[0, step], float(rewards[0, step:].sum() - values[0, step]))


def test_distances_are_those_of_trl():
    student, teacher = (fixed(4, 6, low=-2, high=2, start=start) for start in (0.1, 1.9))
    recorded = {(0, 1.0): 6.555294128374328, (0.5, 1.0): 1.3137209264798153, (0.3, 2.0): 0.41409790235693716,
                (1, 1.0): 6.5981555375897365}  # fmt: skip
    for (beta, temperature), expected in recorded.items():
        own, other = ((logits / temperature).log_softmax(-1) for logits in (student, teacher))
        close(jsd(own, other, beta).sum(), expected)


def test_of_the_likeliest_and_the_rest_no_distance_is_greater_than_of_all():
    student, teacher = (fixed(4, 6, low=-2, high=2, start=start).log_softmax(-1) for start in (0.1, 1.9))
    whole, before = kl(teacher, student), torch.zeros(4).double()
    for k in range(1, 7):
        ids = teacher.topk(k).indices
        found = kl(bucketed(teacher, ids), bucketed(student, ids))
        assert (found <= whole + 1e-9).all() and (found >= before - 1e-9).all()
        before = found
    torch.testing.assert_close(before, whole)
    torch.testing.assert_close(jsd(teacher, teacher, 0.5), torch.zeros(4).double(), rtol=0, atol=1e-12)
