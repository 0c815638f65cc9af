"""Programs under `torch.compile`: values and gradients of the eager run, at the same seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical

import sampleprop as sp

pytestmark = pytest.mark.slow

ESTIMATORS = [kind() for kind in sp.REGISTER if kind.objective == "mean" and kind().compiles is True]
NONE = [
    sp.ScoreFunction(None),
    sp.Pathwise(None),
    sp.StraightThrough(None),
    sp.GumbelSoftmax(None),
    sp.ReinMax(None),
    sp.RELAX(None, use_f=False, coupled=True),  # without it the compiler draws the further noise in another order
    sp.ScoreFunction(None, baseline=sp.Constant(1.0)),
]
DISTRIBUTIONS: list[Callable[[Tensor], Any]] = [
    lambda x: Independent(Bernoulli(logits=x, validate_args=False), 1, validate_args=False),
    lambda x: OneHotCategorical(logits=x, validate_args=False),
    lambda x: Independent(Normal(x, 0.7, validate_args=False), 1, validate_args=False),
]


def distribution_for(estimator: sp.Estimator[Any, Any]) -> Callable[[Tensor], Any] | None:
    taken = [make for make in DISTRIBUTIONS if estimator.refusal(make(torch.zeros(2, 3, requires_grad=True))) is None]
    return taken[0] if taken else None


def one_site(estimator: sp.Estimator[Any, Any]) -> sp.program[...]:
    make = distribution_for(estimator)

    @sp.program
    def loss(x: Tensor, weight: Tensor) -> Tensor:
        a = sp.sample(make(x), estimator)
        return (a @ weight).tanh().sum(-1) + 0.1 * a.square().sum(-1)

    return loss


def two_sites(estimator: sp.Estimator[Any, Any]) -> sp.program[...]:
    make = distribution_for(estimator)

    @sp.program
    def loss(x: Tensor, weight: Tensor) -> Tensor:
        a = sp.sample(make(x), estimator)
        sp.charge(0.1 * a.square().sum(-1))
        h = (a @ weight).tanh()
        b = sp.sample(Independent(Bernoulli(logits=h, validate_args=False), 1, validate_args=False))
        return (b * h).sum(-1) + a.sum(-1)

    return loss


def results(function: Callable[..., Tensor], calls: int = 2) -> list[Tensor]:
    found = []
    torch.manual_seed(0)
    for _ in range(calls):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(4, 3, generator=generator).requires_grad_()
        weight = nn.Parameter(torch.randn(3, 3, generator=generator))
        value = function(x, weight)
        found += [value.detach(), *torch.autograd.grad(value.sum(), (x, weight))]
    return found


def same(model: Callable[..., Tensor]) -> None:
    torch._dynamo.reset()
    eager, compiled = results(model), results(torch.compile(model, fullgraph=True, backend="aot_eager"))
    for one, other in zip(eager, compiled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert not torch.equal(eager[1], eager[4])  # the second call draws other samples


@pytest.mark.parametrize("estimator", [*ESTIMATORS, *NONE], ids=str)
def test_a_compiled_program_is_the_eager_one(estimator):
    if distribution_for(estimator) is None:
        pytest.skip("takes none of these distributions")
    model = two_sites(estimator)
    if estimator.calls_f:
        torch._dynamo.reset()
        with pytest.raises(RuntimeError, match=r"by derivatives that torch.compile does not trace"):
            results(torch.compile(model, fullgraph=True, backend="aot_eager"))
        return
    # The noise of GumbelRao is for its derivative alone. Compiled it is drawn in the backward pass, after all other.
    same(one_site(estimator) if isinstance(estimator, sp.GumbelRao) else model)


@pytest.mark.parametrize("estimator", [e for e in NONE if not isinstance(e, sp.GumbelSoftmax)], ids=str)
def test_a_compiled_program_with_particles_is_the_eager_one(estimator):
    same(two_sites(estimator).using(particles=4))


def test_a_joint_first_site_is_compiled():
    same(two_sites(sp.DisARM(4)).using(particles=4))


def test_a_method_of_a_module_is_compiled():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        @sp.program
        def loss(self, x: Tensor, weight: Tensor) -> Tensor:
            q = Independent(Bernoulli(logits=self.layer(x), validate_args=False), 1, validate_args=False)
            return (sp.sample(q) @ weight).sum(-1) + x.sum(-1)

    torch.manual_seed(3)
    same(Model().loss)


def test_a_compiled_module_in_an_eager_program():
    """Its sites are registered at each call, and what they draw differs."""
    torch.manual_seed(3)
    layer = nn.Linear(3, 3)

    def gate(x: Tensor) -> Tensor:
        return sp.sample(Independent(Bernoulli(logits=layer(x), validate_args=False), 1, validate_args=False))

    def program_of(part: Callable[[Tensor], Tensor]) -> sp.program[...]:
        return sp.program(lambda x, weight: (part(x) @ weight).sum(-1) + x.sum(-1))

    torch._dynamo.reset()
    compiled = program_of(torch.compile(gate, fullgraph=True, backend="aot_eager"))
    eager = results(program_of(gate), 3)
    for one, other in zip(eager, results(compiled, 3), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    drawn = [compiled.sample(torch.zeros(50, 3), torch.zeros(3, 3))[1][0] for _ in range(3)]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_a_compiled_module_outside_of_a_program_is_refused():
    gate = torch.compile(lambda x: sp.sample(Bernoulli(logits=x, validate_args=False)), backend="aot_eager")
    with pytest.raises(RuntimeError, match="and so a program"):
        gate(torch.zeros(3, requires_grad=True))
