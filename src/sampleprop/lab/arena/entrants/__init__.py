"""Who enters the arena: the register, some of its configurations, and newer estimators that are not in the register.

A newer estimator has a file of its own here. It enters the register if it earns that by the rule. `ENTRANTS` is the one
place where it is named.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

import sampleprop
from sampleprop.estimator import Estimator
from sampleprop.estimators import REGISTER
from sampleprop.lab.arena.entrants.finite_order import FiniteOrder
from sampleprop.lab.arena.entrants.reinmax_control import ReinMaxControl
from sampleprop.lab.arena.entrants.reinmax_rao import ReinMaxRao
from sampleprop.lab.arena.entrants.sobol_strategies import SobolStrategies
from sampleprop.lab.measure import configurations
from sampleprop.programs.coupled_replay import CoupledReplay

ENTRANTS: dict[str, Callable[[], Estimator[Any, Any]]] = {
    "FiniteOrder": FiniteOrder,
    "FiniteOrder(degree=3)": partial(FiniteOrder, degree=3),
    "ReinMaxControl": ReinMaxControl,
    "ReinMaxRao": ReinMaxRao,
    "SobolStrategies": SobolStrategies,
}

# Configurations beside the defaults, where the literature has them under a name of their own.
FURTHER = (
    "ScoreFunction(baseline=Constant(0))",
    "ScoreFunction(baseline=MovingAverage())",
    "ScoreFunction(baseline=SelfCritical())",
    "ScoreFunction(baseline=OptimalCoefficient())",
    "ARMS(copula='dirichlet')",
    "CARMS(copula='dirichlet')",
    "MuProp(learn=True)",
    "REBAR(coupled=True)",
    "RELAX(use_f=False)",
    "CoupledReplay",
)


def known() -> tuple[str, ...]:
    """Every entrant of the suite, as `make` takes it. Estimators of a bound or an ELBO have no problem here."""
    register = [kind.__name__ for kind in REGISTER if kind.objective == "mean"]
    return (*register, *FURTHER, *ENTRANTS)


def make(text: str, seed: int = 0) -> Estimator[Any, Any] | CoupledReplay:
    """The entrant of this name or configuration, or of FILE.py:NAME.

    Raises:
        ValueError: for an unknown one.
    """
    if text == "CoupledReplay":
        return CoupledReplay()
    if text in ENTRANTS:
        return ENTRANTS[text]()
    return configurations.make_estimator(text, seed)


def digest(entrant: Estimator[Any, Any] | CoupledReplay) -> str:
    """A digest of the code of an entrant and its parts, without docstrings: rows of other code are not mixed."""
    parts = list(entrant.modules()) if isinstance(entrant, nn.Module) else [entrant]
    files = {
        file
        for part in parts
        for kind in type(part).__mro__
        if kind is not Estimator
        and (file := inspect.getsourcefile(kind) if kind.__module__ != "builtins" else None) is not None
        and _own(kind)
    }
    code = hashlib.sha256()
    for file in sorted(files, key=lambda file: Path(file).name):
        code.update(_code(Path(file)).encode())
    return code.hexdigest()[:16]


def _own(kind: type) -> bool:
    """Whether a class is of sampleprop or of the user's file, and not of torch or Python."""
    package = kind.__module__.partition(".")[0]
    return package == sampleprop.__name__ or package.startswith("sampleprop_file_")


def _code(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    return ast.dump(tree)
