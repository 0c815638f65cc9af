"""The score function (REINFORCE), with any baseline and to any order.

Source: Williams (1992), "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
sec. 4; any order by the box of Foerster, Farquhar, Al-Shedivat, Rocktäschel, Xing and Whiteson (2018), "DiCE: The
infinitely differentiable Monte Carlo estimator", sec. 4.
Differences from the papers: the baseline is an argument, and leave-one-out where none is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution

from sampleprop import checks, families
from sampleprop.baselines.baseline import Baseline
from sampleprop.baselines.constant import Constant
from sampleprop.baselines.known_mean import KnownMean
from sampleprop.baselines.learned import LearnedBaseline
from sampleprop.baselines.leave_one_out import LeaveOneOut
from sampleprop.baselines.moving_average import MovingAverage
from sampleprop.baselines.optimal_coefficient import OptimalCoefficient
from sampleprop.baselines.self_critical import SelfCritical
from sampleprop.estimator import F, Group, Grouped, Source, Worked, average, kept_weights
from sampleprop.surrogate import score_surrogate, train


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: Tensor | None = None  # [m, *batch, *event], where the baseline asks for them


class ScoreFunction(Grouped[Draw]):
    r"""Weighs the score of each sample with how much its cost exceeds a baseline.

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i (f(x_i) - b_i)\,\nabla_\phi \log p_\phi(x_i)
            + \nabla_\phi \mathbb{E}[b], \qquad x_i \sim p_\phi

    Unbiased, to any order. f may be a black box; the distribution needs a log-probability that is differentiable in
    φ and a support that does not move with φ. k evaluations of f, and the baseline's.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        baseline: b; None for :class:`LeaveOneOut` with two samples or more (those of a program's other particles and of
            other ranks counted), and for none with one.

    Raises:
        ValueError: when called with fewer samples than the baseline needs, with a part of a draw whose samples make each
            other's baselines, or with a point of probability zero.
        TypeError: for a distribution whose support moves with its parameters (Uniform, say), and for a baseline that is
            not one.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> loss = sp.expect(lambda x: (x - 0.4).square().sum(-1), q, sp.ScoreFunction(samples=8))
        >>> loss.backward()
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    source = Source(
        key="williams1992simple",
        authors="Ronald J. Williams",
        year=1992,
        title="Simple statistical gradient-following algorithms for connectionist reinforcement learning",
        venue="Machine Learning 8",
        where="sec. 4",
        kind="article",
    )

    def __init__(self, samples: int | None = 2, *, baseline: Baseline | None = None) -> None:
        super().__init__()
        if baseline is not None and not isinstance(baseline, Baseline):
            number = isinstance(baseline, int | float)
            fix = f"sp.Constant({baseline})" if number else "an object, such as sp.LeaveOneOut()"
            raise TypeError(f"ScoreFunction needs a Baseline object or None; got baseline={baseline!r}. Pass {fix}.")
        checks.samples("ScoreFunction", samples, optional=True)
        self.baseline = baseline
        self.samples = samples

    @property
    def samples_least(self) -> int:
        return 1 if self.baseline is None else self.baseline.samples_least

    def order(self, dist: Distribution) -> float:
        return math.inf

    def evaluations(self, dist: Distribution) -> tuple[int, int]:
        baseline = self._baseline(self.draws)
        return self.draws + (0 if baseline is None else baseline.probe_count), 0

    def refusal(self, dist: Distribution) -> str | None:
        refusal = super().refusal(dist)
        if refusal is None:
            refusal = checks.moving_refusal(
                self.name, dist, "Use Pathwise, or score_function_loss where the density vanishes at that edge."
            )
        return refusal if refusal is not None or self.baseline is None else self.baseline.refusal(dist)

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        baseline = self._baseline(self.draws)
        points = families.sample(dist, self.draws, generator)
        return Draw(points, None if baseline is None else baseline.probes(dist))

    def combine(
        self,
        dist: Distribution,
        draw: Draw,
        costs: Tensor,
        *,
        probe_costs: Tensor | None = None,
        relaxed_f: F | None = None,
        context: Tensor | None = None,
        keep: Tensor | None = None,
        group: Group | None = None,
    ) -> Tensor:
        costs = checks.costs(self.name, dist, draw.points, costs, keep)
        size = self.draws if group is None else max(self.draws, group.size(costs))
        baseline = self._baseline(size)
        self._whole(baseline, costs.shape[0], size)
        b = None
        if draw.probes is not None and probe_costs is not None:
            probe_costs = checks.costs(self.name, dist, draw.probes, probe_costs)
        if baseline is not None:
            b = baseline.value(dist, draw.points, costs.detach(), probe_costs, context, keep, group)  # [k, *batch]
        known = families.discrete(dist)
        fixed = None if b is None else b.detach()
        if known is not None:
            weights = None if keep is None else kept_weights(keep, costs.dtype, group)
            result = score_surrogate(known, draw.points, costs, fixed, weights)
        else:
            # DiCE: the value is f; each derivative of the box multiplies f - b, and ∂f/∂φ and ∂f/∂θ stay.
            log_prob = families.log_prob(dist, draw.points)
            _possible(log_prob, keep)
            box = (log_prob - log_prob.detach()).exp()
            result = average(costs * box if fixed is None else (costs - fixed) * box + fixed, keep, group)
        if baseline is None or b is None:
            return result
        mean = baseline.mean(dist)
        if mean is not None:
            result = result + (mean - mean.detach())
        if baseline is not _LEAVE_ONE_OUT and self.training and baseline.learned:
            result = train(result, average((b - costs.detach()).square() / 2, keep, group))
        return result

    def _baseline(self, size: int) -> Baseline | None:
        """The baseline, where a batch element has `size` samples."""
        return _LEAVE_ONE_OUT if self.baseline is None and size > 1 else self.baseline

    def _whole(self, baseline: Baseline | None, samples: int, size: int) -> None:
        """Refuse a part of the samples, or too few in the whole group, for a baseline that is made of the others."""
        if baseline is None or baseline.samples_least == 1:
            return
        if samples != self.draws:
            raise ValueError(
                f"{self.label} needs the costs of its whole draw at once, {self.draws} samples that make each other's "
                f"{baseline.label} baseline; got {samples}. Evaluate f in pieces and combine their torch.cat, or "
                f"propose and combine groups of {samples} with ScoreFunction({samples})."
            )
        if size < baseline.samples_least:
            raise ValueError(
                f"{baseline.label} needs at least {baseline.samples_least} samples of each batch element, the other "
                f"particles and ranks counted; got {size}. Use ScoreFunction(samples={baseline.samples_least}), or more "
                "particles or ranks."
            )

    @classmethod
    def variants(cls) -> Sequence[Self]:
        return (
            cls(1),
            cls(),
            cls(4),
            cls(1, baseline=Constant(1.5)),
            cls(1, baseline=MovingAverage(start=1.5)),
            cls(1, baseline=LearnedBaseline()),
            cls(1, baseline=SelfCritical()),
            cls(4, baseline=OptimalCoefficient()),
            cls(1, baseline=KnownMean(_ramp, _ramp_mean)),
        )

    @classmethod
    def worked(cls) -> Worked:
        # p = 1/2, x = (1, 0), f = (3, 1): scores ±1/2, leave-one-out advantages ±2, so the gradient is (1 + 1) / 2.
        return Worked(
            estimator=cls(2),
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda logits: Bernoulli(logits=logits),
            draw=lambda dist: Draw(torch.tensor([1.0, 0.0], dtype=torch.float64)),
            f=lambda x: 1 + 2 * x,
            value=torch.tensor(2.0, dtype=torch.float64),
            gradient=torch.tensor(1.0, dtype=torch.float64),
        )


