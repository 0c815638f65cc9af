"""A generative adversarial network: of gray pixels, and with `--discrete` of black and white ones.

The generator turns noise into the parameters of independent pixels: means of normal laws with a scale of 0.1 (real
images get the same noise), or with `--discrete` logits of bits. It wants the critic D to take what is drawn for real:

    E_x[softplus(-D(x))],    x ~ pixels of the generator's law

Gradients reach it through x. Gray pixels are differentiable (`Pathwise`). Bits are not: there are the biased
estimators, which need ∂D/∂x, and the unbiased, which do not. Each gets the samples that `--evaluations` of D pay for.
The critic always sees true samples.

How good are the samples? There is no likelihood. The table has the share of images, real held-out ones and as many
generated, whose
nearest neighbour is of their own kind: 50 % if nothing tells them apart. More among the real ones says that they are
not covered, more among the generated that these are like each other. The first rows are yardsticks: training images,
and pixels drawn each by itself. Run:

    python examples/gan.py                                             # some minutes
    python examples/gan.py --discrete --seeds 3
    python examples/gan.py --discrete --data fashion-mnist --estimator StraightThroughGumbel
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal
from torch.nn.functional import softplus

import data
import sampleprop as sp
import training

Estimator = sp.Estimator[Any, Any]
CONTINUOUS: dict[str, Callable[[int], Estimator]] = {"Pathwise": sp.Pathwise, "ScoreFunction": sp.ScoreFunction}
DISCRETE: dict[str, Callable[[int], Estimator]] = {
    "StraightThroughGumbel": sp.StraightThroughGumbel,
    "GumbelSoftmax": sp.GumbelSoftmax,
    "ReinMax": sp.ReinMax,
    "ScoreFunction": sp.ScoreFunction,
    "DisARM": sp.DisARM,
}
NOISE, HIDDEN, BATCH, RATE, BETAS = 16, 128, 100, 1e-3, (0.5, 0.9)
SCALE = 0.1  # of the noise on gray pixels
PENALTY = 5.0  # on the critic's slope at real images
STEPS, FAST_STEPS = 2000, 30
JUDGED, SHOWN = 297, 12  # images


class GAN(nn.Module):
    def __init__(self, pixels: int, discrete: bool) -> None:
        super().__init__()
        self.discrete = discrete
        self.generator = nn.Sequential(
            nn.Linear(NOISE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, pixels)
        )
        self.critic = nn.Sequential(
            nn.Linear(pixels, HIDDEN),
            nn.LeakyReLU(0.2),
            nn.Linear(HIDDEN, HIDDEN),
            nn.LeakyReLU(0.2),
            nn.Linear(HIDDEN, 1),
        )

    def law(self, n: int) -> Independent:
        """Of n images, each from noise of its own."""
        pixels = self.generator(torch.randn(n, NOISE))
        return Independent(Bernoulli(logits=pixels) if self.discrete else Normal(pixels.sigmoid(), SCALE), 1)

    def real(self, gray: Tensor) -> Tensor:
        """Images as the critic gets them: binarized at random, or with noise."""
        return gray.bernoulli() if self.discrete else gray + SCALE * torch.randn_like(gray)

    def cost(self, x: Tensor) -> Tensor:
        """What a drawn image costs the generator: [k, n, pixels] -> [k, n]."""
        return softplus(-self.critic(x)).squeeze(-1)

    def critic_loss(self, real: Tensor) -> Tensor:
        """With the penalty R1 of Mescheder, Geiger and Nowozin (2018), without which the generator makes a few
        images only."""
        drawn, real = self.law(len(real)).sample(), real.requires_grad_()
        (slopes,) = torch.autograd.grad(self.critic(real).sum(), real, create_graph=True)
        penalty = PENALTY / 2 * slopes.square().sum(-1)
        return (self.cost(real) + softplus(self.critic(drawn)).squeeze(-1) + penalty).mean()


def neighbours(real: Tensor, drawn: Tensor) -> tuple[float, float]:
    """The percentage of real images, and of drawn ones, whose nearest neighbour among all others is of their own
    kind."""
    distances = torch.cdist(torch.cat([real, drawn]).double(), torch.cat([real, drawn]).double())
    distances += 1e-6 * torch.rand_like(distances)  # among equally near ones any is the nearest, as bits often have it
    nearest = distances.fill_diagonal_(torch.inf).argmin(1)
    is_real = torch.arange(len(distances)) < len(real)
    same = 100 * (is_real[nearest] == is_real).double()
    return float(same[is_real].mean()), float(same[~is_real].mean())


def train(name: str, seed: int, loaded: data.Data, arguments: argparse.Namespace) -> dict[str, Any]:
    """One training by one estimator: its model, its history and its numbers at the end."""
    gray, held_out = loaded.training.images, loaded.held_out.images[:JUDGED]
    torch.manual_seed(seed)
    model = GAN(gray.shape[1], arguments.discrete)
    estimator = registered(arguments)[name](arguments.evaluations)
    generating = torch.optim.Adam(model.generator.parameters(), lr=RATE, betas=BETAS)
    judging = torch.optim.Adam(model.critic.parameters(), lr=RATE, betas=BETAS)
    every, probed = (15, 5) if arguments.fast else (200, 33)
    monitor = sp.Monitor(every=probed)

    def step() -> None:
        x = model.real(gray[torch.randint(len(gray), (BATCH,))])
        judging.zero_grad()
        model.critic_loss(x).backward()
        judging.step()
        generating.zero_grad()
        # The critic hears of this as well; its next step forgets it.
        monitor.expect(model.cost, model.law(BATCH), estimator).mean().backward()
        generating.step()

    def measure() -> dict[str, float]:
        real, drawn = neighbours(model.real(held_out), model.law(len(held_out)).sample())
        return {"real": real, "drawn": drawn}

    history = training.train(
        f"{name}, seed {seed}",
        step,
        measure,
        arguments.steps,
        every=every,
        state={"model": model, "generating": generating, "judging": judging, "monitor": monitor},
        path=arguments.out / f"{arguments.data}-{pixels(arguments)}-{name}-{seed}.pt",
        settings={"label": estimator.label, "data": arguments.data, "fast": arguments.fast},
        resume=arguments.resume,
    )
    final = {key: history[-1][key] for key in ("real", "drawn")} | monitor.averages()
    return {"label": estimator.label, "model": model, "history": history} | final


def registered(arguments: argparse.Namespace) -> dict[str, Callable[[int], Estimator]]:
    return DISCRETE if arguments.discrete else CONTINUOUS


def pixels(arguments: argparse.Namespace) -> str:
    return "bits" if arguments.discrete else "gray"


def yardsticks(model: GAN, loaded: data.Data) -> dict[str, tuple[float, float]]:
    """What training images reach, and pixels drawn each by itself with the training images' means."""
    gray, held_out = loaded.training.images, model.real(loaded.held_out.images[:JUDGED])
    count = len(held_out)
    shuffled = torch.stack([column[torch.randperm(len(gray))[:count]] for column in gray.T], 1)  # [count, pixels]
    others = {"training images": gray[torch.randperm(len(gray))[:count]], "independent pixels": shuffled}
    return {name: neighbours(held_out, model.real(x)) for name, x in others.items()}


