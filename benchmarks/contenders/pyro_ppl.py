"""The steps in Pyro: its relaxed distributions by themselves, everything else as variational inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO, RenyiELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor

from contenders.problems import Build, Problem, Step, chain_cost

TEMPERATURE = torch.tensor(0.5)


def guide_dist(problem: Problem, parameter: Tensor) -> Any:
    if problem.kind == "bits":
        return dist.Bernoulli(logits=parameter).to_event(1)
    if problem.kind == "reals":
        return dist.Normal(parameter, 1.0).to_event(1)
    return dist.OneHotCategorical(logits=parameter)


def inference(make: Callable[[int], ELBO], **infer: Any) -> Build:
    def build(problem: Problem, samples: int) -> Step:
        pyro.clear_param_store()  # which remembers the baselines of the problem before
        loss = make(samples)
        event, start = problem.parameter().shape[1:], torch.tensor(0.0)

        def guide() -> None:
            pyro.param("registered", start)  # without one in the trace, Pyro makes no backward pass
            with pyro.plate("batch", problem.batch):
                pyro.sample("x", guide_dist(problem, problem.parameter()), infer=dict(infer))

        def model() -> None:
            with pyro.plate("batch", problem.batch):
                x = pyro.sample("x", guide_dist(problem, torch.zeros(event)))
                pyro.factor("cost", -problem.cost(x))

        return lambda: loss.loss_and_grads(model, guide)

    return build


def relaxed(bits: type, one_hots: type) -> Build:
    def build(problem: Problem, samples: int) -> Step:
        kind = bits if problem.kind == "bits" else one_hots

        def step() -> None:
            q = kind(TEMPERATURE, logits=problem.parameter()).to_event(1)
            problem.cost(q.rsample((samples,))).mean(0).sum().backward()

        return step

    return build


def chain(problem: Problem, samples: int) -> Step:
    loss = TraceGraph_ELBO()

    def guide() -> None:
        weight, bias = problem.parameter()
        x = torch.zeros(problem.batch)
        with pyro.plate("batch", problem.batch):
            for t in range(problem.length):
                x = pyro.sample(f"x{t}", dist.Bernoulli(logits=weight * x + bias))

    def model() -> None:
        with pyro.plate("batch", problem.batch):
            for t in range(problem.length):
                x = pyro.sample(f"x{t}", dist.Bernoulli(logits=torch.tensor(0.0)))
                pyro.factor(f"cost{t}", -chain_cost(x))

    return lambda: loss.loss_and_grads(model, guide)


def renyi(samples: int) -> RenyiELBO:
    return RenyiELBO(alpha=0, num_particles=samples, vectorize_particles=True, max_plate_nesting=1)


STEPS: dict[str, Build] = {
    "Gumbel-softmax": relaxed(dist.RelaxedBernoulli, dist.RelaxedOneHotCategorical),
    "straight-through Gumbel": relaxed(
        dist.RelaxedBernoulliStraightThrough, dist.RelaxedOneHotCategoricalStraightThrough
    ),
    "ELBO, score function": inference(lambda samples: TraceGraph_ELBO()),
    "ELBO, moving average": inference(
        lambda samples: TraceGraph_ELBO(), baseline={"use_decaying_avg_baseline": True, "baseline_beta": 0.9}
    ),
    "ELBO, enumeration": inference(lambda samples: TraceEnum_ELBO(max_plate_nesting=1), enumerate="parallel"),
    "ELBO, pathwise": inference(lambda samples: TraceMeanField_ELBO()),
    "importance-weighted bound": inference(renyi),
    "ELBO, chain": chain,
}
PACKAGE, SUMS = "pyro-ppl", True
