"""A tape gives what the run would give, on the tensors of now; what goes by values is refused."""

import functools
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmlm.acceleration.tape import Tape


def record(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], Tensor]]:
    with torch.no_grad(), Tape() as tape:
        result = run()
    return result, tape.repeat(result)


@torch.no_grad()
def test_modules_views_and_sequences():
    """Attention by hand, with chunks, slices, keyword arguments, a maximum's values and indices."""
    inward, outward, norm = nn.Linear(16, 48), nn.Linear(16, 16), nn.LayerNorm(16)
    x = torch.randn(2, 5, 16)

    def run() -> Tensor:
        query, key, value = inward(norm(x)).chunk(3, dim=-1)
        heads = [part.unflatten(-1, (4, 4)).transpose(1, 2) for part in (query, key, value)]
        y = F.scaled_dot_product_attention(*heads, attn_mask=torch.ones(5, 5).tril().bool())
        y = outward(y.transpose(1, 2).flatten(2)) + x
        most, places = y.max(dim=-1)
        (only,) = torch.split(most, 5, dim=1)
        return torch.cat([y[:, 1:], only[..., None].expand(-1, -1, 16)], 1) * places.float().mean() + y.shape[-1] / 3

    first, repeat = record(run)
    assert torch.equal(repeat(), first)
    x.copy_(torch.randn(2, 5, 16))
    inward.weight.mul_(0.5)
    assert torch.equal(repeat(), run()), "inputs and weights are those of now"
    assert not torch.equal(repeat(), first)


@torch.no_grad()
def test_buffers_are_written_to_again():
    place, buffer, step = torch.tensor([0]), torch.zeros(6, 2), torch.tensor([1.0, -1.0])

    def run() -> Tensor:
        buffer.index_copy_(0, place, (buffer.sum(0) + step)[None])
        buffer[5, 0] = 7.0
        added = place
        added += 1
        return buffer.clone()

    _, repeat = record(run)
    second, third = repeat(), repeat()
    other_place, other = torch.tensor([0]), torch.zeros(6, 2)
    for _ in range(3):
        other[other_place] = other.sum(0) + step
        other[5, 0] = 7.0
        other_place += 1
    assert torch.equal(third, other) and int(place) == 3
    assert not torch.equal(second, third), "what was given stays what it was"


@torch.no_grad()
def test_a_list_is_what_it_was_when_it_was_given():
    x = torch.ones(2)

    def run() -> Tensor:
        made = [x + 1]
        joined = torch.cat(made)
        made.append(x + 2)
        return torch.cat(made) + joined.sum()

    first, repeat = record(run)
    x.zero_()
    assert torch.equal(repeat(), torch.tensor([3.0, 3, 4, 4])) and not torch.equal(repeat(), first)


@torch.no_grad()
def test_named_tuples_are_of_now():
    x = torch.tensor([[1.0, 5.0]])
    _, repeat = record(lambda: torch.stack([one.double() for one in x.max(1)]) + torch.cat(x.min(1)[:1]))
    x.copy_(torch.tensor([[7.0, 2.0]]))
    assert repeat().tolist() == [[9.0], [2.0]]


@torch.no_grad()
def test_nothing_is_held_when_it_is_over():
    buffer = torch.zeros(4)
    _, repeat = record(functools.partial(torch.add, buffer, 1))
    held = weakref.ref(buffer)
    del buffer
    gc.disable()
    try:
        assert repeat().tolist() == [1, 1, 1, 1] and held() is not None
        del repeat
        assert held() is None
    finally:
        gc.enable()


@torch.no_grad()
def test_what_gives_back_what_it_got_is_left_out_and_what_writes_is_not():
    x = torch.tensor([-1.0, 2.0])

    def idle() -> Tensor:
        y = F.dropout(x.to(torch.float32).contiguous().float().type_as(x), 0.5, training=False)
        return y.cpu().expand(2) + 1

    def writes() -> Tensor:
        y = x.clone()
        F.relu(y, inplace=True)
        torch.add(y, 1, out=y)
        y[0] = y[0] + 3
        return y.clamp_(max=3.5).sub_(x)

    for run, left in ((idle, ["expand", "add"]), (writes, None)):
        with Tape() as tape:
            result = run()
        assert left is None or [call[0].__name__ for call in tape.calls] == left
        repeat = tape.repeat(result)
        x.mul_(-3)
        assert torch.equal(repeat(), run())


@torch.no_grad()
@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["add", "halve", "turn", "pair", "write", "new"]), min_size=1, max_size=25), st.data())
def test_any_order_of_calls(steps, data):
    """A random program on a growing list of tensors, run twice and repeated, from the same beginning."""
    picks = [(data.draw(st.integers(0, place)), data.draw(st.integers(0, place))) for place in range(len(steps))]
    start = torch.linspace(-1, 1, 9).view(3, 3)
    kept = start.clone()

    def run() -> Tensor:
        made = [kept]
        for step, (one, other) in zip(steps, picks, strict=True):
            a, b = made[one], made[other]
            if step == "add":
                made.append(a + 0.5 * b)
            elif step == "halve":
                made.append(a.mul(0.5))
            elif step == "turn":
                made.append(a.t().contiguous())
            elif step == "pair":
                made.append(torch.stack([a, b]).amax(0))
            elif step == "write":
                made.append(a.add_(b.detach().clone()).clamp_(-9, 9))
            else:
                made.append(torch.full((3, 3), 0.25))
        return torch.stack(made).sum(0)

    _, repeat = record(run)
    results = []
    for again in (run, repeat):
        kept.copy_(start)
        results.append([again(), again(), kept.clone()])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: x * x.sum().item(),
        lambda x: -x if x.sum() > 0 else x,
        lambda x: x * float(x[0]),
        lambda x: x[: int(x.argmax())],
        lambda x: x[x > 0],
        lambda x: torch.where(x > 0)[0],
        lambda x: x.nonzero(),
        lambda x: x * sum(x.tolist()),
        lambda x: x + 1 if torch.equal(x, -x) else x,
        lambda x: torch.from_numpy(x.numpy()) + 1,
        lambda x: x.unique(),
        lambda x: torch.where(condition=x > 0)[0],
        lambda x: torch.arange(x.argmax()),
        lambda x: x.repeat_interleave(torch.tensor([1, 2, 1])),
        lambda x: x * torch.ops.aten._local_scalar_dense.default(x[0]),
    ],
)
def test_what_goes_by_values_is_refused(asks):
    x = torch.tensor([1.0, -2.0, 3.0])
    with pytest.raises(RuntimeError, match="reads the values"), Tape():
        asks(x)
    assert x.sum().item() == 2, "and outside of the tape it is as ever"
