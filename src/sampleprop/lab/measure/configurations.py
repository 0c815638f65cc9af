"""Estimators as they are written on the command line: `ScoreFunction, REBAR(coupled=True)`."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence
from typing import Any

from sampleprop.baselines.constant import Constant
from sampleprop.baselines.leave_one_out import LeaveOneOut
from sampleprop.baselines.moving_average import MovingAverage
from sampleprop.baselines.optimal_coefficient import OptimalCoefficient
from sampleprop.baselines.self_critical import SelfCritical
from sampleprop.estimator import Estimator
from sampleprop.estimators import REGISTER

BASELINES = (Constant, LeaveOneOut, MovingAverage, OptimalCoefficient, SelfCritical)  # those that need no function


def split(text: str) -> tuple[str, ...]:
    """The configurations of a list, each as `made` takes it, or the whole register by name.

    Raises:
        ValueError: for an empty list, for what is no list of names and calls, and as `made` does.
    """
    if text in ("all", "default"):
        return tuple(kind.__name__ for kind in REGISTER)
    try:
        found = ast.parse(f"[{text}]", mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):
        found = None
    if not isinstance(found, ast.List) or not found.elts or any(isinstance(part, ast.Starred) for part in found.elts):
        raise ValueError(
            f"--estimators needs names, separated by commas, with arguments if you like, or default, or all; got {text!r}. "
            "Write 'ScoreFunction, REBAR(coupled=True)', say."
        )
    texts = [ast.unparse(part) for part in found.elts]
    return tuple(made(part).name + part[len(part.partition("(")[0]) :] for part in texts)


def made(text: str) -> Estimator[Any]:
    """The estimator of one configuration, a name with or without arguments: numbers, texts, baselines.

    Raises:
        ValueError: for a name that there is not, and for arguments that its class refuses.
    """
    found: Estimator[Any] = _called(ast.parse(text, mode="eval").body, text, REGISTER, "estimator")
    return found


def named(names: Sequence[str]) -> list[type[Estimator[Any]]]:
    """The estimators of these names, in any case.

    Raises:
        ValueError: for one that there is not.
    """
    return [_found(name, REGISTER, "estimator") for name in names]


def _called(node: ast.expr, text: str, kinds: Sequence[type[Any]], what: str) -> Any:
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    given = [keyword.arg for keyword in call.keywords]
    starred = None in given or any(isinstance(argument, ast.Starred) for argument in call.args)
    if not isinstance(call.func, ast.Name) or starred or len(set(given)) < len(given):
        raise ValueError(
            f"--estimators needs names with arguments, each given once; got {text!r}. Write REBAR(coupled=True), say."
        )
    kind = _found(call.func.id, kinds, what)
    try:
        arguments = [_argument(argument, text) for argument in call.args]
        return kind(*arguments, **{str(keyword.arg): _argument(keyword.value, text) for keyword in call.keywords})
    except TypeError as error:
        raise ValueError(f"{text} cannot be made: {error}.") from error


def _argument(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Call):
        return _called(node, text, BASELINES, "baseline")
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(
            f"--estimators takes numbers, texts, True, False, None and baselines as arguments; got {text!r}. For a module of yours "
            "call sampleprop.compare in Python."
        ) from error


def _found(name: str, kinds: Sequence[type[Any]], what: str) -> Any:
    known = {kind.__name__.lower(): kind for kind in kinds}
    if name.lower() in known:
        return known[name.lower()]
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    suggestion = f" Perhaps {', '.join(known[c].__name__ for c in close)}." if close else ""
    listed = " `sampleprop list` prints all." if what == "estimator" else ""
    raise ValueError(f"There is no {what} {name!r}.{suggestion}{listed}")
