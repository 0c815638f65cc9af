"""The configurations that are certified: of each estimator of the register the ones in the table, or the default
one."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import sampleprop as sp
from sampleprop import families

Configurations = tuple[sp.Estimator[Any, Any], ...]
Learner = TypeVar("Learner", sp.DoubleCV, sp.LAX, sp.RELAX, sp.RODEO)


def _ramp(points: Tensor) -> Tensor:
    weights = torch.arange(points.shape[-1], device=points.device) / 10
    return (points * weights).flatten(2).sum(-1)  # [k, batch]


def _ramp_mean(dist: Distribution) -> Tensor:
    variables = families.recognize(dist)
    if isinstance(variables, families.LogLinears):
        mean = variables.mean
    elif isinstance(variables, families.Structures):  # which do not know their mean
        return (variables.support_log_prob().exp() * _ramp(variables.support().unsqueeze(1))).sum(0)
    elif not isinstance(variables, families.Discrete):
        mean = dist.mean
    elif isinstance(variables, families.Integers):
        mean = (variables.probs * torch.arange(variables.probs.shape[-1], device=variables.probs.device)).sum(-1)
    else:
        mean = variables.probs
    return _ramp(mean.unsqueeze(0)).squeeze(0)


def tilted(estimator: Learner) -> Learner:
    """The estimator with control variates that are not zero, as they start: zeros would hide an error in their use."""
    network: nn.Module | None = None
    with torch.no_grad():
        if isinstance(estimator, sp.DoubleCV):
            estimator.coefficient.fill_(0.5)
        elif isinstance(estimator, sp.RODEO):
            estimator.alpha.fill_(0.25)
            estimator.beta.fill_(0.25)
            network = estimator.network[-1]
        else:
            network = estimator.quadratic
        for parameter in () if network is None else network.parameters():
            parameter.copy_(torch.linspace(0.05, -0.05, parameter.numel()).reshape(parameter.shape))
    return estimator


def _table() -> dict[type[sp.Estimator[Any, Any]], Configurations]:
    """What is certified of the estimators whose default is not enough, or has a bias that is too small to be seen."""
    return {
        sp.ARMS: (sp.ARMS(), sp.ARMS(2, copula="dirichlet")),
        sp.CARMS: (sp.CARMS(), sp.CARMS(2, copula="dirichlet")),
        sp.DisARM: (sp.DisARM(), sp.DisARM(4)),
        sp.MeasureValued: (sp.MeasureValued(), sp.MeasureValued(2)),
        sp.LocalExpectation: (sp.LocalExpectation(), sp.LocalExpectation(2)),
        sp.DoublyReparameterized: (sp.DoublyReparameterized(2),),
        sp.ImportanceWeighted: (sp.ImportanceWeighted(1), sp.ImportanceWeighted(2)),
        sp.ReweightedWakeSleep: (sp.ReweightedWakeSleep(2),),
        sp.VIMCO: (sp.VIMCO(2), sp.VIMCO(3)),
        sp.GappedStraightThrough: (sp.GappedStraightThrough(), sp.GappedStraightThrough(gap="expected")),
        sp.LAX: (tilted(sp.LAX()), tilted(sp.LAX(2))),
        sp.REBAR: (sp.REBAR(), sp.REBAR(coupled=True)),
        sp.RELAX: (
            tilted(sp.RELAX()),
            tilted(sp.RELAX(use_f=False)),
            tilted(sp.RELAX(use_f=False, coupled=True)),
        ),
        sp.DoubleCV: (tilted(sp.DoubleCV()), tilted(sp.DoubleCV(4))),
        sp.MuProp: (sp.MuProp(), sp.MuProp(2, learn=True)),
        sp.RaoBlackwellized: (
            sp.RaoBlackwellized(3),
            sp.RaoBlackwellized(3, baseline=False),
            sp.RaoBlackwellized(4, drawn=2),
        ),
        sp.RODEO: (tilted(sp.RODEO()), tilted(sp.RODEO(3))),
        sp.ScoreFunction: (
            sp.ScoreFunction(1),
            sp.ScoreFunction(),
            sp.ScoreFunction(4),
            sp.ScoreFunction(1, baseline=sp.Constant(1.5)),
            sp.ScoreFunction(1, baseline=sp.MovingAverage(start=1.5)),
            sp.ScoreFunction(1, baseline=sp.LearnedBaseline()),
            sp.ScoreFunction(1, baseline=sp.SelfCritical()),
            sp.ScoreFunction(4, baseline=sp.OptimalCoefficient()),
            sp.ScoreFunction(1, baseline=sp.KnownMean(_ramp, _ramp_mean)),
        ),
        sp.UGC: (sp.UGC(), sp.UGC(4)),
        sp.UnorderedSet: (sp.UnorderedSet(1), sp.UnorderedSet(2), sp.UnorderedSet()),
        sp.IMLE: (sp.IMLE(), sp.IMLE(2, symmetric=True)),
        sp.PerturbedScore: (sp.PerturbedScore(1), sp.PerturbedScore(2), sp.PerturbedScore(4)),
        sp.EvolutionStrategies: (sp.EvolutionStrategies(2, sigma=0.5),),
        sp.SPSA: (sp.SPSA(2, step=1.0),),
    }


def _configurations() -> dict[type[sp.Estimator[Any, Any]], Configurations]:
    """The same ones in each process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        table = _table()
        return {
            estimator: tuple(variant.eval() for variant in table.get(estimator) or (estimator(),))
            for estimator in sp.REGISTER
        }


CONFIGURATIONS = _configurations()
VARIANTS = tuple(variant for configurations in CONFIGURATIONS.values() for variant in configurations)
