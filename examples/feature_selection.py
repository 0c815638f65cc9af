"""Which few pixels tell the digits apart? Gates that are open or closed, learned together with the classifier.

Each pixel has a gate z, open with probability p = σ(φ), the same φ for all images. Gates φ and a classifier θ minimize

    E_{z ~ p_φ}[cross-entropy of the classifier on image · z] + PRICE (Σ p - budget)²

for a budget of open gates that falls from all pixels to the number wanted, so that the gates that help least close
first. The second term is known in closed form, so it is not sampled. In the first, each image of a batch gets gates of
its own: as many separate expectations, whose errors average out.

With `--law k-subset` exactly as many gates are open as are wanted, from the first step to the last: z follows a
distribution over the subsets of that size, sp.KSubset, and there is neither a price nor a falling budget.

In the end the most probable gates are opened for good. What a choice of pixels is worth is measured for all ways alike:
a fresh classifier of the same kind is trained on them alone, and tested on images that no training has seen. The pixels
are also chosen at random, by scikit-learn's mutual information, and by its support vector machine with an L1 penalty.
Run:

    python examples/feature_selection.py                                 # all estimators, a few minutes
    python examples/feature_selection.py --estimator DisARM --pixels 8 --seeds 5
    python examples/feature_selection.py --law k-subset --seeds 3        # exactly k open gates
    python examples/feature_selection.py --fast                          # seconds
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Bernoulli, Independent
from torch.nn import functional

import sampleprop as sp
import training
from data import Data, Images
from sampleprop.estimator import Estimator

SAMPLES = 4  # of the gates, for each image
ESTIMATORS: dict[str, Callable[[], Estimator[Any, Any]]] = {
    "ScoreFunction": lambda: sp.ScoreFunction(SAMPLES),
    "no-baseline": lambda: sp.ScoreFunction(SAMPLES, baseline=sp.Constant(0.0)),
    "DisARM": lambda: sp.DisARM(SAMPLES),
    "ARMS": lambda: sp.ARMS(SAMPLES),
    "LocalExpectation": lambda: sp.LocalExpectation(),
    "StraightThrough": lambda: sp.StraightThrough(SAMPLES),
    "GumbelSoftmax": lambda: sp.GumbelSoftmax(SAMPLES),
    "HardConcrete": lambda: sp.HardConcrete(SAMPLES),
}
LAWS = ("gates", "k-subset")
SUBSET_ESTIMATORS: dict[str, Callable[[], Estimator[Any, Any]]] = {
    "ScoreFunction": lambda: sp.ScoreFunction(SAMPLES),
    "DoubleCV": lambda: sp.DoubleCV(SAMPLES),
    "StraightThrough": lambda: sp.StraightThrough(SAMPLES),
}
BIASED = ("StraightThrough", "GumbelSoftmax", "HardConcrete")
CLASSES, HIDDEN = 10, 64
BATCH, RATE, GATE_RATE = 100, 3e-3, 3e-2
STEPS, EVERY = 1000, 250
OPEN_AT_FIRST = 2.0  # every φ
PRICE = 0.1
FALLING = 0.7  # of the steps; the budget stays for the rest
PIXELS = (5, 10, 20)
FRESH, FRESH_STEPS = 3, 400  # classifiers for one choice of pixels, and the steps of each
RANDOM_CHOICES = 10
SEEN = 2000  # images that scikit-learn's selections see, of larger data
EXHAUSTIVE = ("LocalExpectation",)  # one evaluation for each pixel
FEW = 100  # pixels, to try them all


class Selector(nn.Module):
    steps: Tensor

    def __init__(self, pixels: int, estimator: Estimator[Any, Any], exactly: int | None = None) -> None:
        """With `exactly`, so many gates are open; otherwise each for itself."""
        super().__init__()
        self.exactly = exactly
        self.logits = nn.Parameter(torch.full((pixels,), OPEN_AT_FIRST))  # φ
        self.net = classifier(pixels)
        self.estimator = estimator
        self.register_buffer("steps", torch.tensor(0))

    def loss(self, images: Tensor, labels: Tensor, budget: float) -> Tensor:
        def cost(gates: Tensor) -> Tensor:
            scores = self.net(images * gates)  # [samples, images, classes]
            wanted = labels.expand(scores.shape[:-1])
            return functional.cross_entropy(scores.movedim(-1, 1), wanted, reduction="none")  # [samples, images]

        logits = self.logits.expand_as(images)
        if self.exactly is not None:
            return sp.expect(cost, sp.KSubset(logits, self.exactly), self.estimator).mean()
        q = Independent(Bernoulli(logits=logits), 1)
        excess = self.logits.sigmoid().sum() - budget
        return sp.expect(cost, q, self.estimator).mean() + PRICE * excess.square()

    @torch.no_grad()
    def probabilities(self) -> Tensor:
        """Of each gate to be open: [pixels]."""
        return self.logits.sigmoid() if self.exactly is None else sp.KSubset(self.logits, self.exactly).mean

    def chosen(self, count: int) -> Tensor:
        """The pixels whose gates are most probably open: [count]."""
        return self.logits.detach().topk(count).indices.sort().values

    @torch.no_grad()
    def accuracy(self, data: Images, count: int) -> float:
        """Of its own classifier, behind gates that are open for the chosen pixels and closed elsewhere."""
        gates = torch.zeros_like(self.logits)
        gates[self.chosen(count)] = 1
        return accuracy(self.net, data.images * gates, data.labels)


def classifier(pixels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(pixels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((net(images).argmax(-1) == labels).double().mean())


class Chosen(NamedTuple):
    pixels: Tensor  # indices, [count]
    own: float | None = None  # accuracy on held-out images of the classifier that was trained behind the gates
    undecided: float | None = None  # gates with a probability between 0.05 and 0.95 in the end


def train(
    name: str, count: int, seed: int, data: Data, steps: int, path: Path, resume: bool, law: str = "gates"
) -> Chosen:
    """Choose pixels by training gates and a classifier, for the estimator of this name."""
    known, exactly = (ESTIMATORS, None) if law == "gates" else (SUBSET_ESTIMATORS, count)
    torch.manual_seed(seed)
    images, labels = data.training
    selector = Selector(images.shape[1], known[name](), exactly)
    optimizer = torch.optim.Adam(
        [
            {"params": [selector.logits], "lr": GATE_RATE},
            {"params": [*selector.net.parameters(), *selector.estimator.parameters()], "lr": RATE},
        ]
    )

    def step() -> None:
        batch = torch.randint(len(images), (BATCH,))
        closed = min(1.0, float(selector.steps) / (FALLING * steps))
        budget = images.shape[1] - closed * (images.shape[1] - count)
        optimizer.zero_grad()
        selector.loss(images[batch], labels[batch], budget).backward()
        optimizer.step()
        selector.steps += 1

    def measure() -> dict[str, float]:
        p = selector.probabilities()
        undecided = float(((p > 0.05) & (p < 0.95)).sum())
        return {"accuracy": selector.accuracy(data.held_out, count), "undecided": undecided}

    history = training.train(
        f"{name}, {count} pixels, seed {seed}", step, measure, steps, every=EVERY,
        state={"selector": selector, "optimizer": optimizer}, path=path, resume=resume,
        settings={"estimator": name, "seed": seed, "pixels": count, "of": images.shape[1], "steps": steps}
        | ({} if law == "gates" else {"law": law}),
    )  # fmt: skip
    return Chosen(selector.chosen(count), history[-1]["accuracy"], history[-1]["undecided"])


def fresh_accuracy(data: Data, chosen: Tensor, seed: int, steps: int) -> float:
    """What these pixels are worth: the accuracy on held-out images of classifiers trained on nothing else."""
    found = []
    for number in range(FRESH):
        torch.manual_seed(FRESH * seed + number)
        net = classifier(len(chosen))
        optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
        images, labels = data.training.images[:, chosen], data.training.labels
        for _ in range(steps):
            batch = torch.randint(len(images), (BATCH,))
            optimizer.zero_grad()
            functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            found.append(accuracy(net, data.held_out.images[:, chosen], data.held_out.labels))
    return statistics.fmean(found)


# --- choices without gates ----------------------------------------------------------------------------------------


def by_chance(data: Data, count: int, seed: int) -> Chosen:
    order = torch.randperm(data.side**2, generator=Generator().manual_seed(seed))
    return Chosen(order[:count])


def by_mutual_information(data: Data, count: int, seed: int) -> Chosen:
    """The pixels that tell most about the class, each for itself."""
    from sklearn.feature_selection import mutual_info_classif

    images, labels = data.training
    scores = mutual_info_classif(images[:SEEN].numpy(), labels[:SEEN].numpy(), random_state=seed)
    return Chosen(torch.tensor(scores).topk(count).indices)


def by_penalty(data: Data, count: int, seed: int) -> Chosen:
    """The largest weights of a linear classifier whose L1 penalty leaves hardly more of them than asked for."""
    from sklearn.svm import LinearSVC

    images, labels = data.training
    low, high = -4.0, 2.0  # log10 of scikit-learn's C
    scores = torch.zeros(data.side**2)  # the weights at the upper end
    for _ in range(10):
        middle = (low + high) / 2
        model = LinearSVC(penalty="l1", dual=False, C=10**middle, max_iter=20_000, random_state=seed)
        weights = torch.tensor(model.fit(images[:SEEN].numpy(), labels[:SEEN].numpy()).coef_).abs().sum(0)
        if int((weights > 0).sum()) >= count:
            high, scores = middle, weights
        else:
            low = middle
    return Chosen(scores.topk(count).indices)


CHOICES = {"at random": by_chance, "mutual information": by_mutual_information, "L1 penalty": by_penalty}


# --- report -------------------------------------------------------------------------------------------------------

Results = Mapping[
    str, Mapping[int, Sequence[tuple[Chosen, float]]]
]  # by way and count: for each seed a choice and its worth


def table(results: Results, counts: Sequence[int], whole: Sequence[float]) -> str:
    """Accuracies in percent; what only gates have is for the middle number of pixels."""
    middle = counts[len(counts) // 2]
    rows = []
    for name, found in results.items():
        row = [name + (" (biased)" if name in BIASED else "")]
        row += [training.mean_and_error([100 * worth for _, worth in found[count]]) for count in counts]
        own = [100 * chosen.own for chosen, _ in found[middle] if chosen.own is not None]
        undecided = [chosen.undecided for chosen, _ in found[middle] if chosen.undecided is not None]
        row += [training.mean_and_error(own) if own else "", f"{statistics.fmean(undecided):.1f}" if undecided else ""]
        rows.append(row)
    rows.append(["all pixels", *[""] * (len(counts) - 1), training.mean_and_error([100 * w for w in whole]), "", ""])
    head = ("pixels chosen by", *map(str, counts), f"own classifier, {middle}", f"undecided, {middle}")
    return training.table(head, rows)


def picture(results: Results, data: Data, counts: Sequence[int], whole: float, path: Path) -> None:
    """Accuracy by the number of pixels, and how often each pixel was chosen for the middle number."""
    from matplotlib.figure import Figure

    middle = counts[len(counts) // 2]
    figure = Figure(figsize=(13, 5), dpi=100, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.1))
    axes = left.subplots()
    for i, (name, found) in enumerate(results.items()):
        means = [100 * statistics.fmean(worth for _, worth in found[count]) for count in counts]
        axes.plot(counts, means, "--" if name in CHOICES else "-", color=f"C{i % 10}", marker=".", lw=1.2, label=name)
    axes.axhline(100 * whole, color="0.6", lw=1, label="all pixels")
    axes.set(xlabel="pixels", ylabel="accuracy of a fresh classifier, %", title="held-out images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    columns = 4
    rows = -(-(len(results) + 1) // columns)
    panels = right.subplots(rows, columns, squeeze=False).flatten()
    shown = {"mean image": data.training.images.mean(0)}
    for name, found in results.items():
        shown[name] = torch.zeros(data.side**2)
        for chosen, _ in found[middle]:
            shown[name][chosen.pixels] += 1 / len(found[middle])
    for panel in panels:
        panel.axis("off")
    for panel, (name, values) in zip(panels, shown.items(), strict=False):
        shade = "gray_r" if name == "mean image" else "Blues"
        panel.imshow(values.view(data.side, data.side).numpy(), cmap=shade, vmin=0, vmax=1)
        panel.set_title(name, fontsize="small")
    right.suptitle(f"how often each pixel is among the {middle}", fontsize="medium")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    parser = training.parser("feature_selection", __doc__, ESTIMATORS | SUBSET_ESTIMATORS)
    parser.add_argument("--law", choices=LAWS, default="gates", help="each gate for itself, or exactly k of them")
    parser.add_argument(
        "--pixels", type=training.count, nargs="+", help="how many to choose; the default is 5, 10 and 20"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = training.load(parser, arguments)
    counts = sorted(arguments.pixels or ((8,) if arguments.fast else PIXELS))
    if counts[-1] > data.side**2:
        parser.error(f"{arguments.data} has {data.side**2} pixels to choose from; got --pixels {counts[-1]}")
    steps, fresh = arguments.steps or (100 if arguments.fast else STEPS), 100 if arguments.fast else FRESH_STEPS
    seeds = training.seeds(arguments)
    results: dict[str, dict[int, list[tuple[Chosen, float]]]] = {}

    def note(name: str, count: int, seed: int, chosen: Chosen) -> None:
        worth = fresh_accuracy(data, chosen.pixels, seed, fresh)
        results.setdefault(name, {}).setdefault(count, []).append((chosen, worth))

    known = ESTIMATORS if arguments.law == "gates" else SUBSET_ESTIMATORS
    unknown = [name for name in arguments.estimator if name not in ("all", *known)]
    if unknown:
        parser.error(f"--law {arguments.law} takes the estimators {', '.join(known)}; got {', '.join(unknown)}")
    for name in training.chosen(arguments, known):
        if name in EXHAUSTIVE and data.side**2 > FEW and name not in arguments.estimator:
            print(
                f"{name} is left out: it evaluates the cost once for each of {data.side**2} pixels. Name it to have it."
            )
            continue
        for count in counts:
            for seed in seeds:
                law = "" if arguments.law == "gates" else f"{arguments.law}-"
                path = arguments.out / f"{arguments.data}-{law}{name}-{count}-{seed}.pt"
                made = train(name, count, seed, data, steps, path, arguments.resume, arguments.law)
                note(name, count, seed, made)
    for name, choose in CHOICES.items():
        for count in counts:
            for seed in range(RANDOM_CHOICES) if choose is by_chance else seeds:
                note(name, count, seed, choose(data, count, seed))
    whole = [fresh_accuracy(data, torch.arange(data.side**2), seed, fresh) for seed in seeds]
    print(table(results, counts, whole))
    picture(results, data, counts, statistics.fmean(whole), arguments.out / "feature_selection.png")
    print(f"saved {arguments.out / 'feature_selection.png'}")


if __name__ == "__main__":
    training.run(main)
