"""Estimators as they are written on the command line: `ScoreFunction, REBAR(coupled=True), my.py:Mine`."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Sequence
from typing import Any

from sampleprop.baselines.constant import Constant
from sampleprop.baselines.leave_one_out import LeaveOneOut
from sampleprop.baselines.moving_average import MovingAverage
from sampleprop.baselines.optimal_coefficient import OptimalCoefficient
from sampleprop.baselines.self_critical import SelfCritical
from sampleprop.estimator import Estimator
from sampleprop.estimators import REGISTER
from sampleprop.lab.measure import files
from sampleprop.lab.measure.mistakes import explain_file

BASELINES = (Constant, LeaveOneOut, MovingAverage, OptimalCoefficient, SelfCritical)  # those that need no function
OWN = re.compile(r"\s*([^,]+\.py:\w+)\s*")


def split(text: str) -> tuple[str, ...]:
    """The configurations of a list, each as `make_estimator` takes it; all estimators by name for "default" and "all".

    Raises:
        ValueError: for an empty list, for what is no list of names and calls, and as `make_estimator` does.
    """
    if text in ("all", "default"):
        return tuple(kind.__name__ for kind in REGISTER)
    # FILE.py:NAME is no Python expression, but its text in quotes is one.
    quoted = ",".join(repr(own[1]) if (own := OWN.fullmatch(part)) else part for part in text.split(","))
    try:
        found = ast.parse(f"[{quoted}]", mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):
        found = None
    if not isinstance(found, ast.List) or not found.elts or any(isinstance(part, ast.Starred) for part in found.elts):
        raise ValueError(
            "--estimators needs names with or without arguments, or FILE.py:NAME, separated by commas; or default, or "
            f"all; got {text!r}. Write 'ScoreFunction, REBAR(coupled=True)', say."
        )
    return tuple(_normalize(part) for part in found.elts)


def make_estimator(text: str, seed: int = 0) -> Estimator[Any, Any]:
    """The estimator of one configuration.

    Args:
        text: a name with or without arguments (numbers, texts, baselines), or FILE.py:NAME.
        seed: for what the file draws while it runs.

    Raises:
        ValueError: for an unknown name, and for arguments that its class refuses.
    """
    place = find_place(text)
    if place is not None:
        return _make_own(place, seed)
    found: Estimator[Any, Any] = _call(ast.parse(text, mode="eval").body, text, REGISTER, "estimator")
    return found


def find_place(text: str) -> files.Place | None:
    """The file and the name of FILE.py:NAME; None for an estimator of the library."""
    return files.find_place(text, "--estimators") if OWN.fullmatch(text) else None


def find_class(name: str) -> type[Estimator[Any, Any]]:
    """The class with this name or alias, in any case; or that of FILE.py:NAME.

    Raises:
        ValueError: for an unknown name.
    """
    if find_place(name):
        return type(make_estimator(name))
    found: type[Estimator[Any, Any]] = _known_as(name) or _find(name, REGISTER, "estimator")
    return found


def _known_as(name: str) -> type[Estimator[Any, Any]] | None:
    """The estimator with this alias, in any case."""
    return next((kind for kind in REGISTER if name.lower() in map(str.lower, kind.aliases)), None)


def _normalize(part: ast.expr) -> str:
    """The text of a configuration, with the name in the case of its class."""
    if isinstance(part, ast.Constant) and isinstance(part.value, str) and OWN.fullmatch(part.value):
        make_estimator(part.value)
        return part.value
    text = ast.unparse(part)
    return make_estimator(text).name + text[len(text.partition("(")[0]) :]


def _make_own(place: files.Place, seed: int) -> Estimator[Any, Any]:
    """The instance in the user's file, or one of the class there."""
    needs = f"--estimators {place} needs an estimator {place.name} in {place.path.name}"
    with files.seed_noise(seed):
        found = place.load()
        if found is None:
            raise ValueError(f"{needs}; there is none. Write the name of a class or an instance.")
        if isinstance(found, type) and issubclass(found, Estimator):
            if inspect.isabstract(found):
                missing = ", ".join(sorted(found.__abstractmethods__))
                raise ValueError(f"{needs}; got a class without {missing}. Define what is missing.")
            signature = inspect.signature(found)
            try:
                signature.bind()
            except TypeError:
                raise ValueError(
                    f"{needs} that can be made without arguments; got {place.name}{signature}. Give its arguments "
                    f"defaults, or write the name of an instance: mine = {place.name}(...)."
                ) from None
            with explain_file(place.path):
                found = found()
    if not isinstance(found, Estimator):
        raise ValueError(f"{needs}; got {found!r:.80}. Derive your class from sampleprop.Estimator.")
    return found


def _call(node: ast.expr, text: str, kinds: Sequence[type[Any]], what: str) -> Any:
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    given = [keyword.arg for keyword in call.keywords]
    starred = None in given or any(isinstance(argument, ast.Starred) for argument in call.args)
    if not isinstance(call.func, ast.Name) or starred or len(set(given)) < len(given):
        raise ValueError(
            f"--estimators needs names with arguments, each given once; got {text!r}. Write REBAR(coupled=True), say."
        )
    kind = _find(call.func.id, kinds, what)
    try:
        arguments = [_read_argument(argument, text) for argument in call.args]
        return kind(*arguments, **{str(keyword.arg): _read_argument(keyword.value, text) for keyword in call.keywords})
    except TypeError as error:
        raise ValueError(f"{text} cannot be made: {error}.") from error


def _read_argument(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Call):
        return _call(node, text, BASELINES, "baseline")
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(
            f"--estimators takes numbers, texts, True, False, None and baselines as arguments; got {text!r}. For a "
            "module of yours make the estimator in a file and write FILE.py:NAME."
        ) from error


def _find(name: str, kinds: Sequence[type[Any]], what: str) -> Any:
    known = {kind.__name__.lower(): kind for kind in kinds}
    if name.lower() in known:
        return known[name.lower()]
    alias = _known_as(name) if what == "estimator" else None
    if alias is not None:
        raise ValueError(f"There is no {what} {name!r}: here it is {alias.__name__}. `sampleprop list` prints all.")
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    suggestion = f" Perhaps {', '.join(known[c].__name__ for c in close)}." if close else ""
    listed = " `sampleprop list` prints all." if what == "estimator" else ""
    raise ValueError(f"There is no {what} {name!r}.{suggestion}{listed}")
