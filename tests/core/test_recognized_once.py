"""A distribution is recognized once, at the door, and its type is not looked at again on its way."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import sampleprop as sp
from contract.cases import BATCH, CASES, over, tell
from kinds import BITS, CLASSES, GAMMA, KINDS, NORMAL, POISSON, Kind, estimate, gradients, theta
from sampleprop import families

# They build distributions with other parameters, which are recognized in their turn.
REBUILDING = (sp.LAX, sp.EvolutionStrategies, sp.SPSA, sp.KnownMean, sp.OptimalCoefficient)


@pytest.fixture
def recognized(monkeypatch: pytest.MonkeyPatch) -> list[Distribution]:
    """Every distribution that is recognized from now on, in whichever module."""
    seen: list[Distribution] = []
    recognize = families.recognize

    def noted(dist: Distribution) -> families.Variables:
        seen.append(dist)
        return recognize(dist)

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "sampleprop" and getattr(module, "recognize", None) is recognize:
            monkeypatch.setattr(module, "recognize", noted)
    return seen


def require_once(recognized: list[Distribution], dist: Distribution, variant: sp.Estimator[Any, Any] | None) -> None:
    own = [seen for seen in recognized if seen is dist or seen is families.unwrap(dist)[0]]
    assert own == [dist]
    if variant is None or not any(isinstance(module, REBUILDING) for module in variant.modules()):
        assert recognized == [dist]
    recognized.clear()


@over(CASES)
def test_each_way_in_recognizes_once(
    recognized: list[Distribution], variant: sp.Estimator[Any, Any], kind: Kind
) -> None:
    phi = kind.phi(BATCH)
    made: list[Distribution] = []

    def dist(phi: Tensor) -> Distribution:
        made.append(kind.dist(phi))
        return made[-1]

    noted = Kind(kind.name, kind.shape, dist)
    gradients(estimate(variant, noted, phi, theta()), phi)
    require_once(recognized, made[-1], variant)
    draw = variant.propose(noted.dist(phi))
    require_once(recognized, made[-1], variant)
    gradients(tell(variant, noted, phi, draw), phi)
    require_once(recognized, made[-1], variant)


@pytest.mark.parametrize("detached", [False, True], ids=["differentiable", "black box"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_default_recognizes_once_whatever_it_tries(
    recognized: list[Distribution], kind: Kind, detached: bool
) -> None:
    """A continuous variable with a black box is tried by two estimators."""
    dist = kind.dist(kind.phi(BATCH))
    event = tuple(range(-len(dist.event_shape), 0))

    def f(x: Tensor) -> Tensor:
        costs = (x.detach() if detached else x).double()
        return costs.sum(event) if event else costs

    sp.expect(f, dist)
    require_once(recognized, dist, None)


@pytest.mark.parametrize(
    ("kind", "estimator"),
    [(BITS, sp.ScoreFunction(2)), (CLASSES, sp.REBAR()), (NORMAL, sp.Pathwise(None)), (GAMMA, sp.Pathwise())],
    ids=str,
)
def test_a_program_recognizes_each_variable_once(
    recognized: list[Distribution], kind: Kind, estimator: sp.Estimator[Any, Any]
) -> None:
    phi = kind.phi(BATCH)
    made: list[Distribution] = []

    def steps() -> Tensor:  # run again where the estimator evaluates what follows at further points
        made.append(kind.dist(phi))
        return sp.sample(made[-1], estimator).square().sum(-1)

    sp.program(steps)().sum().backward()
    assert recognized == made


@pytest.mark.parametrize("kind", [BITS, NORMAL, POISSON], ids=str)
def test_transforms_do_not_ask_again(recognized: list[Distribution], kind: Kind) -> None:
    made: list[Distribution] = []

    def value(phi: Tensor) -> Tensor:
        made.append(kind.dist(phi))
        return sp.expect(lambda x: x.sum(-1), made[-1], sp.ScoreFunction(2)).sum()

    torch.func.grad(value)(kind.phi(BATCH).detach())
    require_once(recognized, made[0], None)
