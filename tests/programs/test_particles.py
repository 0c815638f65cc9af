"""Programs whose batch holds independent copies of them.

The z-tests compare at 4.9 standard errors, a false-alarm rate of 1e-6 for each number, below 1e-4 for this file.
"""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Bernoulli, Independent

import sampleprop as sp
from programs.models import LEAVES, LIMIT, bits, exact, gradients, largest_z, two_levels, z
from sampleprop.programs import forced

ROWS = 20_000


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (sp.ScoreFunction(None), sp.ScoreFunction(1, baseline=sp.Constant(1.0))),
        (sp.ScoreFunction(None, baseline=sp.LeaveOneOut()), sp.ScoreFunction(None, baseline=sp.OptimalCoefficient())),
        (sp.ScoreFunction(3), sp.ScoreFunction(None)),
        (sp.ARMS(3), sp.ScoreFunction(None)),
        (sp.REBAR(3), sp.REBAR(None)),
        (sp.MuProp(None), sp.RELAX(None)),
    ],
    ids=str,
)
def test_particles_are_unbiased(first, second):
    torch.manual_seed(0)
    model = two_levels(first, second)
    assert largest_z(gradients(model.using(particles=3), ROWS), exact(two_levels(None, None), ("", ""))) < LIMIT


def test_leaving_one_particle_out_reduces_the_variance():
    """Against as many independent runs without it; the offset of the cost is what the baseline takes away."""
    torch.manual_seed(0)
    zero = sp.ScoreFunction(None, baseline=sp.Constant(0.0))
    model, plain = (two_levels(e, e).using(particles=4) for e in (sp.ScoreFunction(None), zero))
    with_others = gradients(model, ROWS)[1][0].var(0)
    without = gradients(plain, ROWS)[1][0].var(0)
    assert (with_others < 0.7 * without).all()


def test_particles_of_one_variable_are_its_samples():
    phi = torch.stack([LEAVES[0], LEAVES[1]]).requires_grad_()

    def cost(x: Tensor) -> Tensor:
        return (x.sum(-1) - 1.3).square()

    @sp.program
    def model(logits):
        return cost(sp.sample(bits(logits), sp.ScoreFunction(None)))

    # The rows of the particles are those of the samples: [5 * 2, ...] and [5, 2, ...].
    of_particles = model.using(generator=Generator().manual_seed(1), particles=5)(phi)
    of_samples = sp.expect(cost, bits(phi), sp.ScoreFunction(5), generator=Generator().manual_seed(1))
    assert torch.equal(of_particles, of_samples)
    for one, other in zip(
        torch.autograd.grad(of_particles.sum(), phi), torch.autograd.grad(of_samples.sum(), phi), strict=True
    ):
        assert torch.allclose(one, other, rtol=1e-12)


def test_any_module_works_unchanged():
    """A convolution, a recurrence and attention have no place for a sample dimension."""

    class Gate(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return h * sp.sample(Independent(Bernoulli(logits=h), h.dim() - 1))

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), Gate(), nn.Conv2d(3, 4, 3), nn.Flatten(), Gate(), nn.Unflatten(1, (4, 4)))
    recurrent, attention = nn.GRU(4, 4, batch_first=True), nn.MultiheadAttention(4, 2, batch_first=True)

    @sp.program
    def loss(x: Tensor, y: Tensor) -> Tensor:
        h, _ = recurrent(net(x))
        h, _ = attention(h, h, h)
        return nn.functional.cross_entropy(h.mean(1), y, reduction="none")

    value = loss.using(particles=8)(torch.randn(6, 1, 6, 6), torch.randint(4, (6,)))
    assert value.shape == (6,)
    value.mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in [*net.parameters(), *recurrent.parameters()])


def test_a_convolutional_network_is_right():
    """Against forced replay of 64 paths, all parameters."""
    torch.manual_seed(0)
    conv, head = nn.Conv2d(1, 2, 2).double(), nn.Linear(2, 2).double()

    @sp.program
    def loss(x: Tensor) -> Tensor:
        h = conv(x)
        h = h * sp.sample(Independent(Bernoulli(logits=h), 3))
        h = head(h.flatten(1)[:, :2])
        return (h * sp.sample(Independent(Bernoulli(logits=h), 1))).square().sum(-1)

    x = torch.randn(1, 1, 3, 2, dtype=torch.float64)
    leaves = [*conv.parameters(), *head.parameters()]
    right = forced.exact(loss, (x,), {}, leaves)
    assert right.paths == 64
    many = x.expand(1000, -1, -1, -1)
    for particles in (1, 2, 8):
        runs = [torch.autograd.grad(loss.using(particles=particles)(many).mean(), leaves) for _ in range(60)]
        for found, expected in zip(zip(*runs, strict=True), right.gradients, strict=True):
            assert z(torch.stack(found), expected) < 6.5  # 60 runs: Student's t has this tail of 1e-6 beyond 5.4


def test_wrong_particles_are_refused():
    @sp.program
    def model(logits, other=None):
        return sp.sample(Bernoulli(logits=logits))

    fixed = torch.zeros(3)
    outside = sp.program(lambda x: sp.sample(Bernoulli(logits=fixed)) + 0 * x)
    no_rows = sp.program(lambda x: x.sum())
    for call, message in (
        (lambda: model.using(particles=4)(torch.zeros(3), other=torch.zeros(5)), r"argument 1: 3, other: 5. Give what"),
        (lambda: model.using(particles=4)(torch.zeros(())), "got no tensor with one. Give the batch as an argument"),
        (lambda: outside.using(particles=2)(torch.zeros(3)), r"begins with the 6 rows .*; got \[3\]"),
        (lambda: no_rows.using(particles=2)(torch.zeros(3)), r"A cost in a program with particles=2 needs the 6 rows"),
        (lambda: model.using(sp.DisARM(4), particles=2)(torch.zeros(3)), "at the first variable only, with samples=2"),
        (lambda: model.using(sp.Enumerate(), particles=2)(torch.zeros(3)), "at the first variable only"),
        (lambda: model.using(sp.LocalExpectation(2), particles=2)(torch.zeros(3)), "further points"),
        (lambda: model.using(particles=0), "whole number of particles, at least 1; got particles=0"),
        (lambda: model.using(apart=0), "whole number of apart, at least 1"),
        (lambda: model.using(apart=2, particles=2), "in one batch or apart"),
        (lambda: model.using(apart=2).sample(torch.zeros(3)), "sample needs one run"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_particles_that_differ_are_not_drawn_together():
    """Here a dropout before the first site makes the particles differ."""
    drop = nn.Dropout(0.5)

    @sp.program
    def model(x):
        return sp.sample(bits(drop(x)), sp.DisARM(2)).sum(-1)

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="one distribution for all particles; got another"):
        model.using(particles=2)(torch.ones(20, 3, requires_grad=True))
