"""A program that is a chain of variables without a dimension, beside the same chain written by hand.

    python benchmarks/chain.py [--rounds N] [--json FILE]

Forward and backward of a chain of Bernoulli variables (score function, costs to go) and of Normal ones (reparameterization), built from the same
distribution objects. Ratios are medians over interleaved rounds, with the interquartile range; the last column is the time of
1,000 variables over that of 100.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import sampleprop as sp

BATCH = 16


@sp.program
def bits(weight, bias, length):
    x, estimator = torch.zeros(BATCH), sp.ScoreFunction(None)
    for _ in range(length):
        x = yield Bernoulli(logits=weight * x + bias), estimator
        yield (x - 0.3).square()


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


@sp.program
def reals(weight, bias, length):
    x, estimator = torch.zeros(BATCH), sp.Pathwise(None)
    for _ in range(length):
        x = yield Normal(weight * x + bias, 1.0), estimator
        yield (x - 0.3).square()


def reals_by_hand(weight: Tensor, bias: Tensor, length: int) -> Tensor:
    x = torch.zeros(BATCH)
    costs = []
    for _ in range(length):
        x = Normal(weight * x + bias, 1.0).rsample()
        costs.append((x - 0.3).square())
    return torch.stack(costs).sum(0)


def seconds(chain: Callable[[Tensor, Tensor, int], Tensor], length: int) -> float:
    weight, bias = (torch.tensor(x, requires_grad=True) for x in (0.7, -0.1))
    start = time.perf_counter()
    chain(weight, bias, length).mean().backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    print(f"{'chain':12}{'50 variables':>18}{'1,000 variables':>20}{'1,000 over 100':>18}")
    for name, ours, by_hand in (("bits", bits, bits_by_hand), ("reals", reals, reals_by_hand)):
        row: dict[str, object] = {"chain": name}
        for length in (50, 1000):
            seconds(ours, length), seconds(by_hand, length)
            ratios = [seconds(ours, length) / seconds(by_hand, length) for _ in range(arguments.rounds)]
            first, row[f"{length}"], third = statistics.quantiles(ratios, n=4)
            row[f"{length}_spread"] = third - first
        row["growth"] = statistics.median(seconds(ours, 1000) / seconds(ours, 100) for _ in range(arguments.rounds))
        rows.append(row)
        print(
            f"{name:12}{row['50']:11.2f} ± {row['50_spread']:4.2f}{row['1000']:13.2f} ± {row['1000_spread']:4.2f}"
            f"{row['growth']:18.2f}"
        )
    if arguments.json:
        versions = {"torch": torch.__version__, "sampleprop": sp.__version__}
        arguments.json.write_text(json.dumps({"rows": rows, "versions": versions}, indent=1))


if __name__ == "__main__":
    main()
