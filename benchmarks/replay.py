"""Where coupled replay wins and where it loses: variance × runs of the program, for programs of several kinds.

    python benchmarks/replay.py [--rows 2000]

Each row of a batch is an estimate of its own, with parameters of its own. The variance is the trace of the covariance
of the gradient. A run is one pass of the function: score functions with K particles take K of them, CoupledReplay(n)
takes n + 1. Times are those of a batch of one, of the thread, as a program that calls a simulator has them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

import sampleprop as sp

PARTICLES, TIMED = 8, 9
WAYS = {
    f"{PARTICLES} particles": (lambda p: p.using(particles=PARTICLES), PARTICLES),
    "CoupledReplay(1)": (lambda p: p.using(sp.CoupledReplay(1)), 2),
    "CoupledReplay(2)": (lambda p: p.using(sp.CoupledReplay(2)), 3),
}


def coin(logits: Tensor) -> Bernoulli:
    return Bernoulli(logits=logits, validate_args=False)


def sure(p: Tensor) -> Bernoulli:
    return Bernoulli(p.clamp(1e-12, 1 - 1e-12), validate_args=False)


def walk(steps: int) -> sp.program[[Tensor]]:
    """Up by 1 with probability exp(-x / p), else down: the walk of Arya et al. (2022); x starts at 0."""

    @sp.program
    def model(p: Tensor) -> Tensor:  # [rows, 1]
        x = torch.zeros_like(p[:, 0]).detach()
        for _ in range(steps):
            x = x + 2 * sp.sample(sure((-x / p[:, 0]).exp())) - 1
        return x.square()

    return model


def decision(steps: int) -> sp.program[[Tensor]]:
    """One decision, of which all parameters are the logits' parts; then noise that none of them is in."""

    @sp.program
    def model(phi: Tensor) -> Tensor:  # [rows, n]
        a = sp.sample(coin(phi.sum(-1)))
        x = 2 * a
        for _ in range(steps):
            x = x + 2 * sp.sample(coin(-0.05 * x.detach())) - 1
        return x.square() / 10

    return model


def queue(steps: int) -> sp.program[[Tensor]]:
    """Before each tenth step it is decided whether a second server works; arrivals and services are noise."""

    @sp.program
    def model(phi: Tensor) -> Tensor:
        waiting, second = torch.full_like(phi[:, 0], 3.0).detach(), torch.zeros_like(phi[:, 0]).detach()
        for t in range(steps):
            if t % 10 == 0:
                second = sp.sample(coin(phi.sum(-1) + 0.2 * waiting - 1))
            noise = torch.full_like(waiting, 0.4).logit()
            arrived, served = sp.sample(coin(noise)), sp.sample(coin(noise))
            waiting = (waiting + arrived - served - 0.3 * second).clamp_min(0)
            sp.charge((waiting + 0.5 * second) / steps)

    return model


def reverting(steps: int, each: bool) -> sp.program[[Tensor]]:
    """A walk that is drawn back to its middle; a cost at each step, or at the end."""

    @sp.program
    def model(phi: Tensor) -> Tensor:
        features = (
            torch.linspace(-1, 1, steps * phi.shape[-1], dtype=phi.dtype).reshape(steps, -1).sin() + 1
        )  # of each step
        x = torch.zeros_like(phi[:, 0]).detach()
        for t in range(steps):
            x = x + 2 * sp.sample(coin((phi * features[t]).sum(-1) - 0.1 * x)) - 1
            if each or t == steps - 1:
                sp.charge((x - 3).square())

    return model


def agents(count: int, days: int) -> sp.program[[Tensor]]:
    """Healthy, ill or well again: every agent's state of every day is a variable that carries the parameters."""

    @sp.program
    def model(phi: Tensor) -> Tensor:  # [rows, 2]
        ill = phi.new_zeros(len(phi), count)
        ill[:, :2] = 1
        touched = ill
        for _ in range(days):
            chance = phi[:, :1] + 4 * ill.mean(-1, keepdim=True) - 2
            p = torch.where(ill > 0, phi[:, 1:], torch.where(touched > 0, torch.full_like(ill, -30.0), chance))
            changed = sp.sample(torch.distributions.Independent(coin(p), 1))
            ill = (ill - changed).abs()
            touched = torch.maximum(touched, ill)
        return touched.mean(-1)

    return model


def router(steps: int) -> sp.program[[Tensor]]:
    """One of four routes is chosen; the way then has random delays, the more the longer the route."""

    @sp.program
    def model(phi: Tensor) -> Tensor:  # [rows, 4]
        route = sp.sample(Categorical(logits=phi, validate_args=False)).to(phi.dtype)
        late = torch.zeros_like(route)
        for _ in range(steps):
            late = late + sp.sample(coin(0.3 * route - 1 - 0.02 * late))
        return late.square() / steps

    return model


PROGRAMS: dict[str, tuple[sp.program[[Tensor]], int, float]] = {  # with the number of parameters, and their value
    "walk of 50 steps whose step depends on one number": (walk(50), 1, 100.0),
    "the same of 100 steps": (walk(100), 1, 200.0),
    "one decision, then 50 noisy steps": (decision(50), 1, 0.3),
    "the same, with 1000 parameters": (decision(50), 1000, 0.0003),
    "one of four routes, then 50 random delays": (router(50), 4, 0.0),
    "a queue, a decision in each 10th of 50 steps": (queue(50), 1, 0.2),
    "mean-reverting walk of 50, cost at the end": (reverting(50, False), 1, 0.1),
    "the same, with 100 parameters": (reverting(50, False), 100, 0.001),
    "the same, a cost at each step": (reverting(50, True), 1, 0.1),
    "mean-reverting walk of 200, cost at the end": (reverting(200, False), 1, 0.1),
    "epidemic of 30 agents, 15 days": (agents(30, 15), 2, -0.5),
}


def variance(program: Callable[[Tensor], Tensor], value: float, count: int, rows: int) -> float:
    phi = torch.full((rows, count), value, dtype=torch.float64, requires_grad=True)
    (gradients,) = torch.autograd.grad(program(phi).sum(), phi)
    return float(gradients.var(0).sum())


def seconds(program: Callable[[Tensor], Tensor], value: float, count: int) -> float:
    times = []
    for _ in range(TIMED):
        phi = torch.full((1, count), value, dtype=torch.float64, requires_grad=True)
        start = time.thread_time()
        program(phi).sum().backward()
        times.append(time.thread_time() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| variance × runs; in brackets variance × time, of the first column's | " + " | ".join(WAYS) + " |")
    print("|---|" + "--:|" * len(WAYS))
    for name, (program, count, value) in PROGRAMS.items():
        found = []
        for way, runs in WAYS.values():
            model = way(program)
            spread = variance(model, value, count, arguments.rows)
            found.append((runs * spread, spread * seconds(model, value, count)))
        cells = [f"{byruns:.3g} ({bytime / found[0][1]:.2g})" for byruns, bytime in found]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
