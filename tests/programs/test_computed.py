"""What a further run of a program takes from the first one: all numbers are those of runs that take nothing.

A program is watched from its second call on. So two calls at one seed have to agree to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli
from torch.nn.functional import dropout, linear
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import sampleprop as sp
from programs.models import bits
from sampleprop.programs import computed, rest

ROWS = 7
WEIGHT = torch.tensor([[0.9, -0.4], [0.3, 1.2]], dtype=torch.float64)
COUNT = torch.zeros(())


def rebar(**options: Any) -> sp.REBAR:
    return sp.REBAR(None, temperature=0.4, eta=0.8, **options)


def plain(h: Tensor) -> Tensor:
    return (h @ WEIGHT.mT).tanh()


def written(h: Tensor) -> Tensor:
    """Into results, views and arguments."""
    a = h @ WEIGHT
    b = a.view(-1)
    b.mul_(0.5)
    a[:, 0] += 1
    c = torch.empty_like(a)
    with torch.no_grad():
        torch.add(a, h, out=c)
    return torch.relu_(a + h) + c


def by_lists(h: Tensor) -> Tensor:
    parts = [h, 2 * h]
    both = torch.cat(parts, -1)
    parts.append(both)
    first, second = both.chunk(2, dim=-1)
    return first - second.max(-1, keepdim=True).values + torch.stack([h, h]).sum(0)


def noisy(h: Tensor) -> Tensor:
    return dropout(h, 0.5) + 0.1 * torch.randn(2, dtype=h.dtype)


def of_gradients(h: Tensor) -> Tensor:
    """An inner derivative, whose graph is gone afterwards."""
    inner = (2 * WEIGHT).requires_grad_()
    (slope,) = torch.autograd.grad((h.detach() @ inner).square().sum(), inner)
    return h @ slope.tanh()


def hooked(h: Tensor) -> Tensor:
    out = h @ WEIGHT
    if out.requires_grad:
        out.register_hook(lambda gradient: 0.5 * gradient)
    return out.tanh()


def shared_memory(h: Tensor) -> Tensor:
    """Written into by numpy, and by `.data`, which no version tells."""
    buffer = torch.zeros(2, dtype=h.dtype)
    buffer.numpy()[:] += 1
    other = torch.zeros(2, dtype=h.dtype)
    other.data.add_(1)
    return h + buffer + other


def under_no_grad(h: Tensor) -> Tensor:
    with torch.no_grad():
        scale = h.square().sum(-1, keepdim=True).sqrt()
    return h / (1 + scale)


def checkpointed(h: Tensor) -> Tensor:
    return checkpoint(plain, h, use_reentrant=False)


@sp.program
def _inner(h: Tensor) -> Tensor:
    return (sp.sample(bits(h), sp.ScoreFunction(None)) * WEIGHT[0]).sum(-1)


def nested(h: Tensor) -> Tensor:
    return h + _inner(h).unsqueeze(-1)


LAYERS = (plain, written, by_lists, noisy, of_gradients, hooked, shared_memory, under_no_grad, checkpointed, nested)


def two_sites(layer: Callable[[Tensor], Tensor], first: Any, second: Any) -> sp.program[...]:
    """The layer before the sites, between them, of the first value alone, and of both.

    Noise before the first site is another one in a run that is not watched, so there is none.
    """

    @sp.program
    def model(phi: Tensor, theta: Tensor) -> Tensor:
        logits = phi if layer in (noisy, nested) else layer(phi)
        a = sp.sample(bits(logits), first)
        sp.charge((layer(a + theta) * 0.3).sum(-1))
        b = sp.sample(bits(layer(a - 0.2) + phi), second)
        cost = (layer(a) * theta).sum(-1) + (layer(b) * logits.detach()).sum(-1)
        return cost.square() + (layer(theta + phi) * b).sum(-1)

    return model


def numbers(model: sp.program[...], modules: list[Any], seed: int = 5) -> list[Tensor]:
    """The value, and the gradients of all that is attached, what learns included."""
    torch.manual_seed(seed)
    phi, theta = (torch.randn(ROWS, 2, dtype=torch.float64).requires_grad_() for _ in range(2))
    leaves = [phi, theta, *(p for module in modules for p in module.parameters())]
    value = model(phi, theta)
    return [value.detach(), *torch.autograd.grad(value.sum(), leaves, materialize_grads=True)]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
@pytest.mark.parametrize(
    "pair",
    [
        lambda: [rebar(), rebar(coupled=True)],
        lambda: [sp.MuProp(None, learn=True), sp.RELAX(None).double()],
        lambda: [sp.ScoreFunction(None), rebar()],
        lambda: [sp.Pathwise(None), rebar()],
    ],
    ids=["REBAR", "MuProp and RELAX", "after a score", "after a path"],
)
def test_a_watched_run_gives_the_numbers_of_one_that_is_not(layer, pair):
    first, second = estimators = pair()
    if isinstance(first, sp.Pathwise):
        pathwise = first

        @sp.program
        def model(phi: Tensor, theta: Tensor) -> Tensor:
            u = sp.sample(torch.distributions.Independent(torch.distributions.Normal(layer(phi), 0.7), 1), pathwise)
            b = sp.sample(bits(layer(u) + theta), second)
            return (layer(u) * b).sum(-1) + (b * theta).sum(-1).square()

    else:
        model = two_sites(layer, first, second)
    unwatched = numbers(model, estimators)
    assert model._past.ran_again
    for one, other in zip(numbers(model, estimators), unwatched, strict=True):
        assert torch.equal(one, other)


class Counted(TorchFunctionMode):
    """Counts what is computed by `linear`; a mode further out sees what the inner ones hand on."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is linear
        return func(*args, **(kwargs or {}))


