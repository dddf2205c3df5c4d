"""Random numbers of one's own: those of a seeded global generator, which itself stays as it is."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlm.model.draws import OwnDraws

DRAWS: dict[str, Callable[[], Tensor]] = {
    "rand": lambda: torch.rand(3),
    "randn": lambda: torch.randn(2, 2),
    "randint": lambda: torch.randint(3, 10, (5,)),
    "randperm": lambda: torch.randperm(7),
    "rand_like": lambda: torch.rand_like(torch.zeros(3)),
    "randn_like": lambda: torch.randn_like(torch.zeros(3)),
    "randint_like": lambda: torch.randint_like(torch.zeros(3), 10),
    "normal": lambda: torch.normal(torch.zeros(3), 2.0),
    "multinomial": lambda: torch.multinomial(torch.ones(5), 2),
    "bernoulli": lambda: torch.bernoulli(torch.full((5,), 0.5)),
    "exponential": lambda: torch.zeros(5).exponential_(),
    "uniform": lambda: torch.zeros(5, dtype=torch.bfloat16).uniform_(-1, 1),
    "poisson": lambda: torch.poisson(torch.ones(5)),
    "dropout": lambda: F.dropout(torch.ones(20), 0.5, True),
    "attention": lambda: F.scaled_dot_product_attention(*[torch.ones(1, 1, 4, 4)] * 3, dropout_p=0.5),
    "recurrent": lambda: nn.LSTM(3, 3, 2, dropout=0.5)(torch.ones(2, 1, 3))[0].detach(),
    "linear": lambda: nn.Linear(4, 4).weight.detach(),
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(3, 3)),
    "truncated": lambda: nn.init.trunc_normal_(torch.empty(3, 3)),
    "gumbel": lambda: F.gumbel_softmax(torch.zeros(5)),
    "categorical": lambda: torch.distributions.Categorical(logits=torch.zeros(5)).sample((3,)),
    "with a generator": lambda: torch.rand(3, generator=torch.Generator().manual_seed(4)),
    "inference mode": torch.inference_mode()(lambda: torch.rand(3)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_those_of_a_seeded_global_generator(name):
    draw = DRAWS[name]
    torch.manual_seed(5)
    expected = [draw(), draw(), draw()]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    own = OwnDraws(5)
    with own:
        found = [draw(), draw()]
    with own:  # it goes on
        found.append(draw())
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_operator_that_takes_no_generator_is_seeded_too():
    def dropped(seed: int) -> Tensor:
        with OwnDraws(seed):
            return torch.native_dropout(torch.ones(64), 0.5, True)[0]

    before = torch.get_rng_state()
    assert torch.equal(dropped(1), dropped(1)) and not torch.equal(dropped(1), dropped(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_where_there_are_no_values_nothing_is_drawn():
    with OwnDraws(0):
        assert torch.rand(3, device="meta").is_meta
        assert nn.Linear(3, 3, device="meta").weight.is_meta


def test_threads_draw_what_each_draws_alone():
    def weights(seed: int) -> list[Tensor]:
        with OwnDraws(seed):
            return [nn.Linear(32, 32).weight.detach() for _ in range(20)]

    alone = [weights(seed) for seed in range(8)]
    torch.manual_seed(0)
    expected = torch.rand(100)
    torch.manual_seed(0)
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(weights, seed) for seed in range(8)]
        drawn = torch.cat([torch.rand(1) for _ in range(100)])
    for task, own in zip(running, alone, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(task.result(), own, strict=True))
    assert torch.equal(drawn, expected)
