"""The exact value and gradient by enumeration, and the variance due to outcomes too rare to be drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sampleprop import families
from sampleprop.diagnostics.measuring.replicates import MOST_CELLS, MOST_NUMBERS, Expectation
from sampleprop.diagnostics.measuring.statistics import NOTHING, Unseen
from sampleprop.estimator import AnyDraw
from sampleprop.estimators.exact.enumerate import Enumerate

ENUMERABLE = 4096
FEW = 20  # an outcome expected less often than this has no reliable spread


class Enumeration:
    """The cost of every joint state.

    Attributes:
        value: [*batch], the exact expectations.
        gradient: [coordinates], the exact gradient of their sum.
    """

    def __init__(self, expectation: Expectation) -> None:
        estimator = Enumerate(limit=ENUMERABLE)
        dist, leaves = expectation.copies(1)
        draw = estimator.propose(dist)
        self._points = draw.points.reshape(-1, *expectation.batch, *expectation.dist.event_shape)
        at_once = max(1, MOST_CELLS // int(torch.Size(expectation.batch).numel()))
        with torch.no_grad():
            costs = torch.cat([expectation.costs(estimator.name, part) for part in self._points.split(at_once)])
        self._costs = costs.to(expectation.device)  # [states, *batch]
        result = estimator.combine(dist, draw, self._costs.reshape(-1, *dist.batch_shape))
        gradients = torch.autograd.grad(result.sum(), leaves)
        self.value = result.detach().double().reshape(expectation.batch)
        self.gradient = torch.cat([g.reshape(-1) for g in gradients]).double()
        assert isinstance(expectation.variables, families.Discrete)
        self._variables = expectation.variables
        self._base = self._outcome_probs().shape[-1]

    @property
    def states(self) -> int:
        """The number of joint states."""
        return len(self._points)

    def unseen(self, examples: Sequence[AnyDraw], draws: int) -> Unseen:
        """The score function's variance at rare outcomes, which the spread of `draws` samples cannot show.

        Args:
            examples: some draws of the estimator. States present in every one of them are evaluated by design and do
                not count as unseen.
            draws: how many true samples all replicates have drawn together.
        """
        probs = self._outcome_probs()
        rare = (probs > 0) & (probs * draws < FEW)  # [*batch, *outcomes]
        if not bool(rare.any()):
            return NOTHING
        # The value uses the points alone; the gradient may use the probes too.
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
        batch_ndim = len(self._variables.batch_shape)
        outcomes = outcomes.reshape(*outcomes.shape[: 1 + batch_ndim], -1)  # [n, *batch, variables]
        return (outcomes * self._base ** torch.arange(outcomes.shape[-1], device=outcomes.device)).sum(-1)

    def _outcomes(self, points: Tensor) -> Tensor:
        """Which outcome each variable has: [n, *batch, *event, outcomes]."""
        ones = self._variables.one_hot(points) > 0.5
        return torch.stack([ones, ~ones], -1) if isinstance(self._variables, families.Bernoullis) else ones

    def _outcome_probs(self) -> Tensor:
        logits = self._variables.logits.detach()
        if isinstance(self._variables, families.Bernoullis):
            return torch.stack([logits.sigmoid(), (-logits).sigmoid()], -1)
        return logits.exp()
