"""The folder of a run: finished pieces stay there and are not measured again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sampleprop.lab.measure.folder import replace
from sampleprop.lab.measure.results import from_lines, to_lines, to_text
from sampleprop.lab.measure.runs import Piece, Result, Settings, source

RESULTS, SETTINGS = "results.jsonl", "settings.json"


class Store:
    """Results in `results.jsonl`, and what they depend on in `settings.json`.

    Args:
        folder: made where there is none.
        settings: of the run.
        fresh: delete the results that are there.

    Raises:
        ValueError: for results of other settings, another version or another content of the user's files, and for files
            that were cut off or changed, or lack a line.
        OSError: for a folder that cannot be written.
    """

    def __init__(self, folder: Path, settings: Settings, fresh: bool = False) -> None:
        self.folder = folder
        self.results: dict[Piece, Result] = {}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RESULTS
        if fresh:
            path.unlink(missing_ok=True)
        if path.exists():
            self._refuse_others(settings)
            with _explain_odd(path):
                found = list(from_lines(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()))
            for result in found:
                self._refuse_changed(result)
                self.results[result.piece] = result
        else:
            replace(folder / SETTINGS, json.dumps(settings.describe(), indent=1) + "\n")

    def missing(self, pieces: list[Piece]) -> list[Piece]:
        """The pieces without a result, or whose measurement Ctrl-C ended early."""
        return [piece for piece in pieces if piece not in self.results or not self.results[piece].finished]

    def add(self, result: Result) -> None:
        """Keep a result. The file is replaced in one step, so that it is never half written."""
        if to_lines(result):
            self.results[result.piece] = result
            lines = [line for kept in self.results.values() for line in to_lines(kept)]
            replace(self.folder / RESULTS, to_text(lines))

    def chosen(self, pieces: list[Piece]) -> list[Result]:
        """The results of these pieces, as far as there are any."""
        return [self.results[piece] for piece in pieces if piece in self.results]

    def _refuse_others(self, settings: Settings) -> None:
        path = self.folder / SETTINGS
        with _explain_odd(path):
            there = dict(json.loads(path.read_text(encoding="utf-8")).items()) if path.exists() else {}
        here = json.loads(json.dumps(settings.describe()))
        differing = [name for name in here | there if here.get(name) != there.get(name)]
        if differing:
            raise ValueError(
                f"{self.folder} holds results of other settings, which are not mixed with these: "
                f"{'; '.join(_describe_difference(name, there.get(name), here.get(name)) for name in differing)}. "
                f"{ADVICE}"
            )

    def _refuse_changed(self, result: Result) -> None:
        problem = result.piece.problem
        path = Path(problem.rpartition(":")[0])
        if result.source and path.is_file() and source(problem) != result.source:
            raise ValueError(
                f"{self.folder} holds results of another version of {path}, which are not mixed with these. {ADVICE}"
            )


ADVICE = "Give another folder by --out, or forget them by --fresh."
SHOWN = 4  # names in a message


@contextmanager
def _explain_odd(path: Path) -> Iterator[None]:
    """Say of a file what was done to it, whatever that was."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(
            f"{path} needs to be as sampleprop wrote it; some of it was cut off or changed, or a line is missing. {ADVICE}"
        ) from error


def _describe_difference(name: str, there: Any, here: Any) -> str:
    if isinstance(there, list) and isinstance(here, list) and name == "estimators":
        changed = [*(f"without {x}" for x in there if x not in here), *(f"with {x}" for x in here if x not in there)]
        more = f" and {len(changed) - SHOWN} other changes" if len(changed) > SHOWN else ""
        return f"now {', '.join(changed[:SHOWN]) or 'in another order'}{more}"
    if name == "code":
        return "sampleprop's source was changed since"
    if name == "files":
        return "the files of the estimators were changed since"
    return f"{name.replace('_', '-')} was {_show(there)}, is {_show(here)}"


def _show(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value[:SHOWN])) + (",..." if len(value) > SHOWN else "") or "none"
    return "not given" if value is None else str(value)
