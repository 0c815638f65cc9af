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
        assert isinstance(expectation.variables, families.Enumerable)
        self._variables = expectation.variables
        self._measured = expectation.measured

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
        rare = self._rare_states(draws)
        if rare is None:
            return NOTHING
        # The value uses the points alone; the gradient may use the probes too.
        drawn = torch.stack([self._shown(draw.points) for draw in examples]).all(0)  # [states, *batch]
        shown = drawn | torch.stack([drawn if d.probes is None else self._shown(d.probes) for d in examples]).all(0)
        gradient, along, value = (torch.zeros((), dtype=torch.float64, device=rare.device) for _ in range(3))
        at_once = max(1, MOST_NUMBERS // max(1, len(self.gradient)))
        for points, costs, missed, is_drawn, is_shown in zip(
            *(x.split(at_once) for x in (self._points, self._costs, rare, drawn, shown)), strict=True
        ):
            excess = (costs.double() - self.value).square() * self._variables.log_prob(points).detach().double().exp()
            excess = torch.where(missed & ~is_drawn, excess, 0.0)  # [states, *batch]
            value += excess.sum()
            excess = torch.where(is_shown, 0.0, excess)
            scores = self._scores(points)  # [states, *batch, ...] for each measured parameter
            gradient += (excess * sum(_sum(score.square(), excess.dim()) for score in scores)).sum()
            projected = [_sum(s * d, excess.dim()) for s, d in zip(scores, self._directions(), strict=True)]
            along += (excess * torch.stack(projected).sum(0).square()).sum()
        return Unseen(float(gradient) / draws, float(along) / draws, float(value) / draws)

    def _rare_states(self, draws: int) -> Tensor | None:
        """Which states have an outcome that is too rare to be drawn, [states, *batch]; None where there is none."""
        variables = self._variables
        if not isinstance(variables, families.Discrete):  # one variable, whose outcomes are the states
            probs = variables.support_log_prob().detach().exp()
            rare = (probs > 0) & (probs * draws < FEW)
            return rare if bool(rare.any()) else None
        probs = _outcome_probs(variables)
        rare = (probs > 0) & (probs * draws < FEW)  # [*batch, *outcomes]
        if not bool(rare.any()):
            return None
        batch_ndim = len(variables.batch_shape)
        at_once = max(1, MOST_NUMBERS // max(1, rare.numel()))
        parts = self._points.split(at_once)
        return torch.cat([(_outcomes(variables, part) & rare).flatten(1 + batch_ndim).any(-1) for part in parts])

    def _scores(self, points: Tensor) -> list[Tensor]:
        """The score of the points with respect to each measured parameter."""
        scores = dict(zip(self._variables.parameters, self._variables.scores(points), strict=True))
        return [scores[name].double() for name in self._measured]

    def _directions(self) -> list[Tensor]:
        """The gradient with respect to each measured parameter, of its shape."""
        shapes = [self._variables.parameters[name].shape for name in self._measured]
        parts = self.gradient.split([shape.numel() for shape in shapes])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def _shown(self, points: Tensor) -> Tensor:
        """Which states are among the points: [states, *batch]."""
        if not isinstance(self._variables, families.Discrete):
            event = 1 + len(self._variables.batch_shape)
            found = torch.zeros(self._points.shape[:event], dtype=torch.bool, device=self._points.device)
            for point in points:
                found |= (self._points == point).flatten(event).all(-1)
            return found
        codes, own = self._codes(points), self._codes(self._points)
        found = torch.zeros(int(own.max()) + 1, *own.shape[1:], dtype=torch.bool, device=own.device)
        return found.scatter(0, codes, True).gather(0, own)

    def _codes(self, points: Tensor) -> Tensor:
        """A number for each joint outcome: [n, *batch]."""
        assert isinstance(self._variables, families.Discrete)
        outcomes = _outcomes(self._variables, points)
        base, batch_ndim = outcomes.shape[-1], len(self._variables.batch_shape)
        chosen = outcomes.to(torch.uint8).argmax(-1)
        chosen = chosen.reshape(*chosen.shape[: 1 + batch_ndim], -1)  # [n, *batch, variables]
        return (chosen * base ** torch.arange(chosen.shape[-1], device=chosen.device)).sum(-1)


def _sum(x: Tensor, ndim: int) -> Tensor:
    """Sum over all dimensions after the first ones."""
    return x.flatten(ndim).sum(-1) if x.dim() > ndim else x


def _outcomes(variables: families.Discrete, points: Tensor) -> Tensor:
    """Which outcome each variable has: [n, *batch, *event, outcomes]."""
    ones = variables.one_hot(points) > 0.5
    return torch.stack([ones, ~ones], -1) if isinstance(variables, families.Bernoullis) else ones


def _outcome_probs(variables: families.Discrete) -> Tensor:
    logits = variables.logits.detach()
    if isinstance(variables, families.Bernoullis):
        return torch.stack([logits.sigmoid(), (-logits).sigmoid()], -1)
    return logits.exp()
