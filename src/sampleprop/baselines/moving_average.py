"""The average of past costs.

Source: common practice, for instance [mnih2014neural], sec. 2.3.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from sampleprop import checks, parallel
from sampleprop.baselines.baseline import Baseline
from sampleprop.costs import Costs
from sampleprop.families import Variables
from sampleprop.tracing import after_backward, transforms_active


class MovingAverage(Baseline):
    r"""The average cost of earlier steps.

    .. math:: m \leftarrow d\, m + (1 - d)\, \bar f

    with the mean cost :math:`\bar f` of all samples and batch elements. In training mode, m is updated at the end of
    the first backward pass through the estimate. This is after its use, because an average that contains the current
    cost would shrink the gradient. If gradients are accumulated over parts of a batch, m is updated once for each part.
    It is a buffer, so `state_dict` contains it. It does not change in eval mode, without gradients, under `torch.func`,
    and if the mean cost is not finite. A compiled step updates it in the forward pass, after its use. Activation
    checkpointing needs ``use_reentrant=False``, as torch recommends.

    On several ranks, m follows the costs of its own rank. But `DistributedDataParallel` copies the buffers of rank 0 to
    all ranks before each forward pass, so that all subtract the average of rank 0's costs. If the ranks share their
    samples (`process_group`), m follows the costs of all ranks. The gradient is unbiased in each case.

    Args:
        start: the first guess of the cost, finite.
        decay: d, at least 0 and below 1. The average reaches back over about 1 / (1 - d) steps.

    Raises:
        ValueError: for arguments out of range.

    Example, for m = 1 and the cost 3, at decay 0.9: m becomes 0.9 · 1 + 0.1 · 3 = 1.2:

        >>> import torch, sampleprop as sp
        >>> estimator = sp.ScoreFunction(1, baseline=sp.MovingAverage(start=1.0))
        >>> q = torch.distributions.Bernoulli(logits=torch.zeros((), requires_grad=True))
        >>> sp.expect(lambda x: torch.full_like(x, 3.0), q, estimator).backward()
        >>> estimator.baseline.average
        tensor(1.2000)
    """

    moves: ClassVar[bool] = True
    average: Tensor

    def __init__(self, start: float = 0.0, decay: float = 0.9) -> None:
        super().__init__()
        checks.finite_number("MovingAverage", "start", start)
        if not 0 <= decay < 1:
            raise ValueError(
                f"MovingAverage needs a decay of at least 0 and below 1; got {decay}. Take Constant for a number that "
                "stays."
            )
        self.decay = decay
        self.register_buffer("average", torch.tensor(float(start)))

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        return self.average.to(costs.points.dtype).expand_as(costs.points)

    def learn(self, result: Tensor, variables: Variables, points: Tensor, b: Tensor, costs: Costs) -> Tensor:
        if not result.requires_grad or transforms_active():
            return result
        mean = costs.points.mean()
        process_group = None if costs.group is None else costs.group.process_group
        if process_group is not None:
            mean = parallel.total(mean, process_group) / process_group.size()
        if torch.compiler.is_dynamo_compiling():  # a compiled backward pass changes no buffer
            self._move(mean)
        else:
            after_backward(result, partial(self._move, mean))
        return result

    def _move(self, mean: Tensor) -> None:
        with torch.no_grad():
            finite = mean - mean == 0  # `isfinite` is four operations
            self.average.lerp_(torch.where(finite, mean, self.average).to(self.average), 1 - self.decay)
