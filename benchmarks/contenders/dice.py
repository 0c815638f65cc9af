"""The steps in dice-mc: the samples and their log-probabilities are the user's, the cost nodes the library's."""

from __future__ import annotations

import dice_mc.torch as dice
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical

from contenders.problems import Build, Problem, Step, chain_cost


def drawn(problem: Problem, samples: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities [k, *batch, variables] and points [k, *batch, *event].

    dice-mc samples categories itself. All else, and categories where a validated object is asked for, torch samples.
    """
    parameter = problem.parameter()
    logits = parameter.expand(samples, *parameter.shape)
    if problem.kind == "one-hots" and not problem.validated:
        log_prob, actions = dice.sample_categorical(logits)
        return log_prob, F.one_hot(actions, logits.shape[-1]).to(logits.dtype)
    q = Bernoulli(logits=logits) if problem.kind == "bits" else OneHotCategorical(logits=logits)
    x = q.sample()
    return q.log_prob(x), x


def score_function(problem: Problem, samples: int) -> Step:
    def step() -> None:
        log_prob, x = drawn(problem, samples)
        dice.cost_node(problem.cost(x), [log_prob]).mean().backward()

    return step


def leave_one_out(problem: Problem, samples: int) -> Step:
    """Its baseline is the mean of all other costs, those of other rows of the batch too."""

    def step() -> None:
        log_prob, x = drawn(problem, samples)
        costs = problem.cost(x)
        losses = dice.cost_node(costs, [log_prob]) + dice.batch_baseline_term(costs, [log_prob])
        losses.mean().backward()

    return step


def moving_average(problem: Problem, samples: int) -> Step:
    baseline = dice.EMABaseline(decay=0.9)

    def step() -> None:
        log_prob, x = drawn(problem, samples)
        costs = problem.cost(x)
        (dice.cost_node(costs, [log_prob]) + baseline(costs, [log_prob])).mean().backward()

    return step


def second_derivative(problem: Problem, samples: int) -> Step:
    (leaf,) = problem.trained

    def step() -> None:
        log_prob, x = drawn(problem, samples)
        value = dice.cost_node(problem.cost(x), [log_prob]).mean()
        (first,) = torch.autograd.grad(value, leaf, create_graph=True)
        (leaf.grad,) = torch.autograd.grad(first.sum(), leaf)

    return step


def chain(problem: Problem, samples: int) -> Step:
    def step() -> None:
        weight, bias = problem.parameter()
        x = torch.zeros(problem.batch)
        log_probs: list[Tensor] = []
        losses = torch.zeros(problem.batch)
        for _ in range(problem.length):
            q = Bernoulli(logits=weight * x + bias)
            x = q.sample()
            log_probs.append(q.log_prob(x))
            losses = losses + dice.cost_node(chain_cost(x), log_probs)
        losses.mean().backward()

    return step


STEPS: dict[str, Build] = {
    "score function": score_function,
    "leave-one-out": leave_one_out,
    "moving average": moving_average,
    "second derivative": second_derivative,
    "chain": chain,
}
PACKAGE, SUMS = "dice-mc", False
