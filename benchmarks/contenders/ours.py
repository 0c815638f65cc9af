"""The steps in sampleprop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributions import Bernoulli, kl_divergence

import sampleprop as sp
from contenders.problems import Build, Problem, Step, chain_cost, prior

Make = Callable[[int], sp.Estimator[Any, Any]]


def expectation(make: Make) -> Build:
    def build(problem: Problem, samples: int) -> Step:
        estimator = make(samples)
        return lambda: sp.expect(problem.cost, problem.dist(problem.parameter()), estimator).mean().backward()

    return build


def elbo(make: Make) -> Build:
    def build(problem: Problem, samples: int) -> Step:
        estimator, p = make(samples), prior(problem).expand((problem.batch,))

        def step() -> None:
            q = problem.dist(problem.parameter())
            (sp.expect(problem.cost, q, estimator) + kl_divergence(q, p)).mean().backward()

        return step

    return build


def bound(problem: Problem, samples: int) -> Step:
    estimator = sp.ImportanceWeighted(samples) if problem.kind == "reals" else sp.VIMCO(samples)
    p = prior(problem)

    def step() -> None:
        q = problem.dist(problem.parameter())
        (-sp.expect(lambda z: p.log_prob(z) - problem.cost(z), q, estimator)).mean().backward()

    return step


def second_derivative(problem: Problem, samples: int) -> Step:
    estimator, (leaf,) = sp.ScoreFunction(samples), problem.trained

    def step() -> None:
        value = sp.expect(problem.cost, problem.dist(problem.parameter()), estimator).mean()
        (first,) = torch.autograd.grad(value, leaf, create_graph=True)
        (leaf.grad,) = torch.autograd.grad(first.sum(), leaf)

    return step


def chain(problem: Problem, samples: int) -> Step:
    estimator = sp.ScoreFunction(None)

    @sp.program
    def model(parameter):
        weight, bias = parameter
        x = torch.zeros(problem.batch)
        for _ in range(problem.length):
            x = sp.sample(Bernoulli(logits=weight * x + bias), estimator)
            sp.charge(chain_cost(x))

    return lambda: model(problem.parameter()).mean().backward()


def chain_elbo(problem: Problem, samples: int) -> Step:
    estimator, even = sp.ScoreFunction(None), Bernoulli(logits=torch.tensor(0.0))

    @sp.program
    def model(parameter):
        weight, bias = parameter
        x = torch.zeros(problem.batch)
        for _ in range(problem.length):
            q = Bernoulli(logits=weight * x + bias)
            sp.charge(kl_divergence(q, even))
            x = sp.sample(q, estimator)
            sp.charge(chain_cost(x))

    return lambda: model(problem.parameter()).mean().backward()


def moving_average(samples: int) -> sp.ScoreFunction:
    return sp.ScoreFunction(samples, baseline=sp.MovingAverage())


STEPS: dict[str, Build] = {
    "score function": expectation(sp.ScoreFunction),
    "leave-one-out": expectation(sp.ScoreFunction),
    "moving average": expectation(moving_average),
    "second derivative": second_derivative,
    "ARM": expectation(sp.ARM),
    "DisARM": expectation(sp.DisARM),
    "REBAR": expectation(sp.REBAR),
    "RELAX": expectation(sp.RELAX),
    "summed and sampled": expectation(lambda k: sp.RaoBlackwellized(k, baseline=False)),
    "unordered set": expectation(sp.UnorderedSet),
    "enumeration": expectation(lambda _: sp.Enumerate()),
    "pathwise": expectation(sp.Pathwise),
    "Gumbel-softmax": expectation(sp.GumbelSoftmax),
    "straight-through Gumbel": expectation(sp.StraightThroughGumbel),
    "chain": chain,
    "ELBO, score function": elbo(sp.ScoreFunction),
    "ELBO, moving average": elbo(moving_average),
    "ELBO, enumeration": elbo(lambda _: sp.Enumerate()),
    "ELBO, pathwise": elbo(sp.Pathwise),
    "importance-weighted bound": bound,
    "ELBO, chain": chain_elbo,
}
PACKAGE, SUMS = "sampleprop", False
