"""A control variate whose mean is known.

Source: [paisley2012variational]. Differences from the paper: there is no coefficient in front of b. Put it into both
functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from sampleprop.baselines.baseline import Baseline
from sampleprop.costs import Costs
from sampleprop.families import Variables, with_parameters
from sampleprop.surrogate import surrogate
from sampleprop.tracing import Function, differentiable_backward, transforms_active, vjp


class KnownMean(Baseline):
    r"""A function b(x) close to f, with a mean known as a function of the distribution.

    .. math::

        \nabla_\phi L = \mathbb{E}[(f(x) - b(x)) \nabla_\phi \log p_\phi(x)] + \nabla_\phi \mathbb{E}[b(x)]

    b is treated as a fixed function. Other tensors that b and its expectation use, such as coefficients or θ, get no
    gradient.

    Args:
        b: from points [k, \*batch, \*event] to [k, \*batch]; evaluated without gradient.
        expectation: from the distribution to E[b(x)], [\*batch], differentiable in the distribution's parameters. It
            gets a distribution that is built anew from the logits, or from the parameters of the one that is sampled.

    Raises:
        ValueError: for results of other shapes.
        TypeError: for a distribution that does not keep its parameters under their names (a transformed one, say).

    Example, for p = 1/2 and x = 1, whose score is 1/2, with the cost 3 and b = 2x. E[b] = 2p has the derivative
    2 p (1 - p) = 1/2, so the gradient is (3 - 2) / 2 + 1/2 = 1:

        >>> import torch, sampleprop as sp
        >>> from sampleprop.estimators.score.score_function import Draw
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> estimator = sp.ScoreFunction(1, baseline=sp.KnownMean(lambda x: 2 * x, lambda dist: 2 * dist.mean))
        >>> estimator.combine(q, Draw(torch.ones(1)), torch.tensor([3.0])).backward()
        >>> logit.grad
        tensor(1.)
    """

    def __init__(self, b: Callable[[Tensor], Tensor], expectation: Callable[[Distribution], Tensor]) -> None:
        super().__init__()
        self.b = b
        self.expectation = expectation

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        with torch.no_grad():
            b = self.b(points)
        if b.shape != costs.points.shape:
            raise ValueError(
                f"KnownMean needs b(points) of shape [k, *batch] = {list(costs.points.shape)}; got {list(b.shape)}. "
                "Sum over the event, and keep the sample dimension."
            )
        return b.to(costs.points.dtype)

    def mean(self, variables: Variables) -> Tensor | None:
        if 0 in variables.batch_shape:
            return None  # there is nothing to differentiate, and torch cannot rebuild every empty distribution
        named = variables.parameters

        def expectation(*tensors: Tensor) -> Tensor:
            mean = self.expectation(with_parameters(variables.dist, dict(zip(named, tensors, strict=True))))
            if mean.shape != variables.batch_shape:
                raise ValueError(
                    f"KnownMean needs an expectation of shape [*batch] = {list(variables.batch_shape)}; got "
                    f"{list(mean.shape)}. Sum over the event."
                )
            return mean

        inputs = tuple(named.values())
        if torch.compiler.is_dynamo_compiling() or transforms_active():
            # A compiled gradient is never differentiated again; under torch.func the surrogate refuses it.
            with torch.no_grad():
                mean, pull = vjp(expectation, *inputs)
                gradients = pull(torch.ones_like(mean))
            return surrogate("KnownMean", mean, inputs, gradients)
        result: Tensor = _Closed.apply(expectation, *inputs)
        return result


class _Closed(Function):
    """function(*inputs), differentiable to any order with respect to its inputs. What else it uses gets no gradient."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if not differentiable_backward():
            return None, *vjp(ctx.function, *inputs)[1](grad_output)
        parts = [_part(ctx.function, i) for i in range(len(inputs))]
        return None, *(_Closed.apply(part, grad_output, *inputs) for part in parts)


def _part(function: Callable[..., Tensor], i: int) -> Callable[..., Tensor]:
    """The pullback of `function` to its i-th input, as a function of the cotangent and the inputs."""
    return lambda cotangent, *inputs: vjp(function, *inputs)[1](cotangent)[i]
