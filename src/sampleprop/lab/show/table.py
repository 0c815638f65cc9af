"""The table of methods, from their facts: what the README shows and the tests verify."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, OneHotCategorical

from sampleprop import families
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
        name: as the literature has it.
        takes: the kinds of distribution: "continuous", "Bernoulli", "one-hot", "categorical", or another by its name.
        differentiable: whether it gives a gradient for φ.
        exact_forward: whether f sees samples of p_φ.
        unbiased: whether the gradient is that of p_φ; None for what gives none.
        needs: of f; None for what does not call it.
        evaluations: of f, forward and backward.
        where: what the evaluations were counted for, if they depend on the size of the problem.
        learns: the names of what is trained.
        order: the highest derivative; 0 for none.
        compiles: whether `torch.compile(fullgraph=True)` takes it; a string says why it does not.
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
        """The row as text, in the order of `HEADINGS`; bold is what is more powerful or asks for less."""
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

# Not an estimator: a sample of p_φ that nothing can be differentiated through.
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
    """Every estimator of the register with its default arguments, and the sampler."""
    return (*(_method(kind()) for kind in REGISTER), GUMBEL_MAX)


def distributions(size: int = SIZE) -> dict[str, Distribution]:
    """The kinds of distribution that the table asks about, with `size` variables or classes."""
    zeros = torch.zeros(size)
    return {
        "continuous": Independent(Normal(zeros, 1.0), 1),
        "Bernoulli": Independent(Bernoulli(logits=zeros), 1),
        "one-hot": OneHotCategorical(logits=zeros),
        "categorical": Categorical(logits=zeros),
    }


def markdown() -> str:
    """The table in Markdown."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(method.cells() for method in methods())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(path: Path) -> None:
    """Put the table between the markers of a file."""
    before, after = _around(path)
    path.write_text(f"{before}\n{markdown()}\n{after}", encoding="utf-8")


def current(path: Path) -> bool:
    """Whether the file has the table as it is now."""
    before, after = _around(path)
    return path.read_text(encoding="utf-8") == f"{before}\n{markdown()}\n{after}"


def _around(path: Path) -> tuple[str, str]:
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path} needs the line {BEGIN} and, below it, the line {END}, once each. Add them.")
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN, END + rest.partition(END)[2]


def _method(estimator: Estimator[Any]) -> Method:
    asked = distributions()
    takes = tuple(name for name, dist in asked.items() if estimator.refusal(dist) is None)
    own = _own(estimator)
    dist = asked[_counted(takes)] if takes else own
    evaluations = estimator.evaluations(dist)
    grows = bool(takes) and evaluations != estimator.evaluations(distributions(SIZE // 2)[_counted(takes)])
    return Method(
        name=estimator.name,
        takes=takes or (_own_kind(own),),
        differentiable=True,
        exact_forward=estimator.exact_forward,
        unbiased=estimator.unbiased,
        needs=estimator.needs,
        evaluations=evaluations,
        where=f"{SIZE} {_SIZES[_counted(takes)]}" if grows else "",
        learns=tuple(dict.fromkeys(name.partition(".")[0] for name in estimator.learns)),
        order=estimator.order(dist),
        compiles=estimator.compiles,
    )


_SIZES = {"Bernoulli": "bits", "one-hot": "classes", "categorical": "classes", "continuous": "variables"}


def _counted(takes: Sequence[str]) -> str:
    """The kind of distribution for which evaluations are counted."""
    return next(kind for kind in _SIZES if kind in takes)


def _own(estimator: Estimator[Any]) -> Distribution:
    """A distribution that the estimator surely takes: that of its worked example."""
    worked = type(estimator).worked()
    return worked.dist(worked.parameter)


def _own_kind(dist: Distribution) -> str:
    kind = "discrete" if families.is_discrete(dist) else "continuous"
    return f"{kind}: {type(families.unwrap(dist)[0]).__name__}"


def _kinds(takes: Sequence[str]) -> str:
    discrete = [kind for kind in takes if kind in _SIZES and kind != "continuous"]
    if len(discrete) == 3:
        return "Continuous and discrete" if "continuous" in takes else "Discrete"
    text = f"Discrete ({', '.join(discrete)})" if discrete else ""
    rest = [kind for kind in takes if kind not in discrete]
    return " and ".join([*(kind[0].upper() + kind[1:] for kind in rest), text]).removesuffix(" and ")


def _exact(method: Method) -> str:
    if not method.exact_forward:
        return "No"
    return "**Yes** forward, no backward" if method.unbiased is False else "**Yes**"