def count(model: sp.program[...], *args: Tensor) -> int:
    with Counted() as counted:
        model(*args)
    return counted.count


def test_an_encoder_runs_once():
    encoder, decoder = nn.Linear(3, 2), nn.Linear(2, 3)

    @sp.program
    def model(x: Tensor) -> Tensor:
        a = sp.sample(bits(encoder(x)), rebar(coupled=True))
        sp.charge(decoder(a).square().sum(-1))
        b = sp.sample(bits(a - 0.5), rebar(coupled=True))
        return (decoder(a) * decoder(b)).sum(-1)

    x = torch.randn(5, 3)
    # Each run has one encoder and three decoders; there are three runs.
    assert count(model, x) == 12
    # The first run; for b, what is a function of b; for a, all but the encoder.
    assert count(model, x) == 4 + 1 + 3
    assert count(model.using(sp.ScoreFunction(None)), x) == 4
    assert count(model, x) == 12  # the last call had no further run
    assert count(model, x) == 8


def test_noise_after_the_first_variable_is_drawn_again():
    """What depends on it and not on the value is computed again, with the same numbers."""

    @sp.program
    def model(x: Tensor) -> Tensor:
        before = linear(dropout(x, 0.5), torch.ones(2, 3))
        a = sp.sample(bits(before), rebar(coupled=True))
        after = linear(dropout(x, 0.5), torch.ones(2, 3))
        return (after * a).sum(-1) + a.sum(-1).square()

    x = torch.randn(5, 3)
    assert [count(model, x) for _ in range(2)] == [4, 3]


def test_compiled_modules_inside_stay_right():
    layer = nn.Linear(2, 2).double()
    fast = torch.compile(layer, backend="eager")
    first, second = rebar(), rebar()
    for each in (first, second):
        each.log_temperature.requires_grad_(False)
    model, other = two_sites(fast, first, second), two_sites(layer, first, second)
    reference = numbers(other, [layer])
    for _ in range(3):
        for one, given in zip(numbers(model, [layer]), reference, strict=True):
            torch.testing.assert_close(one, given, rtol=1e-12, atol=1e-12)


def stale(operation: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """By place alone, whatever the arguments are."""
    return None if operation is None or operation[0] != func else operation[4]


def any_version(operation: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """Although something has been written since."""
    if operation is None or operation[0] != func or not computed._same(operation[1], args):
        return None
    return operation[4]


@pytest.mark.parametrize(("mutant", "layer"), [(stale, plain), (any_version, written)])
def test_a_result_of_another_call_is_seen(mutant, layer, monkeypatch):
    model = two_sites(layer, rebar(), rebar())
    unwatched = numbers(model, [])
    monkeypatch.setattr(rest, "known", mutant)
    try:
        found = numbers(model, [])
    except RuntimeError:
        return
    assert any(not torch.equal(one, other) for one, other in zip(found, unwatched, strict=True))


def test_noise_that_is_not_drawn_again_is_seen(monkeypatch):
    model = two_sites(noisy, rebar(), rebar())
    unwatched = numbers(model, [])
    monkeypatch.setattr(computed.Computed, "use_only", lambda self, parts: None)
    assert any(not torch.equal(one, other) for one, other in zip(numbers(model, []), unwatched, strict=True))


@pytest.mark.parametrize("given", [None, 3])
def test_programs_inside_draw_from_the_generator_of_the_outer_one(given):
    """In every run of it; not where they have one of their own."""
    own = None if given is None else torch.Generator().manual_seed(given)

    @sp.program
    def inner(h: Tensor) -> Tensor:
        return sp.sample(Bernoulli(logits=h))

    def call(setting: dict[str, Any], estimator: Any = None) -> Tensor:
        @sp.program
        def outer(h: Tensor) -> Tensor:
            a = sp.sample(Bernoulli(logits=h), estimator)
            return a * (inner if own is None else inner.using(generator=own))(h) + a

        if own is not None:
            own.manual_seed(3)
        h = torch.zeros(50, requires_grad=True)
        value = outer.using(**setting)(h)
        return torch.stack((value.detach(), *torch.autograd.grad(value.sum(), h)))

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    for more in ({}, {"apart": 3}, {"estimator": rebar()}, {"estimator": sp.CoupledReplay(2)}):
        torch.manual_seed(0)
        state = torch.get_rng_state()
        found = call({"generator": generator()} | more)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(17)
        assert torch.equal(call({"generator": generator()} | more), found)
