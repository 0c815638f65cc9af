"""Programs run as independent particles, and variables that fold together.

The z-tests compare at 4.9 standard errors, a false-alarm rate of 1e-6 for each number, below 1e-4 for this file.
"""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Independent, Normal

import sampleprop as sp
from core.test_program import EXACT, EXACT_VALUE, LEAVES, LIMIT, ROWS, bits, two_levels, z


def particle_gradients(model: sp.program, particles: int, rows: int) -> tuple[Tensor, list[Tensor]]:
    copies = [leaf.expand(rows, -1).clone().requires_grad_() for leaf in LEAVES]
    value = model.using(particles=particles)(*(c.expand(particles, -1, -1) for c in copies))
    assert value.shape == (rows,)
    return value.detach(), list(torch.autograd.grad(value.sum(), copies))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (sp.ScoreFunction(None), sp.ScoreFunction(None)),
        (sp.ScoreFunction(None), sp.ScoreFunction(2)),
        (sp.ScoreFunction(2), sp.ScoreFunction(None)),
        (sp.ScoreFunction(None, baseline=sp.LeaveOneOut()), sp.ScoreFunction(None, baseline=sp.Constant(1.0))),
        (sp.DisARM(), sp.ScoreFunction(None)),
        (sp.ScoreFunction(None), sp.Enumerate()),
    ],
    ids=str,
)
def test_particles_are_unbiased(first, second):
    torch.manual_seed(0)
    value, found = particle_gradients(two_levels(first, second), 3, ROWS)
    assert z(value, EXACT_VALUE[0]) < LIMIT
    for sample, exact in zip(found, EXACT, strict=True):
        assert z(sample, exact[0]) < LIMIT


def test_leaving_one_particle_out_reduces_the_variance():
    """Against as many independent runs without it; the offset of the cost is what the baseline takes away."""
    torch.manual_seed(0)
    model = two_levels(sp.ScoreFunction(None), sp.ScoreFunction(None))
    plain = two_levels(
        sp.ScoreFunction(None, baseline=sp.Constant(0.0)), sp.ScoreFunction(None, baseline=sp.Constant(0.0))
    )
    with_others = particle_gradients(model, 4, ROWS)[1][0].var(0)
    without = particle_gradients(plain, 4, ROWS)[1][0].var(0)
    assert (with_others < 0.7 * without).all()


def test_the_second_derivative_over_particles_is_right():
    def hessian(model: sp.program, rows: int, particles: int | None) -> Tensor:
        phi = LEAVES[0].expand(rows, -1).clone().requires_grad_()
        others = [leaf.expand(rows, -1) for leaf in LEAVES[1:]]
        given = [phi, phi + others[0], others[1]]
        if particles is not None:
            model, given = model.using(particles=particles), [x.expand(particles, -1, -1) for x in given]
        (slope,) = torch.autograd.grad(model(*given).sum(), phi, create_graph=True)
        return torch.stack([torch.autograd.grad(slope[:, i].sum(), phi, retain_graph=True)[0] for i in range(2)], -1)

    torch.manual_seed(0)
    exact = hessian(two_levels(sp.Enumerate(), sp.Enumerate()), 1, None)[0]
    found = hessian(two_levels(sp.ScoreFunction(None), sp.ScoreFunction(None)), 10 * ROWS, 3)
    assert z(found, exact) < LIMIT


def test_particles_of_one_variable_are_its_samples():
    phi = LEAVES[0].clone().requires_grad_()

    def cost(x: Tensor) -> Tensor:
        return (x.sum(-1) - 1.3).square()

    @sp.program
    def model(logits):
        x = yield bits(logits), sp.ScoreFunction(None)
        return cost(x)

    of_particles = model.using(Generator().manual_seed(1), particles=5)(phi.expand(5, 2))
    of_samples = sp.expect(cost, bits(phi), sp.ScoreFunction(5), generator=Generator().manual_seed(1))
    assert torch.equal(of_particles, of_samples)
    for one, other in zip(torch.autograd.grad(of_particles, phi), torch.autograd.grad(of_samples, phi), strict=True):
        assert torch.allclose(one, other, rtol=1e-12)


