r"""The rule by which the arena orders estimators, its uncertainty, and how much the order depends on the rule.

**The rule.** On each problem, with each seed, at each budget, an estimator has the ratio

    variance × evaluations of the estimator / variance × evaluations of leave-one-out

of one estimate each. Its score is the geometric mean: first over the seeds of a problem at a budget, then over the
budgets, then over the problems that it takes. Below 1 is better than leave-one-out at the same number of evaluations. A
ratio counts as 1/100 at least and as 100 at most, so that no single problem on which an estimator happens to be exact
decides.

An estimator that is biased has no variance × cost, because no number of samples removes its bias. It has the mean
squared error of N evaluations in all,

    bias² + variance × evaluations / N,

over that of leave-one-out, at two sizes N. The order of the biased is that of the geometric mean of both.

The uncertainty is that of problems and seeds: a bootstrap draws problems with replacement, and seeds of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median
from typing import Literal

import torch

from sampleprop.lab.arena.cells import Cell
from sampleprop.lab.arena.problems import PROBLEMS
from sampleprop.lab.arena.records import Record

LEAST, MOST = 1e-2, 1e2
SIZES = (64, 4096)  # evaluations in all, for the mean squared error of the biased
EXACT = 1e-10  # of the squared gradient: a smaller variance is a rounding error
FEWEST = 3  # problems, for a place in the order
RESAMPLES = 1000
INTERVAL = (0.05, 0.95)
FALSE_ALARM = 1e-3  # that one of all rows of an unbiased estimator is called biased

Group = Literal["unbiased", "biased", "refuted", "exact"]
Where = tuple[str, int, int]  # problem, seed, budget


@dataclass(frozen=True)
class Competitor:
    """One line of the order: an entrant, untrained or trained.

    Attributes:
        record: its file.
        trained: whether its own parameters were trained on each problem first.
        cells: by problem, seed and budget, those that were measured.
        group: "unbiased"; "biased" where it says so; "refuted" where it says that it is unbiased and a bias was seen;
            "exact" where no estimate has any variance.
    """

    record: Record
    trained: bool
    cells: Mapping[Where, Cell]
    group: Group

    @property
    def name(self) -> str:
        """The entrant, and what was done to it."""
        if not self.record.facts["learns"]:
            return self.record.name
        return f"{self.record.name}, {'trained' if self.trained else 'untrained'}"


@dataclass(frozen=True)
class Standing:
    """Where a competitor stands.

    Attributes:
        competitor: who.
        score: by the rule; for the biased the geometric mean over both sizes.
        interval: of the score, 90 % of the resamples.
        by_time: the same by variance × time, in units of leave-one-out timed in the same rounds; None for the biased.
        errors: the mean squared error over that of leave-one-out, at each size.
        problems: on how many problems.
        rank: in its group, from 1; None with too few problems for a place.
        ranks: 90 % of the resamples.
        memory: the geometric mean of the memory over that of leave-one-out.
    """

    competitor: Competitor
    score: float
    interval: tuple[float, float]
    by_time: float | None
    errors: tuple[float, ...]
    problems: int
    rank: int | None
    ranks: tuple[int, int] | None
    memory: float


Value = Callable[[Cell], float]  # the logarithm of a number of the cell over that of leave-one-out


def by_evaluations(cell: Cell) -> float:
    """Variance × evaluations."""
    return _log(cell.variance * cell.evaluations, cell.loo_variance * cell.loo_evaluations)


def by_time(cell: Cell) -> float:
    """Variance × time, both timed in the same rounds."""
    return _log(cell.variance * cell.milliseconds, cell.loo_variance * cell.loo_milliseconds)


def by_variance(cell: Cell) -> float:
    """Variance."""
    return _log(cell.variance, cell.loo_variance)


def by_duration(cell: Cell) -> float:
    """Time."""
    return _log(cell.milliseconds, cell.loo_milliseconds)


def by_memory(cell: Cell) -> float:
    """Memory."""
    return _log(cell.megabytes, cell.loo_megabytes)


def by_error(size: int) -> Value:
    """The mean squared error of `size` evaluations in all."""

    def value(cell: Cell) -> float:
        bias = (cell.bias or 0.0) * (cell.gradient or 0.0)
        error = bias**2 + cell.variance * cell.evaluations / size
        return _log(error, cell.loo_variance * cell.loo_evaluations / size)

    return value


def competitors(records: Sequence[Record]) -> list[Competitor]:
    """Every entrant of these files, untrained and trained, that was measured anywhere."""
    found = []
    for record in records:
        for trained in (False, True):
            cells = {
                (key.problem, key.seed, key.budget): cell
                for key, cell in record.cells.items()
                if key.trained == trained and not cell.reason
            }
            if cells:
                found.append(Competitor(record, trained, cells, _group(record, tuple(cells.values()))))
    return found


def standings(records: Sequence[Record]) -> list[Standing]:
    """The order of these files, group by group: the unbiased, the biased, the refuted, the exact."""
    given = competitors(records)
    found: list[Standing] = []
    for group in ("unbiased", "biased", "refuted", "exact"):
        members = [each for each in given if each.group == group]
        found += _ordered(members)
    return found


def score(competitor: Competitor, value: Value = by_evaluations) -> float:
    """The geometric mean over problems; NaN for a competitor without any."""
    logs = [math.log(ratio) for ratio in by_problem(competitor, value).values()]
    return math.exp(fmean(logs)) if logs else math.nan


def by_problem(competitor: Competitor, value: Value = by_evaluations) -> dict[str, float]:
    """The geometric mean of the ratios on each problem."""
    found: dict[str, dict[int, list[float]]] = {}
    for (problem, _, budget), cell in competitor.cells.items():
        found.setdefault(problem, {}).setdefault(budget, []).append(value(cell))
    return {problem: math.exp(fmean(map(fmean, budgets.values()))) for problem, budgets in found.items()}


def alternatives(records: Sequence[Record]) -> dict[str, list[float]]:
    """What other rules say of the unbiased in the order of the rule: a score for each, NaN where there is none."""
    members = [each.competitor for each in standings(records) if each.competitor.group == "unbiased" and each.rank]

    def scores(value: Value, chosen: Callable[[Where], bool] = lambda where: True) -> list[float]:
        return [score(_only(each, chosen), value) for each in members]

    smallest = {name: entry.budgets[0] for name, entry in PROBLEMS.items()}
    largest = {name: entry.budgets[-1] for name, entry in PROBLEMS.items()}
    found = {
        "the rule": scores(by_evaluations),
        "variance × time": scores(by_time),
        "the smallest budget only": scores(by_evaluations, lambda where: where[2] == smallest[where[0]]),
        "the largest budget only": scores(by_evaluations, lambda where: where[2] == largest[where[0]]),
        "the median problem": [median(by_problem(each).values()) for each in members],
        "how often worse than leave-one-out": [
            fmean(by_evaluations(cell) > 0 for cell in each.cells.values()) for each in members
        ],
    }
    found["each family once"] = [_family_score(each) for each in members]
    for family in dict.fromkeys(entry.family for entry in PROBLEMS.values()):
        found[f"without {family}"] = scores(
            by_evaluations,
            lambda where, family=family: PROBLEMS[where[0]].family != family,  # type: ignore[misc]
        )
    return found


def agreement(records: Sequence[Record], first: Sequence[int], second: Sequence[int]) -> float:
    """The rank correlation of the orders that two sets of seeds give, by the problems and budgets that both have."""
    pairs = []
    for each in competitors(records):
        sets = [{where[::2] for where in each.cells if where[1] in seeds} for seeds in (first, second)]
        each = _only(each, lambda where, both=sets[0] & sets[1]: where[::2] in both)  # type: ignore[misc]
        if each.group == "unbiased" and len(by_problem(each)) >= FEWEST:
            halves = [score(_only(each, lambda where, s=s: where[1] in s)) for s in (first, second)]  # type: ignore[misc]
            if all(map(math.isfinite, halves)):
                pairs.append(halves)
    return spearman([a for a, _ in pairs], [b for _, b in pairs])


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The rank correlation, of those that both have."""
    both = [(a, b) for a, b in zip(first, second, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(both) < 2:
        return math.nan
    ranks = torch.tensor([_ranks([pair[i] for pair in both]) for i in (0, 1)], dtype=torch.float64)
    return float(torch.corrcoef(ranks)[0, 1])


def _ordered(members: Sequence[Competitor]) -> list[Standing]:
    """The members of one group, by score; those with too few problems for a place follow."""
    if not members:
        return []
    biased = members[0].group == "biased"
    values = [by_error(size) for size in SIZES] if biased else [by_evaluations]

    def joint(cell: Cell) -> float:
        return fmean(value(cell) for value in values)

    scores = [score(each, joint) for each in members]
    problems = [len(by_problem(each)) for each in members]
    ranked = [i for i, count in enumerate(problems) if count >= FEWEST and members[i].group != "exact"]
    places = {i: rank for rank, i in enumerate(sorted(ranked, key=lambda i: scores[i]), start=1)}
    samples = _resampled(members, joint)  # [resamples, members]
    found = []
    for i, each in enumerate(members):
        drawn = sorted(s for s in samples[:, i].tolist() if math.isfinite(s))
        found.append(
            Standing(
                each,
                scores[i],
                (_quantile(drawn, INTERVAL[0]), _quantile(drawn, INTERVAL[1])),
                None if biased else score(each, by_time),
                tuple(score(each, by_error(size)) for size in SIZES),
                problems[i],
                places.get(i),
                _rank_range(samples, ranked, i) if i in places else None,
                score(each, by_memory),
            )
        )
    return sorted(found, key=lambda each: (each.rank is None, each.score))


def _resampled(members: Sequence[Competitor], value: Value) -> torch.Tensor:
    """Scores of resamples, [resamples, members]: problems drawn with replacement, and seeds of each."""
    problems = sorted({where[0] for each in members for where in each.cells})
    seeds = sorted({where[1] for each in members for where in each.cells})
    budgets = max(len(PROBLEMS[problem].budgets) for problem in problems)
    logs = torch.full((len(members), len(problems), len(seeds), budgets), math.nan, dtype=torch.float64)
    for i, each in enumerate(members):
        for (problem, seed, budget), cell in each.cells.items():
            place = PROBLEMS[problem].budgets.index(budget)
            logs[i, problems.index(problem), seeds.index(seed), place] = value(cell)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(problems), (RESAMPLES, len(problems)), generator=generator)
    of_seeds = torch.randint(len(seeds), (RESAMPLES, len(problems), len(seeds), 1), generator=generator)
    of_seeds = of_seeds.expand(-1, -1, -1, budgets)
    samples = [each[drawn].gather(2, of_seeds).nanmean(2).nanmean(2).nanmean(1) for each in logs]  # [resamples] each
    return torch.stack(samples, 1).exp()


def _rank_range(samples: torch.Tensor, ranked: Sequence[int], i: int) -> tuple[int, int]:
    """The places that 90 % of the resamples give to a member."""
    own = samples[:, i, None]
    better = (samples[:, list(ranked)] < own).sum(1)[own[:, 0].isfinite()]
    places = sorted((better + 1).tolist())
    return int(_quantile(places, INTERVAL[0])), int(_quantile(places, INTERVAL[1]))


def _group(record: Record, found: Sequence[Cell]) -> Group:
    if not record.facts["unbiased"]:
        return "biased"
    limit = NormalDist().inv_cdf(1 - FALSE_ALARM / max(1, len(found)) / 2)
    certificate = record.certificate
    seen = any(cell.bias_z is not None and cell.bias_z > max(limit, 4.0) for cell in found)
    if seen or (certificate is not None and certificate["ok"] is False):
        return "refuted"
    if all(cell.gradient and cell.variance < EXACT * cell.gradient**2 for cell in found):
        return "exact"
    return "unbiased"


def _family_score(competitor: Competitor) -> float:
    """The geometric mean over families, first over the problems of each."""
    logs: dict[str, list[float]] = {}
    for problem, ratio in by_problem(competitor).items():
        logs.setdefault(PROBLEMS[problem].family, []).append(math.log(ratio))
    return math.exp(fmean(fmean(values) for values in logs.values()))


def _only(competitor: Competitor, chosen: Callable[[Where], bool]) -> Competitor:
    cells = {where: cell for where, cell in competitor.cells.items() if chosen(where)}
    return Competitor(competitor.record, competitor.trained, cells, competitor.group)


def _log(a: float, b: float) -> float:
    """The logarithm of a / b, from LEAST to MOST."""
    if not b > 0:
        return 0.0 if not a > 0 else math.log(MOST)
    return math.log(min(max(a / b, LEAST), MOST))


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, with the mean of the ranks for ties."""
    ordered = sorted(values)
    return [ordered.index(v) + (ordered.count(v) + 1) / 2 for v in values]


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan
