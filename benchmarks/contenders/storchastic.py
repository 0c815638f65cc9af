"""The steps in Storchastic, in a torch that it has changed.

Importing it replaces methods of `torch.Tensor` by slower ones and turns the validation of distributions off, for the
whole process. Here it all holds during its own steps only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Normal, OneHotCategorical

CHANGED = (
    (torch, "is_tensor"),
    (torch.Tensor, "to"),
    (torch.Tensor, "le"),
    (torch.Tensor, "gt"),
    (Distribution, "_validate_args"),
)
before = [getattr(owner, name) for owner, name in CHANGED]
import storch  # noqa: E402

after = [getattr(owner, name) for owner, name in CHANGED]


def put(values: list[object]) -> None:
    for (owner, name), value in zip(CHANGED, values, strict=True):
        setattr(owner, name, value)


put(before)
from contenders.problems import Build, Problem, Step, chain_cost  # noqa: E402

Make = Callable[[Problem, int], "storch.method.Method"]


def in_its_torch(step: Step) -> Step:
    @wraps(step)
    def changed() -> None:
        mine = [getattr(owner, name) for owner, name in CHANGED]
        put(after)
        try:
            step()
        finally:
            put(mine)

    return changed


def dist(problem: Problem, parameter: Tensor) -> Distribution:
    if problem.kind == "bits":
        return Bernoulli(logits=parameter)
    if problem.kind == "reals":
        return Normal(parameter, torch.ones(parameter.shape[-1]))
    return OneHotCategorical(logits=parameter)


def expectation(make: Make) -> Build:
    def build(problem: Problem, samples: int) -> Step:
        method = make(problem, samples)
        cost = storch.deterministic(problem.cost)

        def step() -> None:
            rows = problem.parameter()
            parameter = rows.squeeze(0) if problem.batch == 1 else storch.denote_independent(rows, 0, "batch")
            storch.add_cost(cost(method(dist(problem, parameter))), "cost")
            storch.backward()

        return in_its_torch(step)

    return build


def chain(problem: Problem, samples: int) -> Step:
    methods = [storch.method.ScoreFunction(f"x{t}") for t in range(problem.length)]

    def step() -> None:
        weight, bias = problem.parameter()
        x = storch.denote_independent(torch.zeros(problem.batch), 0, "batch")
        for t, method in enumerate(methods):
            x = method(Bernoulli(logits=weight * x + bias))
            storch.add_cost(chain_cost(x), f"cost{t}")
        storch.backward()

    return in_its_torch(step)


def relaxed(straight_through: bool) -> Make:
    return lambda problem, samples: storch.method.GumbelSoftmax(
        "x", n_samples=samples, straight_through=straight_through, initial_temperature=0.5, annealing_rate=0.0
    )


def scored(baseline: str, **options: float) -> Make:
    return lambda problem, samples: storch.method.ScoreFunction(
        "x", n_samples=samples, baseline_factory=baseline, **options
    )


STEPS: dict[str, Build] = {
    "score function": expectation(scored("none")),
    "leave-one-out": expectation(scored("batch_average")),
    "moving average": expectation(scored("moving_average", exponential_decay=0.9)),
    "ARM": expectation(lambda problem, samples: storch.method.ARM("x", n_samples=samples // 2)),
    "DisARM": expectation(lambda problem, samples: storch.method.DisARM("x", n_samples=samples // 2)),
    "REBAR": expectation(lambda problem, samples: storch.method.REBAR("x", n_samples=samples)),
    "RELAX": expectation(
        lambda problem, samples: storch.method.RELAX(
            "x", n_samples=samples, in_dim=tuple(problem.parameter().shape[1:])
        )
    ),
    "summed and sampled": expectation(lambda problem, samples: storch.method.RaoBlackwellSF("x", samples)),
    "unordered set": expectation(lambda problem, samples: storch.method.UnorderedSetEstimator("x", samples)),
    "enumeration": expectation(lambda problem, samples: storch.method.Expect("x")),
    "pathwise": expectation(lambda problem, samples: storch.method.Reparameterization("x", n_samples=samples)),
    "Gumbel-softmax": expectation(relaxed(straight_through=False)),
    "straight-through Gumbel": expectation(relaxed(straight_through=True)),
    "chain": chain,
}
PACKAGE, SUMS = "storchastic", False
