"""Every kind of estimator at two levels, with and without particles, against forced replay.

The z-tests compare at 4.9 standard errors, a false-alarm rate of 1e-6 for each number; the file has about 1,000
numbers.
"""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from torch import Tensor

import sampleprop as sp
from programs.models import LEAVES, LIMIT, LINEAR, NORMAL, WEIGHT, exact, gradients, largest_z, two_levels
from sampleprop.programs import forced

ROWS = 20_000
KINDS = {
    "score": lambda: sp.ScoreFunction(None),
    "coupled": lambda: sp.DisARM(),
    NORMAL: lambda: sp.Pathwise(),
    LINEAR: lambda: sp.StraightThrough(),
    "relaxed": lambda: sp.REBAR(None, temperature=0.6, eta=0.8),
    "exact": lambda: sp.Enumerate(),
}
PAIRS = list(itertools.product(KINDS, KINDS))
DIMENSION = ("coupled", "exact")


@cache
def reference(kinds: tuple[str, str]) -> tuple[Tensor, list[Tensor]]:
    plain = tuple(kind if kind in (NORMAL, LINEAR) else "" for kind in kinds)
    return exact(two_levels(None, None, plain), plain)


def model(kinds: tuple[str, str]) -> sp.program:
    return two_levels(KINDS[kinds[0]](), KINDS[kinds[1]](), kinds)


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_two_levels_are_right_for_every_pair_of_kinds(kinds):
    torch.manual_seed(0)
    assert largest_z(gradients(model(kinds), ROWS), reference(kinds)) < LIMIT


@pytest.mark.parametrize("particles", [1, 2, 8])
@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_particles_are_right_for_every_pair_that_they_take(kinds, particles):
    torch.manual_seed(0)
    repeated = model(kinds).using(particles=particles)
    if kinds[0] == "coupled" and kinds[1] not in DIMENSION and particles > 1:
        repeated = repeated.using({"first": sp.DisARM(particles)})
    elif any(kind in DIMENSION for kind in kinds):
        with pytest.raises(ValueError, match=rf"draws several samples together, which particles={particles} allows"):
            gradients(repeated, 2)
        return
    assert largest_z(gradients(repeated, ROWS // particles), reference(kinds)) < LIMIT


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_runs_apart_are_right_for_the_kinds_that_they_take(kinds):
    torch.manual_seed(0)
    apart = model(kinds).using(apart=4)
    if any(kind in (*DIMENSION, "relaxed") for kind in kinds):
        with pytest.raises(ValueError, match="runs apart needs sites without a dimension and without control variates"):
            gradients(apart, 2)
        return
    assert largest_z(gradients(apart, ROWS // 4), reference(kinds)) < LIMIT


@pytest.mark.parametrize(
    "pair",
    [
        (sp.REBAR(2), sp.LocalExpectation()),
        (sp.LocalExpectation(), sp.ScoreFunction(3)),
        (sp.ScoreFunction(2, baseline=sp.SelfCritical()), sp.MuProp()),
        (sp.MuProp(2), sp.RODEO(2)),
        (sp.RELAX(), sp.DoubleCV(2)),
        (sp.CoupledPerturbation(), sp.ScoreFunction(1, baseline=sp.Constant(1.0))),
        (sp.ScoreFunction(None, baseline=sp.Constant(1.0)), sp.RELAX(use_f=False)),
    ],
    ids=str,
)
def test_further_estimators_are_right(pair):
    torch.manual_seed(0)
    assert largest_z(gradients(two_levels(*pair), ROWS), reference(("", ""))) < LIMIT


def test_forced_replay_is_nested_enumeration():
    """Written out: every state of both levels, with its probability."""
    phi1, phi2, theta = (leaf.clone().requires_grad_() for leaf in LEAVES)
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 2)

    def probability(logits: Tensor, state: Tensor) -> Tensor:
        return torch.where(state > 0, logits.sigmoid(), 1 - logits.sigmoid()).prod()

    total = torch.zeros((), dtype=torch.float64)
    for a in states:
        inner = 0.3 * a.sum() + theta @ a
        for b in states:
            cost = (a @ theta - b.sum()).square() + b.prod() * a[0] + 1
            inner = inner + probability(phi2 + a @ WEIGHT, b) * cost
        total = total + probability(phi1, a) * inner
    by_hand = torch.autograd.grad(total, (phi1, phi2, theta))
    found = forced.exact(two_levels(None, None), (phi1, phi2, theta), {}, (phi1, phi2, theta))
    assert found.paths == 16
    assert abs(found.missing) < 1e-12
    torch.testing.assert_close(found.value, total.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.gradients, by_hand, rtol=1e-12, atol=1e-12)


def test_a_site_with_a_dimension_is_forced_alike():
    leaves = [leaf.clone().requires_grad_() for leaf in LEAVES]
    plain = forced.exact(two_levels(None, None), leaves, {}, leaves)
    wide = forced.exact(two_levels(sp.ScoreFunction(3), sp.Enumerate()), leaves, {}, leaves)
    torch.testing.assert_close(plain.gradients, wide.gradients, rtol=1e-12, atol=1e-12)


def test_straight_through_is_biased_where_the_cost_is_not_linear():
    torch.manual_seed(0)
    found = gradients(two_levels(sp.StraightThrough(), sp.Enumerate()), ROWS)
    assert largest_z(found, reference(("", ""))) > 2 * LIMIT