def report(runs: dict[str, list[dict[str, Any]]], known: dict[str, tuple[float, float]]) -> str:
    """The table: how often a nearest neighbour is of the same kind, and how noisy the generator's gradient was."""
    head = ("", "of the real, %", "of the drawn, %", "gradient variance", "signal / noise")
    rows = [[name, f"{a:.1f}", f"{b:.1f}", "", ""] for name, (a, b) in known.items()]
    for results in runs.values():
        shares = [training.mean_and_error([result[key] for result in results]) for key in ("real", "drawn")]
        noise = [
            statistics.fmean(result[key] for result in results) for key in ("gradient variance", "signal to noise")
        ]
        rows.append([results[0]["label"], *shares, *(f"{x:.2g}" for x in noise)])
    return training.table(head, rows)


@torch.no_grad()
def samples(path: Path, runs: dict[str, list[dict[str, Any]]], loaded: data.Data) -> None:
    """Save a picture: a row of held-out images, and a row drawn by each generator (of gray pixels the means)."""
    from matplotlib.figure import Figure

    models = {results[0]["label"]: results[0]["model"] for results in runs.values()}
    rows = {"held out": loaded.held_out.images[:SHOWN]}
    if next(iter(models.values())).discrete:
        rows = {"held out": rows["held out"].bernoulli()}
    rows |= {
        name: model.law(SHOWN).sample() if model.discrete else model.law(SHOWN).mean for name, model in models.items()
    }
    figure = Figure(figsize=(SHOWN * 0.55 + 2.2, len(rows) * 0.6), dpi=100, layout="constrained")
    for axes, (name, x) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
        strip = x.view(SHOWN, loaded.side, loaded.side).transpose(0, 1).reshape(loaded.side, -1)
        axes.imshow(strip.numpy(), cmap="gray_r", vmin=0, vmax=1)
        axes.set_xticks([i * loaded.side - 0.5 for i in range(SHOWN + 1)], [])
        axes.set_yticks([])
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small")
    figure.savefig(path, bbox_inches="tight")


def main() -> None:
    parser = training.parser("gan", __doc__, {**CONTINUOUS, **DISCRETE})
    parser.add_argument("--discrete", action="store_true", help="black and white pixels")
    parser.add_argument(
        "--evaluations", type=training.count, default=4, help="of the critic, for one image at one step"
    )
    arguments = parser.parse_args()
    arguments.steps = arguments.steps or (FAST_STEPS if arguments.fast else STEPS)
    names = training.chosen(arguments, registered(arguments))
    if not names:
        parser.error(
            f"{pixels(arguments)} pixels need some of {', '.join(registered(arguments))}; got {arguments.estimator}"
        )
    loaded = training.load(parser, arguments)
    runs = training.each(arguments, names, lambda name, seed: train(name, seed, loaded, arguments))
    torch.manual_seed(0)
    print(report(runs, yardsticks(runs[names[0]][0]["model"], loaded)))
    stem = f"{arguments.data}-{pixels(arguments)}"
    samples(arguments.out / f"{stem}.png", runs, loaded)
    histories = {results[0]["label"]: [result["history"] for result in results] for results in runs.values()}
    panels = {"real": "held-out images with a real neighbour, %", "drawn": "drawn images with a drawn neighbour, %"}
    biased = [results[0]["label"] for name, results in runs.items() if not registered(arguments)[name](2).unbiased]
    training.curves(arguments.out / f"{stem}-curves.png", histories, panels, dashed=biased)
    print(f"saved {arguments.out / stem}.png and {stem}-curves.png")


if __name__ == "__main__":
    training.run(main)
