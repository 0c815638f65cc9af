"""Every estimator of the register with its two yardsticks, by hand as most people write it and as tight as it gets."""

import functools
import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor
from torch.distributions import Distribution

import naive
import sampleprop as sp
import tight
from workloads import Workload

Estimate = Callable[[Tensor], Tensor]
Naive = Callable[[Distribution, naive.Cost, int], Tensor]
Tight = Callable[[tight.Family, Tensor, naive.Cost, int], Tensor]


class Kind(NamedTuple):
    """A kind of distribution: how it is built, and what the tight yardstick knows of it."""

    dist: Callable[[Tensor], Distribution]
    tight: tight.Family


KINDS = {
    "bits": Kind(naive.bits, tight.BITS),
    "one-hots": Kind(naive.one_hots, tight.ONE_HOTS),
    "outcomes": Kind(naive.outcomes, tight.OUTCOMES),
    "reals": Kind(naive.normals, tight.REALS),
    "counts": Kind(naive.counts, tight.REALS),
}


class Case(NamedTuple):
    """One configuration. `samples` is the default; the others are tried where the workload varies the number."""

    estimator: type[sp.Estimator[Any, Any]]
    naive: Callable[[int], Naive]
    tight: Callable[[int], Tight]
    kinds: tuple[str, ...]
    samples: int = 1
    step: int = 1
    most: float = math.inf
    options: Mapping[str, Any] = {}
    takes_samples: bool = True
    compiled: Callable[[int], Tight] | None = None  # the tight yardstick for torch.compile, where it is another one

    def build(self, samples: int, package: ModuleType = sp) -> sp.Estimator[Any, Any]:
        """The estimator with so many samples, from our package or from that of another checkout."""
        arguments = (samples,) if self.takes_samples else ()
        made: sp.Estimator[Any, Any] = getattr(package, self.estimator.__name__)(*arguments, **self.options)
        return made

    def numbers(self, wanted: tuple[int, ...]) -> list[int]:
        """The numbers of samples to try, from those wanted: 1 stands for the fewest that the estimator does with."""
        return sorted({max(k, self.step) for k in wanted if k <= self.most} | {self.samples})


def _case(
    estimator: type[sp.Estimator[Any, Any]],
    name: str,
    *kinds: str,
    samples: int = 1,
    step: int = 1,
    most: float = math.inf,
) -> Case:
    """Both yardsticks by their common name; a class gets the number of coordinates of a point."""

    def of(module: Any) -> Callable[[int], Any]:
        yardstick = getattr(module, name)
        return yardstick if isinstance(yardstick, type) else lambda size: yardstick

    return Case(estimator, of(naive), of(tight), kinds, samples, step, most)


_BOTH = ("bits", "one-hots")

