"""The cost of the greedy point.

Source: Rennie, Marcheret, Mroueh, Ross and Goel (2017), "Self-critical sequence training for image captioning".
Differences from the paper: none.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from sampleprop import families
from sampleprop.baselines.baseline import Baseline
from sampleprop.estimator import Group


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

    def refusal(self, dist: Distribution) -> str | None:
        base, _ = families.unwrap(dist)
        if type(base).mode is not Distribution.mode:
            return None
        return f"SelfCritical needs a distribution that knows its mode; got {type(base).__name__}. Use LeaveOneOut."

    def probes(self, dist: Distribution) -> Tensor:
        return families.mode(dist).unsqueeze(0)  # [1, *batch, *event]

    def value(
        self,
        dist: Distribution,
        points: Tensor,
        costs: Tensor,
        probe_costs: Tensor | None,
        context: Tensor | None,
        keep: Tensor | None,
        group: Group | None,
    ) -> Tensor:
        if probe_costs is None:
            raise ValueError(
                "SelfCritical needs the cost of the greedy point; got none. Pass probe_costs=f(draw.probes)."
            )
        return probe_costs.detach().to(costs.dtype).expand_as(costs)