def _possible(log_prob: Tensor, keep: Tensor | None) -> None:
    """Refuse points whose log-probability is not finite: their score would be NaN."""
    if not families.inspectable(log_prob) or log_prob.is_cuda:
        return
    index = checks.first_nonfinite(log_prob, keep)
    if index is not None:
        raise ValueError(
            f"ScoreFunction needs points of finite log-probability; got {log_prob[tuple(index)].item()} at [sample, *batch] "
            f"= {index}. The point was drawn at the edge of the support, clamped or rounded there, or is of another "
            "distribution; or a parameter is NaN or infinite. Keep the parameters away from there."
        )


_LEAVE_ONE_OUT = LeaveOneOut()  # without parameters, so one serves all


def _ramp(points: Tensor) -> Tensor:
    weights = torch.arange(points.shape[-1], device=points.device) / 10
    return (points * weights).flatten(2).sum(-1)  # [k, batch]


def _ramp_mean(dist: Distribution) -> Tensor:
    variables = families.discrete(dist)
    if variables is None:
        mean = dist.mean
    elif isinstance(variables, families.Integers):
        mean = (variables.probs * torch.arange(variables.probs.shape[-1], device=variables.probs.device)).sum(-1)
    else:
        mean = variables.probs
    return _ramp(mean.unsqueeze(0)).squeeze(0)
