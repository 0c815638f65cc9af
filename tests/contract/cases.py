"""The pairs of a variant of the register and a kind of random variable that the tests of the contract run over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import sampleprop as sp
from kinds import ONE_BIT, Case, Kind, cases, cost, gradients, theta

BATCH = 5


def name(value: Any) -> str:
    return value.label if isinstance(value, sp.Estimator) else str(value)


def over(those: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("variant", "kind"), those, ids=name)


def free(variant: sp.Estimator[Any, Any]) -> bool:
    """Whether the variant is of any shape: a control variate of known mean is a function for one shape."""
    return not any(isinstance(module, sp.KnownMean) for module in variant.modules())


def attached(variant: sp.Estimator[Any, Any], kind: Kind) -> bool:
    """Whether the points carry a path to φ."""
    return bool(variant.propose(kind.dist(kind.phi(2))).points.requires_grad)


def tensors(draw: Any) -> Iterator[Tensor]:
    return (field for field in draw if isinstance(field, Tensor))


CASES = [(variant, kind) for variant, kind in cases() if free(variant) or kind is not ONE_BIT]
FREE = [(variant, kind) for variant, kind in CASES if free(variant)]
ATTACHED = [case for case in CASES if attached(*case)]
DETACHED = [case for case in CASES if case not in ATTACHED]


def once(those: list[Case]) -> list[Case]:
    """Each variant once, on that of its kinds which fewest variants before it have, so that every kind occurs."""
    chosen: dict[sp.Estimator[Any, Any], Kind] = {}
    for variant, _ in those:
        if variant not in chosen:
            kinds = [kind for owner, kind in those if owner is variant]
            chosen[variant] = min(kinds, key=list(chosen.values()).count)
    return list(chosen.items())


EACH = once(CASES)  # for what depends on the estimator only


def tell(variant: sp.Estimator[Any, Any], kind: Kind, phi: Tensor, draw: Any, costs: Tensor | None = None) -> Tensor:
    """The second half of `expect`, by hand."""
    dist = kind.dist(phi)
    weights, event_ndim = theta(), len(dist.event_shape)

    def f(x: Tensor) -> Tensor:
        return cost(x, weights, event_ndim)

    costs = f(draw.points) if costs is None else costs
    probe_costs = None if draw.probes is None else f(draw.probes)
    return variant.combine(dist, draw, costs, probe_costs=probe_costs, relaxed_f=f)


def shares(variant: sp.Estimator[Any, Any], kind: Kind) -> Tensor:
    """The weight of each cost in the value."""
    phi = kind.phi(BATCH)
    draw = variant.propose(kind.dist(phi), generator=Generator().manual_seed(0))
    told = cost(draw.points, theta().detach(), len(kind.dist(phi).event_shape))
    leaf = torch.zeros_like(told).requires_grad_()
    return gradients(tell(variant, kind, phi, draw, told + leaf), leaf)[0]
