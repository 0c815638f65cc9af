"""What `Monitor` adds to the training step of a discrete VAE, with a probe at every 50th step.

    python benchmarks/monitor.py [--rounds N] [--json FILE]

A 784-200-784 VAE with Bernoulli latents and Adam, batch 100, one thread. Each round times, in an order that rotates, a
plain step, one with a probe, and one with a probe and its comparison with the reference. The overhead is their mean
over 400 steps, from the medians of the ratios to the plain step within a round; and what a call costs that does not
probe, measured on one bit, where microseconds show.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, Independent, kl_divergence

import sampleprop as sp

EVERY, BIAS_EVERY = 50, 8  # the defaults of Monitor
ESTIMATORS = (sp.ScoreFunction(2), sp.ScoreFunction(4), sp.DisARM(), sp.REBAR(), sp.GumbelSoftmax())


def training(estimator: sp.Estimator) -> Callable[[sp.Monitor | None], None]:
    """One training step, with a monitor or without."""
    encoder, decoder = torch.nn.Linear(784, 200), torch.nn.Linear(200, 784)
    images = (torch.rand(100, 784) > 0.5).float()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), *estimator.parameters()], lr=1e-3)
    prior = Independent(Bernoulli(logits=torch.zeros(100, 200)), 1)

    def cost(z: Tensor) -> Tensor:
        x = decoder(z)
        return F.binary_cross_entropy_with_logits(x, images.expand_as(x), reduction="none").sum(-1)

    def step(monitor: sp.Monitor | None) -> None:
        optimizer.zero_grad()
        q = Independent(Bernoulli(logits=encoder(images)), 1)
        expect = sp.expect if monitor is None else monitor.expect
        (expect(cost, q, estimator) + kl_divergence(q, prior)).mean().backward()
        optimizer.step()
        if monitor is not None:
            monitor.metrics()

    return step


def seconds(step: Callable[[sp.Monitor | None], None], monitor: sp.Monitor | None) -> float:
    start = time.perf_counter()
    step(monitor)
    return time.perf_counter() - start


def measure(estimator: sp.Estimator, rounds: int) -> dict[str, float]:
    """Milliseconds of a plain step, and the ratios to it."""
    step = training(estimator)
    monitors = {
        "plain": None,
        "probe": sp.Monitor(every=1, bias_every=10**9),
        "comparison": sp.Monitor(every=1, bias_every=1),
    }
    order = list(monitors)
    for name in order:
        step(monitors[name])  # the first call of each is a comparison
    times: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        order.append(order.pop(0))
        for name in order:
            times[name].append(seconds(step, monitors[name]))
    ratios = {
        name: statistics.median(own / plain for own, plain in zip(times[name], times["plain"], strict=True))
        for name in order
        if name != "plain"
    }
    probing = ((BIAS_EVERY - 1) * ratios["probe"] + ratios["comparison"]) / BIAS_EVERY
    plain = statistics.median(times["plain"])
    return {"milliseconds": 1000 * plain, **ratios, "overhead": (probing - 1) / EVERY + quiet() / plain}


def quiet(rounds: int = 2000) -> float:
    """Seconds that a call of `monitor.expect` without a probe takes longer than `sp.expect`."""
    monitor, estimator = sp.Monitor(every=10**9), sp.ScoreFunction(2)
    q = Independent(Bernoulli(logits=torch.zeros(1, 1, requires_grad=True)), 1)
    differences = []
    for _ in range(rounds):
        started = time.perf_counter()
        sp.expect(lambda x: x.sum(-1), q, estimator)
        between = time.perf_counter()
        monitor.expect(lambda x: x.sum(-1), q, estimator)
        monitor.metrics()
        differences.append(time.perf_counter() - between - (between - started))
    return statistics.median(differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = {}
    print(f"{'estimator':26}{'step (ms)':>10}{'probe':>8}{'comparison':>12}{'overhead':>10}")
    for estimator in ESTIMATORS:
        name = repr(estimator)
        row = rows[name] = measure(estimator, arguments.rounds)
        print(
            f"{name:26}{row['milliseconds']:10.2f}{row['probe']:8.2f}{row['comparison']:12.2f}{row['overhead']:10.1%}"
        )
    if arguments.json:
        versions = {"torch": torch.__version__, "sampleprop": sp.__version__}
        arguments.json.write_text(json.dumps({"rows": rows, "versions": versions}, indent=1))


if __name__ == "__main__":
    main()
