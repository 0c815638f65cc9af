"""Learning to rank by what counts, where no likelihood sees it: the head of the list, and a quota.

Groups of ten patients of scikit-learn's diabetes data are ranked by a linear function of their ten features. Only the
three that come first are treated, and two of them should be of the second sex. What counts for a list is its utility, a
black box of the three:

    NDCG@3 - PRICE · (how many patients of the second sex are missing from the two)

where a patient's gain is 2^grade - 1, and his grade says how many of four quintiles the progress of his disease
exceeds. The list follows sp.PlackettLuce(scores, 3), and the ways to learn the scores are:

- Enumerate: the exact gradient of the expected utility, by all 720 lists.
- ScoreFunction(2), ScoreFunction(8): without bias, from two or eight lists, each less the mean of the others.
- ListMLE: no utility at all, but the likelihood of the order by the disease, of all ten ranks.
- ListMLE@3: the same, of the first three ranks.

The two likelihoods know the order of the patients, and nothing of the quota. Measured are lists in the order of the
scores, for 2000 groups of patients that no training has seen. Run:

    python examples/ranking.py --seeds 3                                 # a minute
    python examples/ranking.py --estimator "ScoreFunction(8)" ListMLE
    python examples/ranking.py --fast                                    # seconds
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

import sampleprop as sp
import training
from sampleprop.estimator import Estimator

ESTIMATORS: dict[str, Callable[[], Estimator[Any, Any] | None]] = {
    "Enumerate": lambda: sp.Enumerate(),
    "ScoreFunction(2)": lambda: sp.ScoreFunction(2),
    "ScoreFunction(8)": lambda: sp.ScoreFunction(8),
    "ListMLE": lambda: None,
    "ListMLE@3": lambda: None,
}
GROUP, TREATED = 10, 3
PRICE, QUOTA = 0.3, 2
SEX = 1  # the feature whose sign tells the sex; above 0 the data have their code 2
FOR_TRAINING, GROUPS = 300, 2000  # patients; groups of the others
BATCH, RATE = 64, 0.02
STEPS, EVERY = 300, 25


class Patients(NamedTuple):
    features: Tensor  # [patients, 10], of mean 0 and variance 1
    grades: Tensor  # [patients], 0 to 4

    def groups(self, count: int, generator: Generator | None = None) -> Patients:
        """So many groups of patients drawn without replacement: [count, 10, ...]."""
        rows = torch.rand(count, len(self.grades), generator=generator).topk(GROUP, -1).indices
        return Patients(self.features[rows], self.grades[rows])


def load() -> tuple[Patients, Patients]:
    """For training, and held out: always the same patients."""
    from sklearn.datasets import load_diabetes

    features, progress = (torch.tensor(x).float() for x in load_diabetes(return_X_y=True))
    features = (features - features.mean(0)) / features.std(0)
    grades = torch.bucketize(progress, progress.quantile(torch.tensor([0.2, 0.4, 0.6, 0.8])))
    order = torch.randperm(len(grades), generator=Generator().manual_seed(0))
    first, rest = order[:FOR_TRAINING], order[FOR_TRAINING:]
    return Patients(features[first], grades[first]), Patients(features[rest], grades[rest])


def ndcg(lists: Tensor, grades: Tensor) -> Tensor:
    """Of the first three, [..., groups], for lists [..., groups, 3] of the patients in groups, [groups, 10]."""
    discounts = 1 / torch.arange(2, TREATED + 2).float().log2()
    gains = 2.0**grades - 1
    gained = gains.expand(*lists.shape[:-1], GROUP).gather(-1, lists)
    best = gains.topk(TREATED, -1).values
    return (gained * discounts).sum(-1) / (best * discounts).sum(-1).clamp_min(1e-9)


def missing(lists: Tensor, features: Tensor) -> Tensor:
    """How many patients of the second sex the first three lack, [..., groups]."""
    second = (features[..., SEX] > 0).float()  # [groups, 10]
    treated = second.expand(*lists.shape[:-1], GROUP).gather(-1, lists)
    return (QUOTA - treated.sum(-1)).clamp_min(0)


def utility(lists: Tensor, group: Patients) -> Tensor:
    return ndcg(lists, group.grades) - PRICE * missing(lists, group.features)


def loss(name: str, estimator: Estimator[Any, Any] | None, scores: Tensor, group: Patients) -> Tensor:
    """[groups]."""
    if estimator is not None:
        return sp.expect(lambda lists: -utility(lists, group), sp.PlackettLuce(scores, TREATED), estimator)
    q = sp.PlackettLuce(scores, TREATED if name == "ListMLE@3" else GROUP)
    ties = torch.rand(group.grades.shape)  # patients of one grade come in any order
    return -q.log_prob((group.grades + ties).topk(q.k, -1).indices)


def train(
    name: str, seed: int, parts: tuple[Patients, Patients], steps: int, path: Path, resume: bool
) -> training.History:
    torch.manual_seed(seed)
    model = nn.Linear(parts[0].features.shape[-1], 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    estimator = ESTIMATORS[name]()
    test = parts[1].groups(GROUPS, Generator().manual_seed(0))

    def step() -> None:
        group = parts[0].groups(BATCH)
        optimizer.zero_grad()
        loss(name, estimator, model(group.features).squeeze(-1), group).mean().backward()
        optimizer.step()

    def measure() -> dict[str, float]:
        lists = sp.PlackettLuce(model(test.features).squeeze(-1), TREATED).mode
        found = {"utility": utility(lists, test), "NDCG@3": ndcg(lists, test.grades)}
        found["missing"] = missing(lists, test.features)
        return {key: float(x.mean()) for key, x in found.items()}

    return training.train(
        f"{name}, seed {seed}", step, measure, steps, every=EVERY, state={"model": model, "optimizer": optimizer},
        path=path, resume=resume, settings={"estimator": name, "seed": seed},
    )  # fmt: skip


def main() -> None:
    arguments = training.parser("ranking", __doc__, ESTIMATORS, images=False).parse_args()
    torch.set_num_threads(1)
    steps = arguments.steps or (20 if arguments.fast else STEPS)
    parts = load()

    def one(name: str, seed: int) -> training.History:
        return train(name, seed, parts, steps, arguments.out / f"{name}-{seed}.pt", arguments.resume)

    histories = training.each(arguments, training.chosen(arguments, ESTIMATORS), one)
    keys = ("utility", "NDCG@3", "missing")
    rows = [
        [name, *(training.mean_and_error([100 * history[-1][key] for history in runs]) for key in keys)]
        for name, runs in histories.items()
    ]
    print(training.table(("learned by", "utility, %", "NDCG@3, %", "missing in 100 lists"), rows))
    picture = arguments.out / "ranking.png"
    panels = {"utility": "utility of held-out groups", "missing": "missing of the quota of 2"}
    training.curves(picture, histories, panels, dashed=[name for name in ESTIMATORS if name.startswith("ListMLE")])
    print(f"saved {picture}")


if __name__ == "__main__":
    training.run(main)
