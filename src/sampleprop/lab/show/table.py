"""The table of methods, from facts that the tests verify; it stands on the page of all estimators."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, OneHotCategorical, Poisson

from sampleprop.distributions.perturb_and_map import PerturbAndMAP
from sampleprop.estimator import Estimator, Needs
from sampleprop.estimators import REGISTER

BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"
SIZE = 10
HEADINGS = (
    "Method",
    "Continuous / discrete",
    "Differentiable in φ",
    "Follows p_φ exactly",
    "∂f/∂x must exist",
    "Unbiased",
    "Evaluations",
    "Learns",
    "Order",
    "Compiles",
)


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: the name in the literature.
        takes: the kinds of distribution: "continuous", "Bernoulli", "one-hot", "categorical", or another kind.
        differentiable: whether it gives a gradient for φ.
        exact_forward: whether f is called at samples of p_φ.
        unbiased: whether the mean of the gradient is the gradient of E[f]; None for a method without a gradient.
        needs: what f must be; None for a method that does not call f.
        evaluations: of f, forward and backward.
        where: for which size the evaluations were counted, if they depend on the size of the problem.
        learns: the names of what is trained.
        order: the highest derivative; 0 for none.
        compiles: whether `torch.compile(fullgraph=True)` works; a string gives the reason why not.
    """

    name: str
    takes: tuple[str, ...]
    differentiable: bool
    exact_forward: bool
    unbiased: bool | None
    needs: Needs | None
    evaluations: tuple[int, int]
    where: str
    learns: tuple[str, ...]
    order: float
    compiles: Literal[True] | str

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `HEADINGS`; bold marks what is more powerful or requires less."""
        forward, backward = self.evaluations
        counted = f"{forward} + {backward}" + (f" ({self.where})" if self.where else "")
        return (
            self.name,
            _kinds(self.takes),
            "**Yes**" if self.differentiable else "No",
            _exact(self),
            "n/a" if self.needs is None else _NEEDS[self.needs],
            "n/a" if self.unbiased is None else "**Yes**" if self.unbiased else "No",
            counted if self.needs is not None else "n/a",
            ", ".join(self.learns) or "–",
            "**any**" if math.isinf(self.order) else f"{self.order:g}" if self.order else "n/a",
            "**Yes**" if self.compiles is True else f"No: {self.compiles}",
        )


_NEEDS: dict[Needs, str] = {
    "black box": "**No**",
    "differentiable": "Yes",
    "relaxed": "Yes, between the points too",
}

# Not an estimator: a sampler of p_φ without any derivative.
GUMBEL_MAX = Method(
    name="Gumbel-max (sampler)",
    takes=("one-hot",),
    differentiable=False,
    exact_forward=True,
    unbiased=None,
    needs=None,
    evaluations=(0, 0),
    where="",
    learns=(),
    order=0,
    compiles=True,
)


def methods() -> tuple[Method, ...]:
    """Every estimator of the library with its default arguments, and the sampler."""
    return (*(_method(kind()) for kind in REGISTER), GUMBEL_MAX)


def distributions(size: int = SIZE) -> dict[str, Distribution]:
    """The kinds of distribution in the table, with `size` variables or classes."""
    zeros = torch.zeros(size)
    return {
        "continuous": Independent(Normal(zeros, 1.0), 1),
        "Bernoulli": Independent(Bernoulli(logits=zeros), 1),
        "one-hot": OneHotCategorical(logits=zeros),
        "categorical": Categorical(logits=zeros),
    }


def counts(size: int = SIZE) -> dict[str, Distribution]:
    """The kind of distribution for estimators that take none of `distributions`."""
    return {"discrete: Poisson": Independent(Poisson(torch.ones(size)), 1)}


def solutions(size: int = SIZE) -> dict[str, Distribution]:
    """The kind of distribution for estimators that take a user's solver alone."""

    def solver(scores: torch.Tensor) -> torch.Tensor:
        return (scores == scores.amax(-1, keepdim=True)).to(scores)

    return {"a solver": PerturbAndMAP(torch.zeros(size), solver)}


def markdown() -> str:
    """The table in Markdown."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(method.cells() for method in methods())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(path: Path) -> None:
    """Put the table between the markers of a file."""
    before, after = _around(path)
    path.write_text(f"{before}\n{markdown()}\n{after}", encoding="utf-8")


def current(path: Path) -> bool:
    """Whether the table in the file is the present one."""
    before, after = _around(path)
    return path.read_text(encoding="utf-8") == f"{before}\n{markdown()}\n{after}"


def _around(path: Path) -> tuple[str, str]:
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path} needs the line {BEGIN} and, below it, the line {END}, once each. Add them.")
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN, END + rest.partition(END)[2]


def _method(estimator: Estimator[Any, Any]) -> Method:
    takes = next(taken for each in (distributions, counts, solutions) if (taken := _taken(estimator, each())))
    counted = next(kind for kind in _SIZES if kind in takes)
    dist, smaller = ((distributions(size) | counts(size) | solutions(size))[counted] for size in (SIZE, SIZE // 2))
    evaluations = estimator.evaluations(dist)
    grows = evaluations != estimator.evaluations(smaller)
    return Method(
        name=estimator.name,
        takes=takes,
        differentiable=True,
        exact_forward=estimator.exact_forward,
        unbiased=estimator.unbiased,
        needs=estimator.needs,
        evaluations=evaluations,
        where=f"{SIZE} {_SIZES[counted]}" if grows else "",
        learns=tuple(dict.fromkeys(name.partition(".")[0] for name in estimator.learns)),
        order=estimator.order(dist),
        compiles=estimator.compiles,
    )


# The kinds of distribution in the order in which evaluations are counted for one of them, and what their size counts.
_SIZES = {
    "Bernoulli": "bits",
    "one-hot": "classes",
    "categorical": "classes",
    "continuous": "variables",
    "discrete: Poisson": "counts",
    "a solver": "scores",
}


def _taken(estimator: Estimator[Any, Any], asked: Mapping[str, Distribution]) -> tuple[str, ...]:
    return tuple(kind for kind, dist in asked.items() if estimator.refusal(dist) is None)


def _kinds(takes: Sequence[str]) -> str:
    discrete = [kind for kind in takes if kind in ("Bernoulli", "one-hot", "categorical")]
    if len(discrete) == 3:
        return "Continuous and discrete" if "continuous" in takes else "Discrete"
    text = f"Discrete ({', '.join(discrete)})" if discrete else ""
    rest = [kind for kind in takes if kind not in discrete]
    return " and ".join([*(kind[0].upper() + kind[1:] for kind in rest), text]).removesuffix(" and ")


def _exact(method: Method) -> str:
    if not method.exact_forward:
        return "No"
    return "**Yes** forward, no backward" if method.unbiased is False else "**Yes**"
