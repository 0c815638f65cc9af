"""The cost of the most probable point.

Source: [rennie2017self]; for language models [li2024remax] (ReMax). Differences from the papers: none.
"""

from __future__ import annotations

from torch import Tensor

from sampleprop.baselines.baseline import Baseline
from sampleprop.costs import Costs
from sampleprop.families import Variables


class SelfCritical(Baseline):
    """The cost of the most probable point. It takes one more evaluation of f, but no training and no second sample.

    Raises:
        ValueError: when `combine` is not given the cost of that point.

    Example, for p = 3/4 and x = 0, whose score is -3/4. The most probable point is 1. With f(0) = 1 and f(1) = 3 the
    gradient is (1 - 3) · (-3/4) = 3/2:

        >>> import torch, sampleprop as sp
        >>> from sampleprop.estimators.score.score_function import Draw
        >>> logit = torch.tensor(3.0).log().requires_grad_()
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> draw, f = Draw(torch.zeros(1), probes=torch.ones(1)), lambda x: 1 + 2 * x
        >>> estimator = sp.ScoreFunction(1, baseline=sp.SelfCritical())
        >>> estimator.combine(q, draw, f(draw.points), probe_costs=f(draw.probes)).backward()
        >>> logit.grad
        tensor(1.5000)
    """

    probe_count = 1

    def refusal(self, variables: Variables) -> str | None:
        if variables.knows_mode:
            return None
        return f"SelfCritical needs a distribution that knows its mode; got {variables.kind}. Use LeaveOneOut."

    def probes(self, variables: Variables) -> Tensor:
        return variables.mode().unsqueeze(0).clone()  # [1, *batch, *event]; the mode may be a parameter itself

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        if costs.probe_costs is None:
            raise ValueError(
                "SelfCritical needs the cost of the greedy point; got none. Pass probe_costs=f(draw.probes)."
            )
        return costs.probes.to(costs.points.dtype).expand_as(costs.points)
