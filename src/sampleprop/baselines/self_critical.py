"""The cost of the greedy point.

Source: Rennie, Marcheret, Mroueh, Ross and Goel (2017), "Self-critical sequence training for image captioning".
Differences from the paper: none.
"""

from __future__ import annotations

from torch import Tensor

from sampleprop.baselines.baseline import Baseline
from sampleprop.costs import Costs
from sampleprop.families import Variables


class SelfCritical(Baseline):
    """The cost of the most probable point: one more evaluation of f, no learning and no second sample.

    Raises:
        ValueError: when `combine` is not given the cost of that point.

    Example:
        >>> import sampleprop as sp
        >>> sp.ScoreFunction(1, baseline=sp.SelfCritical())
        ScoreFunction(samples=1, baseline=SelfCritical)
    """

    probe_count = 1

    def refusal(self, variables: Variables) -> str | None:
        if variables.knows_mode:
            return None
        return f"SelfCritical needs a distribution that knows its mode; got {variables.kind}. Use LeaveOneOut."

    def probes(self, variables: Variables) -> Tensor:
        return variables.mode().unsqueeze(0)  # [1, *batch, *event]

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        if costs.probe_costs is None:
            raise ValueError(
                "SelfCritical needs the cost of the greedy point; got none. Pass probe_costs=f(draw.probes)."
            )
        return costs.probes.to(costs.points.dtype).expand_as(costs.points)
