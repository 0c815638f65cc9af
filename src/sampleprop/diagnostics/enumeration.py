"""The exact value and gradient by enumeration, and what outcomes too rare to be drawn contribute to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sampleprop.diagnostics.replicates import MOST_CELLS, MOST_NUMBERS, Problem
from sampleprop.diagnostics.statistics import NOTHING, Unseen
from sampleprop.estimator import AnyDraw
from sampleprop.estimators.exact.enumerate import Enumerate
from sampleprop.families import Bernoullis, Discrete

ENUMERABLE = 4096
FEW = 20  # an outcome expected less often than this has no reliable spread


class Enumeration:
    """Every joint state with its cost.

    Attributes:
        value: [*batch], the exact expectations.
        gradient: [coordinates], the exact gradient of their sum.
    """

    def __init__(self, problem: Problem) -> None:
        estimator = Enumerate(limit=ENUMERABLE)
        dist, leaves = problem.copies(1)
        draw = estimator.propose(dist)
        self._points = draw.points.reshape(-1, *problem.batch, *problem.dist.event_shape)
        at_once = max(1, MOST_CELLS // int(torch.Size(problem.batch).numel()))
        with torch.no_grad():
            costs = torch.cat([problem.costs(estimator.name, part) for part in self._points.split(at_once)])
        self._costs = costs.to(problem.device)  # [states, *batch]
        result = estimator.combine(dist, draw, self._costs.reshape(-1, *dist.batch_shape))
        gradients = torch.autograd.grad(result.sum(), leaves)
        self.value = result.detach().double().reshape(problem.batch)
        self.gradient = torch.cat([g.reshape(-1) for g in gradients]).double()
        assert isinstance(problem.variables, Discrete)
        self._variables = problem.variables
        self._base = self._outcome_probs().shape[-1]

    @property
    def states(self) -> int:
        return len(self._points)

    def unseen(self, examples: Sequence[AnyDraw], draws: int) -> Unseen:
        """What the spread of so many draws cannot show: the score function's variance at the outcomes expected too rarely.

        Args:
            examples: some of the estimator's. States that all of them show to f are shown by design, and are not missed.
            draws: how many true samples all replicates have drawn.
        """
        probs = self._outcome_probs()
        rare = (probs > 0) & (probs * draws < FEW)  # [*batch, *outcomes]
        if not bool(rare.any()):
            return NOTHING
        # The value is of the points alone; the gradient may know the probes.
        drawn = torch.stack([self._shown(draw.points) for draw in examples]).all(0)  # [states, *batch]
        shown = drawn | torch.stack([drawn if d.probes is None else self._shown(d.probes) for d in examples]).all(0)
        gradient, along, value = (torch.zeros((), dtype=torch.float64, device=rare.device) for _ in range(3))
        direction = self.gradient.reshape(self._variables.logits.shape)
        at_once = max(1, MOST_NUMBERS // max(1, direction.numel()))
        for points, costs, is_drawn, is_shown in zip(
            *(x.split(at_once) for x in (self._points, self._costs, drawn, shown)), strict=True
        ):
            missed = (self._outcomes(points) & rare).flatten(1 + len(self._variables.batch_shape)).any(-1)
            excess = (costs.double() - self.value).square() * self._variables.log_prob(points).detach().double().exp()
            excess = torch.where(missed & ~is_drawn, excess, 0.0)  # [states, *batch]
            value += excess.sum()
            excess = torch.where(is_shown, 0.0, excess)
            score = self._variables.score(points).double()  # [states, *batch, *event]
            gradient += (excess * self._variables.sum(score.square())).sum()
            along += (excess * self._variables.sum(score * direction).square()).sum()
        return Unseen(float(gradient) / draws, float(along) / draws, float(value) / draws)

    def _shown(self, points: Tensor) -> Tensor:
        """Which states are among the points: [states, *batch]."""
        codes, own = self._codes(points), self._codes(self._points)
        found = torch.zeros(int(own.max()) + 1, *own.shape[1:], dtype=torch.bool, device=own.device)
        return found.scatter(0, codes, True).gather(0, own)

    def _codes(self, points: Tensor) -> Tensor:
        """A number for each joint outcome: [n, *batch]."""
        outcomes = self._outcomes(points).to(torch.uint8).argmax(-1)
        outcomes = outcomes.reshape(
            *outcomes.shape[: 1 + len(self._variables.batch_shape)], -1
        )  # [n, *batch, variables]
        return (outcomes * self._base ** torch.arange(outcomes.shape[-1], device=outcomes.device)).sum(-1)

    def _outcomes(self, points: Tensor) -> Tensor:
        """Which outcome each variable has: [n, *batch, *event, outcomes]."""
        ones = self._variables.one_hot(points) > 0.5
        return torch.stack([ones, ~ones], -1) if isinstance(self._variables, Bernoullis) else ones

    def _outcome_probs(self) -> Tensor:
        logits = self._variables.logits.detach()
        if isinstance(self._variables, Bernoullis):
            return torch.stack([logits.sigmoid(), (-logits).sigmoid()], -1)
        return logits.exp()