CASES: Mapping[str, Case] = {
    "ScoreFunction(1)": _case(sp.ScoreFunction, "score_function", *_BOTH, most=1),
    "ScoreFunction(2)": _case(sp.ScoreFunction, "leave_one_out", *_BOTH, samples=2, step=2),
    "ScoreFunction(4)": _case(sp.ScoreFunction, "leave_one_out", *_BOTH, samples=4, step=4, most=4),
    "Pathwise": _case(sp.Pathwise, "pathwise", "reals"),
    "GumbelSoftmax": _case(sp.GumbelSoftmax, "gumbel_softmax", *_BOTH),
    "StraightThrough": _case(sp.StraightThrough, "straight_through", *_BOTH),
    "StraightThroughGumbel": _case(sp.StraightThroughGumbel, "straight_through_gumbel", *_BOTH),
    "DisARM": _case(sp.DisARM, "disarm", "bits", samples=2, step=2),
    "ARM": _case(sp.ARM, "arm", "bits", samples=2, step=2),
    "ARMS": _case(sp.ARMS, "arms", "bits", samples=4, step=2),
    "CARMS": _case(sp.CARMS, "carms", "one-hots", samples=4, step=2, most=16),
    "REBAR": _case(sp.REBAR, "REBAR", *_BOTH)._replace(compiled=tight.CompiledREBAR),
    "REBAR(coupled)": _case(sp.REBAR, "REBAR", *_BOTH)._replace(
        options={"coupled": True},
        tight=functools.partial(tight.REBAR, coupled=True),
        compiled=functools.partial(tight.CompiledREBAR, coupled=True),
    ),
    "RELAX": _case(sp.RELAX, "RELAX", *_BOTH),
    "MuProp": _case(sp.MuProp, "muprop", *_BOTH),
    "DoubleCV": _case(sp.DoubleCV, "DoubleCV", *_BOTH, samples=2, step=2),
    "RODEO": _case(sp.RODEO, "RODEO", *_BOTH, samples=2, step=2, most=16),
    "VIMCO": _case(sp.VIMCO, "vimco", *_BOTH, samples=8, step=2),
    "ReweightedWakeSleep": _case(sp.ReweightedWakeSleep, "reweighted_wake_sleep", *_BOTH, samples=8, step=2),
    "ImportanceWeighted": _case(sp.ImportanceWeighted, "importance_weighted", "reals", samples=8),
    "DoublyReparameterized": _case(sp.DoublyReparameterized, "doubly_reparameterized", "reals", samples=8),
    "StickingTheLanding": _case(sp.StickingTheLanding, "sticking_the_landing", "reals"),
    "LAX": _case(sp.LAX, "LAX", "reals"),
    "Enumerate": _case(sp.Enumerate, "enumerate_all", "outcomes", most=1)._replace(takes_samples=False),
    "LocalExpectation": _case(sp.LocalExpectation, "local_expectation", *_BOTH),
    "GOGradient": _case(sp.GOGradient, "go_gradient", "bits"),
    "CoupledPerturbation": _case(sp.CoupledPerturbation, "coupled_perturbation", "bits"),
    "MeasureValued": _case(sp.MeasureValued, "measure_valued", "reals"),
    "BitFlip": _case(sp.BitFlip, "bitflip", "bits"),
    "UGC": _case(sp.UGC, "ugc", "bits", samples=2, step=2),
    "RaoBlackwellized": _case(sp.RaoBlackwellized, "rao_blackwellized", "outcomes", samples=4, step=2, most=4),
    "UnorderedSet": _case(sp.UnorderedSet, "unordered_set", "outcomes", samples=4, most=4),
    "ReinMax": _case(sp.ReinMax, "reinmax", *_BOTH),
    "DecoupledGumbelSoftmax": _case(sp.DecoupledGumbelSoftmax, "decoupled_gumbel_softmax", *_BOTH),
    "GappedStraightThrough": _case(sp.GappedStraightThrough, "gapped_straight_through", *_BOTH),
    "GumbelRao": _case(sp.GumbelRao, "gumbel_rao", *_BOTH),
    "HardConcrete": _case(sp.HardConcrete, "hard_concrete", "bits"),
    "GaussianRelaxedBernoulli": _case(sp.GaussianRelaxedBernoulli, "gaussian_relaxed_bernoulli", "bits"),
    "InvertibleGaussian": _case(sp.InvertibleGaussian, "invertible_gaussian", *_BOTH),
    "LogisticNormalSoftmax": _case(sp.LogisticNormalSoftmax, "logistic_normal_softmax", *_BOTH),
    "GeneralizedGumbelSoftmax": _case(sp.GeneralizedGumbelSoftmax, "generalized_gumbel_softmax", "counts"),
    "EvolutionStrategies": _case(sp.EvolutionStrategies, "evolution_strategies", "bits"),
    "SPSA": _case(sp.SPSA, "spsa", "bits"),
}


def estimates(
    case: Case,
    kind: str,
    samples: int,
    workload: Workload,
    before: ModuleType | None = None,
    to_compile: bool = False,
) -> dict[str, Estimate]:
    """The library, both yardsticks, and the library of another checkout if one is given: from the parameter to
    [*batch]."""
    dist, family = KINDS[kind]
    by_hand = case.naive(workload.size)
    tightest = (case.compiled if to_compile and case.compiled else case.tight)(workload.size)
    f = workload.cost

    def of(package: ModuleType) -> Estimate:
        estimator = case.build(samples, package)
        return lambda parameter: package.expect(f, dist(parameter), estimator)

    found: dict[str, Estimate] = {
        "ours": of(sp),
        "naive": lambda parameter: by_hand(dist(parameter), f, samples),
        "tight": lambda parameter: tightest(family, parameter, f, samples),
    }
    return found if before is None else found | {"before": of(before)}
