"""A variational autoencoder with discrete latents, trained by many estimators at equal evaluations of the decoder.

An encoder gives q(z | x), bits (`--latents bernoulli`) or variables of eight classes (`--latents categorical`), ten
unless `--size` says otherwise, a decoder p(x | z), and the loss is the negative ELBO

    E_q[-log p(x | z)] + KL(q(z | x) || p(z)),    p(z) uniform

The KL divergence is in closed form; the expectation is the estimator's. Each gets the samples that `--evaluations` of
the decoder pay for. Images are binarized at random, anew at each step; held-out images once.

The table at the end has, over the seeds, the ELBO of training and held-out images and the bound of 1000 samples, always
with true samples of q, also for estimators that train with relaxed ones. Beside it the variance of the gradient by q's
logits for one
image: along each training, by `sp.Monitor`, and of all estimators on one model, by `sp.compare`. Run:

    python examples/discrete_vae.py                                             # some minutes
    python examples/discrete_vae.py --latents categorical --seeds 3
    python examples/discrete_vae.py --data fashion-mnist --size 100 --hidden 200 --batch 50 --rate 1e-3 \\
        --evaluations 6 --steps 20000 --estimator ScoreFunction REBAR GumbelSoftmax  # an hour
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, OneHotCategorical, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits

import sampleprop as sp
import training
from sampleprop.diagnostics import Comparison

Estimator = sp.Estimator[Any, Any]
ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "ScoreFunction": sp.ScoreFunction,  # each sample's baseline is the mean of the others
    "PlainScoreFunction": lambda: sp.ScoreFunction(baseline=sp.Constant(0.0)),
    "DisARM": sp.DisARM,
    "ARMS": sp.ARMS,
    "CARMS": sp.CARMS,
    "LocalExpectation": sp.LocalExpectation,
    "DoubleCV": sp.DoubleCV,
    "REBAR": sp.REBAR,
    "RELAX": sp.RELAX,
    "GumbelSoftmax": sp.GumbelSoftmax,
    "StraightThroughGumbel": sp.StraightThroughGumbel,
    "ReinMax": sp.ReinMax,
}
LATENTS: dict[str, tuple[int, ...]] = {"bernoulli": (), "categorical": (8,)}  # classes of one latent, if not a bit
SETTINGS = ("data", "latents", "size", "hidden", "batch", "rate", "fast")  # arguments that a checkpoint depends on
STEPS, FAST_STEPS = 2000, 20
# Images: of the learning curves, of the numbers at the end, and of `sp.compare`.
MEASURED, FINAL, COMPARED = 1000, 2000, 16


class VAE(nn.Module):
    def __init__(self, pixels: int, latents: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        self.latents = latents
        size = torch.Size(latents).numel()
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, size))
        self.decoder = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, pixels))

    def law(self, logits: Tensor) -> Independent:
        """Independent bits, or one-hot variables, as one draw."""
        base = Bernoulli(logits=logits) if len(self.latents) == 1 else OneHotCategorical(logits=logits)
        return Independent(base, 1)

    def posterior(self, x: Tensor) -> Independent:
        return self.law(self.encoder(x).unflatten(-1, self.latents))

    def prior(self, x: Tensor) -> Independent:
        return self.law(torch.zeros(len(x), *self.latents))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z): [n, pixels], [k, n, *latents] -> [k, n]."""
        pixels = self.decoder(z.flatten(2))  # [k, n, pixels]
        return -binary_cross_entropy_with_logits(pixels, x.expand_as(pixels), reduction="none").sum(-1)

    def negative_elbo(self, x: Tensor, estimator: Estimator, expect: Callable[..., Tensor] = sp.expect) -> Tensor:
        q = self.posterior(x)
        return expect(lambda z: -self.log_likelihood(x, z), q, estimator) + kl_divergence(q, self.prior(x))  # [n]

    def log_weights(self, x: Tensor, k: int) -> Tensor:
        """log p(x, z) - log q(z | x) at true samples of q: [n, pixels] -> [k, n]."""
        q = self.posterior(x)
        z = q.sample((k,))
        return self.log_likelihood(x, z) + self.prior(x).log_prob(z) - q.log_prob(z)


