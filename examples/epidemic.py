"""A simulator with a `while` loop, fitted to what was observed: the gradient through discrete events.

An epidemic in a small town: each day, healthy people are infected with a probability that grows with the number of the
infectious, and infectious people recover. It ends when nobody is infectious: the number of days is random. The
simulator is plain Python, with `sp.sample` where it would say `dist.sample()`. The two rates are fitted so that a run
comes as close as possible to what was observed, in the share of infected people and in the number of days.

It prints whether the gradient is right (`sp.check`, along every path of a tiny town), how noisy two ways to it are at
equal runs of the simulator, and the fit by each. Run:

    python examples/epidemic.py                        # a minute
    python examples/epidemic.py --people 50 --steps 400
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor
from torch.distributions import Binomial

import sampleprop as sp

TRUE = {"contact": 0.4, "recovery": -0.6}  # logits
START = {"contact": -1.0, "recovery": 0.5}
RUNS = 8  # of the simulator, for one gradient


def simulated(contact: Tensor, recovery: Tensor, people: int, first: int = 2) -> tuple[float, int]:
    """The share of people that were ever infected, and the number of days."""
    healthy, ill, days = people - first, first, 0
    while ill > 0:
        days += 1
        chance = contact + 4 * ill / people - 2  # the logit of a healthy person's infection on this day
        new = int(sp.sample(Binomial(healthy, logits=chance), name="new")) if healthy else 0
        well = int(sp.sample(Binomial(ill, logits=recovery), name="well"))
        healthy, ill = healthy - new, ill + new - well
    return 1 - healthy / people, days


def town(people: int, first: int = 2) -> sp.program[...]:
    """The program whose cost is the share of infected people, and a tenth for each day."""

    @sp.program
    def epidemic(contact: Tensor, recovery: Tensor) -> Tensor:
        share, days = simulated(contact, recovery, people, first)
        return torch.tensor(share + 0.1 * days)

    return epidemic


def observed(people: int, runs: int) -> tuple[float, float]:
    """The mean share and the mean number of days, at the true rates."""
    contact, recovery = (torch.tensor(value) for value in TRUE.values())
    found = [simulated(contact, recovery, people) for _ in range(runs)]  # outside of a program: true samples
    return statistics.fmean(share for share, _ in found), statistics.fmean(days for _, days in found)


def fitted(people: int, goal: tuple[float, float], steps: int, replay: bool) -> tuple[list[float], float, float]:
    """The rates after this many steps, the mean distance over the last tenth, and the seconds that they took."""

    @sp.program
    def distance(contact: Tensor, recovery: Tensor) -> Tensor:
        share, days = simulated(contact, recovery, people)
        return torch.tensor((share - goal[0]) ** 2 + (days - goal[1]) ** 2 / 100)

    rates = [torch.tensor(value, requires_grad=True) for value in START.values()]
    optimizer = torch.optim.Adam(rates, lr=0.05)
    model = distance.using(sp.CoupledReplay(RUNS - 1)) if replay else distance.using(apart=RUNS)
    start, costs = time.perf_counter(), []
    for _ in range(steps):
        optimizer.zero_grad()
        cost = model(*rates)
        cost.backward()
        optimizer.step()
        costs.append(float(cost.detach()))
    last = statistics.fmean(costs[-max(1, steps // 10) :])
    return [float(rate.detach()) for rate in rates], last, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fast", action="store_true", help="seconds in place of a minute: no result worth having")
    arguments = parser.parse_args()
    steps, replicates = (5, 128) if arguments.fast else (arguments.steps, 512)
    torch.manual_seed(arguments.seed)
    rates = [torch.tensor(value, requires_grad=True) for value in TRUE.values()]

    print(sp.check(three_days(), rates, replicates=replicates), end="\n\n")
    epidemic = town(arguments.people)
    ways = {"scores, apart=8": epidemic.using(apart=RUNS), "replay of 7": epidemic.using(sp.CoupledReplay(RUNS - 1))}
    for name, way in ways.items():
        gradients = torch.stack([torch.stack(torch.autograd.grad(way(*rates), rates)) for _ in range(replicates // 4)])
        print(f"{name}: gradient {gradients.mean(0).tolist()}, variance {float(gradients.var(0).sum()):.3g}")

    goal = observed(arguments.people, 50 if arguments.fast else 1000)
    print(f"\nobserved: share {goal[0]:.3f}, days {goal[1]:.2f}; true rates {list(TRUE.values())}")
    for name, replay in (("scores, apart", False), ("coupled replay", True)):
        found, last, seconds = fitted(arguments.people, goal, steps, replay)
        print(f"fitted by {name}: {[round(rate, 2) for rate in found]}, distance {last:.3f}, in {seconds:.1f} s")


def three_days() -> sp.program[...]:
    """The same rules in a town of three, for three days, so that every path can be counted."""

    @sp.program
    def epidemic(contact: Tensor, recovery: Tensor) -> Tensor:
        healthy, ill, days = 2, 1, 0
        while ill > 0 and days < 3:
            days += 1
            new = int(sp.sample(Binomial(healthy, logits=contact + 4 * ill / 3 - 2))) if healthy else 0
            well = int(sp.sample(Binomial(ill, logits=recovery)))
            healthy, ill = healthy - new, ill + new - well
        return torch.tensor((2 - healthy) / 2)

    return epidemic


if __name__ == "__main__":
    main()
