"""The configurations that `recommend` tries besides the default one of each estimator.

The number of samples is not listed: `recommend` chooses it. Neither are critics, functions and networks of the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sampleprop.baselines.constant import Constant
from sampleprop.baselines.learned import LearnedBaseline
from sampleprop.baselines.moving_average import MovingAverage
from sampleprop.baselines.optimal_coefficient import OptimalCoefficient
from sampleprop.baselines.self_critical import SelfCritical
from sampleprop.estimator import Estimator
from sampleprop.estimators import (
    ARMS,
    CARMS,
    REBAR,
    RELAX,
    SPSA,
    EvolutionStrategies,
    GappedStraightThrough,
    MuProp,
    RaoBlackwellized,
    ScoreFunction,
)

FURTHER: Mapping[type[Estimator[Any, Any]], Sequence[Callable[[], Estimator[Any, Any]]]] = {
    # The Dirichlet copula is cheaper to draw than the systematic one, which counts where the time is limited.
    ARMS: (lambda: ARMS(copula="dirichlet"),),
    CARMS: (lambda: CARMS(copula="dirichlet"),),
    # Whether the expected gap or a fixed one has the smaller bias depends on the probabilities.
    GappedStraightThrough: (lambda: GappedStraightThrough(gap="expected"),),
    # Two evaluations of f for each sample instead of three, so that a budget holds more samples.
    REBAR: (lambda: REBAR(coupled=True),),
    RELAX: (
        # Without f in the control variate f may be a black box, and each sample takes one evaluation instead of three.
        lambda: RELAX(use_f=False),
        # The same with fewer evaluations of the critic.
        lambda: RELAX(use_f=False, coupled=True),
    ),
    # A learned coefficient helps where the tangent at the mean is far from f.
    MuProp: (lambda: MuProp(learn=True),),
    RaoBlackwellized: (
        # A baseline only adds noise where the costs average to about zero.
        lambda: RaoBlackwellized(baseline=False),
        # A second draw helps where the outcomes that are not summed have much of the probability.
        lambda: RaoBlackwellized(drawn=2),
    ),
    ScoreFunction: (
        # The constant 0, no baseline at all: an estimated one only adds noise where the costs average to about zero.
        lambda: ScoreFunction(baseline=Constant()),
        # The average of earlier costs has little noise and works with a single sample.
        lambda: ScoreFunction(baseline=MovingAverage()),
        # A learned function of the context fits batch elements with different mean costs.
        lambda: ScoreFunction(baseline=LearnedBaseline()),
        # The cost of the mode is near the cost of a sample where the distribution is nearly deterministic.
        lambda: ScoreFunction(baseline=SelfCritical()),
        # The constant of least variance differs from the mean cost where costs and scores are correlated.
        lambda: ScoreFunction(baseline=OptimalCoefficient()),
    ),
    # A wide kernel smooths the jumps of f, which lowers the variance and adds a bias.
    EvolutionStrategies: (lambda: EvolutionStrategies(sigma=0.5),),
    SPSA: (lambda: SPSA(step=1.0),),
}
