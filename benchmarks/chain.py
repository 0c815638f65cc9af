"""Programs that are a chain of variables without a dimension, beside the same chains written by hand with the same
distribution objects.

Bernoulli variables (score function, costs to go) and Normal ones (reparameterization), batch 16. The estimator is made
once, before all steps.
"""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import sampleprop as sp

BATCH = 16
LENGTHS = (3, 50, 1000)
COMPILED_LENGTH = 50
SCORE, PATHWISE = sp.ScoreFunction(None), sp.Pathwise(None)


@sp.program
def bits(weight, bias, length):
    x = torch.zeros(BATCH)
    for _ in range(length):
        x = sp.sample(Bernoulli(logits=weight * x + bias), SCORE)
        sp.charge((x - 0.3).square())


def bits_by_hand(weight: Tensor, bias: Tensor, length: int) -> Tensor:
    x = torch.zeros(BATCH)
    log_probs, costs = [], []
    for _ in range(length):
        q = Bernoulli(logits=weight * x + bias)
        x = q.sample()
        log_probs.append(q.log_prob(x))
        costs.append((x - 0.3).square())
    cost = torch.stack(costs)
    to_go = cost.detach().flip(0).cumsum(0).flip(0)
    return (cost + to_go * torch.stack(log_probs)).sum(0)


def bits_flat(weight: Tensor, bias: Tensor, length: int) -> Tensor:
    """The same without distribution objects: for the compiler, the least that there is to do."""
    x = torch.zeros(BATCH)
    log_probs, costs = [], []
    for _ in range(length):
        logits = weight * x + bias
        x = (torch.rand(BATCH) < logits.sigmoid()).float().detach()
        log_probs.append(-torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none"))
        costs.append((x - 0.3).square())
    cost = torch.stack(costs)
    to_go = cost.detach().flip(0).cumsum(0).flip(0)
    return (cost + to_go * torch.stack(log_probs)).sum(0)


@sp.program
def reals(weight, bias, length):
    x = torch.zeros(BATCH)
    for _ in range(length):
        x = sp.sample(Normal(weight * x + bias, 1.0), PATHWISE)
        sp.charge((x - 0.3).square())


def reals_by_hand(weight: Tensor, bias: Tensor, length: int) -> Tensor:
    x = torch.zeros(BATCH)
    costs = []
    for _ in range(length):
        x = Normal(weight * x + bias, 1.0).rsample()
        costs.append((x - 0.3).square())
    return torch.stack(costs).sum(0)


def step(chain: Callable[[Tensor, Tensor, int], Tensor], length: int) -> None:
    weight, bias = (torch.tensor(x, requires_grad=True) for x in (0.7, -0.1))
    chain(weight, bias, length).mean().backward()


CHAINS = {"bits": (bits, bits_by_hand), "reals": (reals, reals_by_hand)}


def measured(
    interleaved: Callable[..., dict[str, list[float]]],
    row: Callable[..., dict[str, Any]],
    rounds: int,
    seconds: float,
    before: ModuleType | None = None,
) -> Iterator[dict[str, Any]]:
    """The program beside the chain by hand, and beside the program in this module of another checkout."""
    for length in LENGTHS:
        for name, (ours, by_hand) in CHAINS.items():
            steps = {
                "ours": lambda ours=ours, length=length: step(ours, length),
                "naive": lambda by_hand=by_hand, length=length: step(by_hand, length),
            }
            if before is not None:
                earlier = getattr(before, name)
                steps["before"] = lambda earlier=earlier, length=length: step(earlier, length)
            yield row(f"{name}, {length} variables", "chain", 1, interleaved(steps, rounds, seconds))


def compiled(
    interleaved: Callable[..., dict[str, list[float]]],
    row: Callable[..., dict[str, Any]],
    rounds: int,
    seconds: float,
    backend: str = "inductor",
) -> Iterator[dict[str, Any]]:
    """The compiled program beside the compiled chain by hand, and beside the program itself."""
    for name, (ours, by_hand) in CHAINS.items():
        torch.compiler.reset()
        functions = {
            "ours": torch.compile(ours, fullgraph=True, backend=backend),
            "naive": torch.compile(by_hand, fullgraph=True, backend=backend),
            "eager": ours,
        }
        if ours is bits:
            functions["tight"] = torch.compile(bits_flat, fullgraph=True, backend=backend)
        steps = {key: lambda f=f: step(f, COMPILED_LENGTH) for key, f in functions.items()}
        for once in steps.values():
            once()
        yield row(f"{name}, {COMPILED_LENGTH} variables", "chain, compiled", 1, interleaved(steps, rounds, seconds))