def test_a_method_keeps_its_setting():
    class Model(torch.nn.Module):
        @sp.program
        def loss(self, logits):
            x = yield Bernoulli(logits=logits), sp.ScoreFunction(None)
            return x

    bound = Model().loss.using(particles=2).using(Generator().manual_seed(0))
    assert bound(torch.zeros(2, 3)).shape == (3,)


def test_wrong_particles_are_refused():
    @sp.program
    def model(logits, cost):
        if logits is not None:
            yield Bernoulli(logits=logits), sp.ScoreFunction(None)
        return cost

    with pytest.raises(ValueError, match=r"first distribution .* begins with 4; got \[3\].*expand"):
        model.using(particles=4)(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"A cost .* begins with 4; got \[3\]"):
        model.using(particles=4)(None, torch.zeros(3))
    with pytest.raises(ValueError, match="whole number of particles, at least 1; got particles=0"):
        model.using(particles=0)


def test_a_function_that_does_not_yield_is_refused():
    @sp.program
    def model(x):
        return x

    with pytest.raises(TypeError, match=r"needs a generator function; got one that returned tensor"):
        model(torch.zeros(3))


def chain(score: sp.Estimator, length: int, cost_at: frozenset[int]) -> sp.program:
    """Bits and real numbers in turn, two of each kind one after the other."""

    @sp.program
    def model(phi):
        x = phi[0] * 0
        for t in range(length):
            if t % 4 < 2:
                x = yield Bernoulli(logits=phi[0] + x * phi[1], validate_args=False), score
            else:
                x = yield Normal(x - phi[1], 1.3), sp.Pathwise(None)
            if t in cost_at:
                yield (x * phi[2] - 0.4).square()
        return x * phi[0]

    return model


@pytest.mark.parametrize("cost_at", [frozenset(range(9)), frozenset({2, 5})], ids=["all", "some"])
def test_variables_that_fold_together_give_what_they_give_one_by_one(cost_at):
    """A constant baseline of 0 changes nothing but keeps the engine from folding at once; to the second order."""
    phi = torch.tensor([[0.3, -0.2], [0.5, 0.4], [1.1, -0.7]], dtype=torch.float64, requires_grad=True)
    results = []
    for score in (sp.ScoreFunction(None), sp.ScoreFunction(None, baseline=sp.Constant(0.0))):
        value = chain(score, 9, cost_at).using(Generator().manual_seed(3))(phi)
        (slope,) = torch.autograd.grad(value.sum(), phi, create_graph=True)
        (curve,) = torch.autograd.grad(slope.square().sum(), phi)
        results.append((value.detach(), slope.detach(), curve))
    for together, single in zip(*results, strict=True):
        assert torch.allclose(together, single, rtol=1e-10, atol=1e-12)


def test_score_functions_of_different_kinds_fold_together():
    phi = torch.tensor([0.3, -0.6], dtype=torch.float64, requires_grad=True)

    def model(score: sp.Estimator) -> Tensor:
        @sp.program
        def steps(phi):
            a = yield Bernoulli(logits=phi), score
            b = yield Independent(Normal((phi + a).unsqueeze(-1).expand(2, 3), 1.0), 1), score
            c = yield Bernoulli(probs=b.sum(-1).sigmoid()), score
            return a * b.square().sum(-1) + c

        return torch.autograd.grad(steps.using(Generator().manual_seed(0))(phi).sum(), phi)[0]

    assert torch.allclose(
        model(sp.ScoreFunction(None)), model(sp.ScoreFunction(None, baseline=sp.Constant(0.0))), rtol=1e-10
    )


def test_a_variable_that_the_cost_ignores_is_found_within_a_chain():
    @sp.program
    def model(phi):
        x = yield Normal(phi, 1.0), sp.Pathwise(None)
        y = yield Normal(phi, 1.0), sp.Pathwise(None)
        z = yield Normal(y, 1.0), sp.Pathwise(None)
        return z + x.detach()

    with pytest.raises(RuntimeError, match="Pathwise needs a cost that is differentiable in x"):
        model(torch.zeros(3, requires_grad=True))
