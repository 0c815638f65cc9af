"""The score function (REINFORCE), with any baseline and to any order.

Source: [williams1992simple], sec. 4; any order by the box of [foerster2018dice], sec. 4. Differences from the papers:
the baseline is an argument, and leave-one-out where none is given.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.baselines.baseline import Baseline
from sampleprop.baselines.leave_one_out import LeaveOneOut
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.score.dice import dice
from sampleprop.estimators.score.finite_part import finite_part
from sampleprop.families import Variables


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: Tensor | None = None  # [m, *batch, *event], where the baseline asks for them


class ScoreFunction(Estimator[Variables, Draw]):
    r"""Multiplies the score of each sample by how much its cost exceeds a baseline.

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i (f(x_i) - b_i)\,\nabla_\phi \log p_\phi(x_i)
            + \nabla_\phi \mathbb{E}[b], \qquad x_i \sim p_\phi

    Unbiased, to any order. f may be a black box; the distribution needs a log-probability that is differentiable in
    φ and a support that does not move with φ. k evaluations of f, and those of the baseline.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        baseline: b; None for :class:`LeaveOneOut` with two samples or more (those of a program's other particles and of
            other ranks counted), and for none with one.

    Raises:
        ValueError: for fewer samples than 1. By `combine` for fewer than the baseline needs, for a part of a draw whose
            samples make each other's baselines, and for a point of probability zero.
        TypeError: for a distribution whose support moves with its parameters (Uniform, say), and for a baseline that is
            not one.

    Example, for p = 1/2, x = (1, 0) and costs (3, 1). The scores are ±1/2, each cost exceeds the other by ±2, and the
    mean of the products is (1 + 1) / 2:

        >>> import torch, sampleprop as sp
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> loss = sp.ScoreFunction(2).combine(q, Draw(torch.tensor([1.0, 0.0])), torch.tensor([3.0, 1.0]))
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(2.), tensor(1.))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "score function"
    grouped = True
    aliases = ("REINFORCE", "RLOO", "VarGrad", "likelihood ratio")
    source = cited("williams1992simple", "sec. 4")

    def __init__(self, samples: int | None = 2, *, baseline: Baseline | None = None) -> None:
        super().__init__()
        if baseline is not None and not isinstance(baseline, Baseline):
            number = isinstance(baseline, int | float)
            fix = f"sp.Constant({baseline})" if number else "an object, such as sp.LeaveOneOut()"
            raise TypeError(f"ScoreFunction needs a Baseline object or None; got baseline={baseline!r}. Pass {fix}.")
        checks.samples("ScoreFunction", samples, optional=True)
        self.samples = samples
        self.baseline = baseline
        self.can_drop = baseline is None or isinstance(baseline, LeaveOneOut)
        self.moves = baseline is not None and baseline.moves

    @property
    def samples_least(self) -> int:
        return 1 if self.baseline is None else self.baseline.samples_least

    def highest_order(self, variables: Variables) -> float:
        return math.inf

    def calls(self, variables: Variables) -> tuple[int, int]:
        return self.draws + (0 if self.baseline is None else self.baseline.probe_count), 0

    def refuses(self, variables: Variables) -> str | None:
        if variables.moving_support:
            fix = "Use Pathwise, or score_function_loss where the density vanishes at that edge."
            return checks.moving_refusal(self.name, variables, fix)
        return None if self.baseline is None else self.baseline.refusal(variables)

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        points = variables.sample(self.samples or 1, generator)
        return Draw(points, None if self.baseline is None else self.baseline.probes(variables))

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        k = self.samples or 1
        if costs.group is not None:
            k = max(k, costs.group.size(costs.points))
        self._require_whole(costs.points.shape[0], k)
        if costs.keep is not None:
            return finite_part(self.name, variables, draw.points, costs)
        if self.can_drop:  # leave-one-out, or none for one sample
            weights = costs.shared(costs.fixed) if k == 1 else costs.beyond_others()
            return dice(variables, draw.points, costs, weights, centered=k > 1 and costs.group is None)
        assert self.baseline is not None
        fixed = costs.detach()
        b = self.baseline.value(variables, draw.points, fixed)  # [k, *batch]
        result = dice(variables, draw.points, costs, costs.shared(costs.fixed - b.detach()))
        mean = self.baseline.mean(variables)
        if mean is not None:
            result = result + (mean - mean.detach())
        return self.baseline.learn(result, variables, draw.points, b, fixed) if self.training else result

    def _require_whole(self, samples: int, size: int) -> None:
        """Refuse a part of the samples, or too few in the whole group, for a baseline that is made of the others."""
        least = (1 if size == 1 else 2) if self.baseline is None else self.baseline.samples_least
        if least == 1:
            return
        label = "LeaveOneOut" if self.baseline is None else self.baseline.label
        if samples != (self.samples or 1):
            raise ValueError(
                f"{self.label} needs the costs of its whole draw at once, {self.draws} samples that make each other's "
                f"{label} baseline; got {samples}. Evaluate f in pieces and combine their torch.cat, or "
                f"propose and combine groups of {samples} with ScoreFunction({samples})."
            )
        if size < least:
            raise ValueError(
                f"{label} needs at least {least} samples of each batch element, counting those of other particles and "
                f"ranks; got {size}. Use ScoreFunction(samples={least}), or more particles or ranks."
            )