def train(name: str, seed: int, images: tuple[Tensor, Tensor], arguments: argparse.Namespace) -> dict[str, Any]:
    """One training by one estimator: its model, its history and its numbers at the end."""
    gray, held_out = images
    torch.manual_seed(seed)
    model = built(gray.shape[1], arguments)
    estimator = configured(name, model, arguments.evaluations)
    assert estimator is not None
    label = estimator.label  # as long as nothing is learned
    optimizer = torch.optim.Adam([*model.parameters(), *estimator.parameters()], lr=arguments.rate)
    every = 10 if arguments.fast else max(100, arguments.steps // 40)
    monitor = sp.Monitor(every=every // 3)
    known = gray[:MEASURED].bernoulli(generator=torch.Generator().manual_seed(1))

    def step() -> None:
        x = gray[torch.randint(len(gray), (arguments.batch,))].bernoulli()
        optimizer.zero_grad()
        model.negative_elbo(x, estimator, monitor.expect).mean().backward()
        optimizer.step()

    def measure() -> dict[str, float]:
        parts = {"training": known, "held out": held_out[:MEASURED]}
        return {part: training.bounds(model.log_weights, x, samples=8)[0] for part, x in parts.items()}

    history = training.train(
        f"{name}, seed {seed}",
        step,
        measure,
        arguments.steps,
        every=every,
        state={"model": model, "estimator": estimator, "optimizer": optimizer, "monitor": monitor},
        path=arguments.out / f"{arguments.data}-{arguments.latents}-{name}-{seed}.pt",
        settings={"label": label} | {key: getattr(arguments, key) for key in SETTINGS},
        resume=arguments.resume,
    )
    final = training.outcome(model.log_weights, held_out, history, monitor, fast=arguments.fast)
    return {"label": label, "model": model, "history": history} | final


def built(pixels: int, arguments: argparse.Namespace) -> VAE:
    """A model of the sizes that the arguments ask for."""
    return VAE(pixels, (arguments.size, *LATENTS[arguments.latents]), arguments.hidden)


def configured(name: str, model: VAE, evaluations: int) -> Estimator | None:
    """The configuration that the evaluations pay for; None where the estimator does not take the latents or the
    price."""
    q, estimator = model.prior(torch.zeros(1)), ESTIMATORS[name]()
    return None if estimator.refusal(q) else estimator.for_budget(q, evaluations)


def compared(model: VAE, x: Tensor, names: list[str], arguments: argparse.Namespace) -> Comparison:
    """Variance and bias of all estimators on one model, by the logits of q of some images."""
    model.requires_grad_(False)
    q = model.law(model.encoder(x).unflatten(-1, model.latents).requires_grad_())
    estimators = [ESTIMATORS[name]() for name in names]
    replicates, train_steps = (128, 20) if arguments.fast else (1024, 200)
    return sp.compare(
        lambda z: -model.log_likelihood(x, z),
        q,
        estimators,
        budget=arguments.evaluations,
        replicates=replicates,
        train_steps=train_steps,
    )


def report(runs: dict[str, list[dict[str, Any]]], comparison: Comparison) -> str:
    """The table: who ends where, and how noisy the gradients were."""
    head = (
        "estimator",
        "ELBO, training",
        "ELBO, held out",
        "bound of 1000",
        "variance in training",
        "by compare",
        "bias",
    )
    rows, pairs = [], []
    for results in runs.values():
        row = next(row for row in comparison.rows if row.label == results[0]["label"])
        variance = statistics.fmean(result["variance"] for result in results)
        pairs.append((variance, row.variance / COMPARED))
        rows.append([
            row.label,
            *(training.mean_and_error([result[key] for result in results]) for key in ("training", "elbo", "bound")),
            *(f"{x:.3g}" for x in pairs[-1]),
            row.cells()[3],
        ])  # fmt: skip
    ranks = torch.tensor(pairs).argsort(0).argsort(0).double()
    same = (
        f"\nRank correlation of the two columns of variance: {torch.corrcoef(ranks.T)[0, 1]:.2f}"
        if len(pairs) > 2
        else ""
    )
    return training.table(head, rows) + same


def main() -> None:
    parser = training.parser("discrete_vae", __doc__, ESTIMATORS)
    parser.add_argument("--latents", choices=LATENTS, default="bernoulli")
    parser.add_argument("--size", type=training.count, default=10, help="how many latents")
    parser.add_argument("--hidden", type=training.count, default=128, help="units of encoder and decoder")
    parser.add_argument("--batch", type=training.count, default=100, help="images at one step")
    parser.add_argument("--rate", type=float, default=2e-3, help="of Adam")
    parser.add_argument(
        "--evaluations", type=training.count, default=12, help="of the decoder, for one image at one step"
    )
    arguments = parser.parse_args()
    arguments.steps = arguments.steps or (FAST_STEPS if arguments.fast else STEPS)
    loaded = training.load(parser, arguments)
    held_out = loaded.held_out.images[:FINAL].bernoulli(generator=torch.Generator().manual_seed(0))
    images = loaded.training.images, held_out[:50] if arguments.fast else held_out
    blank = built(loaded.side**2, arguments)
    names = training.chosen(arguments, ESTIMATORS)
    fitting = [name for name in names if configured(name, blank, arguments.evaluations) is not None]
    if not fitting:
        parser.error(
            f"{arguments.latents} latents and --evaluations {arguments.evaluations} need an estimator that takes both; "
            f"got {', '.join(names)}. Name another one, or give more evaluations."
        )
    runs = training.each(arguments, fitting, lambda name, seed: train(name, seed, images, arguments))
    # One model for all: the first estimator's, so that no one is judged where it has led itself.
    model, x = runs[fitting[0]][0]["model"], images[0][:COMPARED].round()
    comparison = compared(model, x, fitting, arguments)
    print(comparison, report(runs, comparison), sep="\n\n")
    for name in sorted(set(names) - set(fitting)):
        print(f"left out: {name}, for these latents or {arguments.evaluations} evaluations")
    picture = arguments.out / f"{arguments.data}-{arguments.latents}.png"
    panels = {"training": "ELBO of training images, nats", "held out": "ELBO of held-out images, nats"}
    histories = {results[0]["label"]: [result["history"] for result in results] for results in runs.values()}
    biased = [results[0]["label"] for name, results in runs.items() if not ESTIMATORS[name]().unbiased]
    training.curves(picture, histories, panels, dashed=biased)
    print(f"saved {picture}")


if __name__ == "__main__":
    training.run(main)
