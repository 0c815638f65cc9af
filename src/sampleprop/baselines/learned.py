"""A network that predicts the cost from the context.

Source: [mnih2014neural], sec. 2.3. Differences from the paper: the squared error is weighted by the squared length of
the score, which makes it the variance; no division by the running standard deviation, which would scale the gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sampleprop.baselines.baseline import Baseline
from sampleprop.costs import Costs
from sampleprop.families import Variables


class LearnedBaseline(Baseline):
    r"""Predicts the cost from the context, trained to minimize the variance of the gradient.

    .. math:: \mathbb{E}\bigl[\tfrac12 (f(x) - b(\text{context}))^2 \|\nabla_\phi \log p_\phi(x)\|^2\bigr]

    is minimized. Its minimum is the mean cost, weighted by the squared length of the score. The context is detached, so
    only the network is trained, and nothing before it. On several ranks, the gradient of the network must be averaged
    like all others. Therefore make the estimator a part of the module that `DistributedDataParallel` wraps.

    Args:
        network: from context [\*batch, ...] to [\*batch]; None for one trained number (then no context is needed).

    Raises:
        ValueError: when there is a network and no context, and when the network returns another shape.

    Example:
        >>> import torch, sampleprop as sp
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 1), torch.nn.Flatten(0))
        >>> estimator = sp.ScoreFunction(1, baseline=sp.LearnedBaseline(network))
        >>> q = torch.distributions.Bernoulli(torch.full((5,), 0.5))
        >>> sp.expect(torch.square, q, estimator, context=torch.ones(5, 64)).sum().backward()
        >>> network[0].weight.grad.shape
        torch.Size([1, 64])
    """

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network
        self.offset = nn.Parameter(torch.zeros(1))  # one dimension, because FSDP takes no scalar

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        prediction = self.offset.to(costs.points.dtype)
        if self.network is not None:
            if costs.context is None:
                raise ValueError("LearnedBaseline needs the context that its network reads; got none. Pass context=...")
            predicted = self.network(costs.context.detach())
            if predicted.shape != costs.points.shape[1:]:
                raise ValueError(
                    "LearnedBaseline needs one prediction for each batch element, shape "
                    f"{list(costs.points.shape[1:])}; the network returned {list(predicted.shape)}. Flatten or squeeze "
                    "its last dimension."
                )
            prediction = prediction + predicted
        return prediction.to(costs.points.dtype).expand_as(costs.points)
