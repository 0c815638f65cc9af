"""The score function to every order, by DiCE's box; the first derivative is made in the forward pass where it can be.

Source: [foerster2018dice], sec. 4.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sampleprop import checks
from sampleprop.costs import Costs
from sampleprop.families import Discrete, Variables
from sampleprop.surrogate import unsqueeze_to
from sampleprop.tracing import Function, differentiable_backward, gradient_asked, inspectable


def dice(variables: Variables, points: Tensor, costs: Costs, weights: Tensor, *, centered: bool = False) -> Tensor:
    """Return the average of the costs, with the derivative of average((costs - b) □ + b) to every order.

    □ = exp(log p - stop(log p)) is DiCE's box: its value is 1, and its derivatives are those that the score function
    needs. For the discrete families the first gradient is written out, and the box appears only in a backward pass that
    is itself differentiated.

    Args:
        variables: p_φ, attached to φ.
        points: [k, *batch, *event].
        costs: attached to θ.
        weights: [k, *batch], costs - b of each sample, times its share in the average; without graph.
        centered: whether the weights sum to 0 over the samples. The probabilities then drop out of the gradient.

    Raises:
        ValueError: for a point of probability zero, unless the distribution is of a discrete family.
    """
    if not isinstance(variables, Discrete):
        log_prob = variables.log_prob(points)
        checks.scored("ScoreFunction", variables, log_prob)
        require_possible(log_prob)
        box = (log_prob - log_prob.detach()).exp()
        attached = costs.shared(costs.points - costs.fixed)  # 0, with the gradient of θ
        return costs.average(costs.fixed) + ((weights + attached) * box - weights).sum(0)
    if not gradient_asked(variables.logits):
        return costs.mean()
    gradient_of = variables.weighted_points if centered else variables.gradient_for_logits
    gradient = gradient_of(points, weights)
    result: Tensor = _Score.apply(variables.logits, costs.points, gradient, weights, points, variables)
    return result


class _Score(Function):
    """The average of the costs, whose gradient with respect to the logits is given, and any further one is DiCE's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor,
        costs: Tensor,
        gradient: Tensor,
        weights: Tensor,
        points: Tensor,
        variables: Discrete,
    ) -> Tensor:
        return costs[0].clone() if costs.shape[0] == 1 else costs.mean(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, variables = inputs
        # The logits are not among these, because torch.func has to see every tensor.
        ctx.kind = type(variables), variables.event_ndim, variables.dtype
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        logits, costs, gradient, weights, points = ctx.saved_tensors
        again = differentiable_backward()
        to_costs: Any = None
        if again or ctx.needs_input_grad[1]:
            k = costs.shape[0]
            to_costs = (grad_output if k == 1 else grad_output / k).expand_as(costs)
        if not again:
            return unsqueeze_to(grad_output, gradient.dim()) * gradient, to_costs, None, None, None, None
        kind, event_ndim, dtype = ctx.kind
        variables: Discrete = kind(logits, event_ndim, dtype)
        box = _Box.apply(logits, points, variables)
        weights = box * (grad_output * weights)
        if gradient_asked(costs):
            to_costs = box * to_costs
            weights = weights + to_costs * (costs - costs.detach())  # 0, with the gradient of θ
        return variables.gradient_for_logits(points, weights, attached=True), to_costs, None, None, None, None


class _Box(Function):
    """DiCE's box: 1 for each sample, [k, *batch], and its gradient is the box again, times the score."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, points: Tensor, variables: Discrete) -> Tensor:
        return logits.new_ones(points.shape[0], *variables.batch_shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, points, variables = inputs
        ctx.kind = type(variables), variables.event_ndim, variables.dtype
        ctx.save_for_backward(logits, points)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        logits, points = ctx.saved_tensors
        kind, event_ndim, dtype = ctx.kind
        variables: Discrete = kind(logits, event_ndim, dtype)
        attached = differentiable_backward()
        if attached:
            grad_output = grad_output * _Box.apply(logits, points, variables)
        return variables.gradient_for_logits(points, grad_output, attached=attached), None, None


def require_possible(log_prob: Tensor, keep: Tensor | None = None) -> None:
    """Refuse points whose log-probability is not finite, because their score would be NaN."""
    if not inspectable(log_prob) or log_prob.is_cuda:
        return
    index = checks.first_nonfinite(log_prob, keep)
    if index is not None:
        raise ValueError(
            f"ScoreFunction needs points of finite log-probability; got {log_prob[tuple(index)].item()} at "
            f"[sample, *batch] = {index}. The point was drawn at the edge of the support, clamped or rounded there, or "
            "is of another distribution; or a parameter is NaN or infinite. Keep the parameters away from there."
        )
