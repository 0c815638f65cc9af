"""The meaning of the words on the command line, and what is said of words that have none.

Nothing here imports torch: `--help` and the completion of the shell read these files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from sampleprop.lab.measure.runs import Piece


@contextmanager
def report_mistakes() -> Iterator[None]:
    """End the command with one line for what sampleprop refuses, and for what a file of the user's raises."""
    from sampleprop.lab.measure.mistakes import FAILED, BrokenFileError, FailedError, Mistake, explain_refusals

    try:
        with explain_refusals():
            yield
    except BrokenFileError as error:
        end(str(error), 2)
    except FailedError as error:
        end(str(error), FAILED)
    except Mistake as error:
        raise typer.BadParameter(str(error)) from None


def end(text: str, status: int) -> NoReturn:
    """Say one line on standard error, and end the command with this exit status."""
    typer.echo(text, err=True)
    raise typer.Exit(status) from None


def require_one_form(json: bool, markdown: bool) -> None:
    """Refuse to print in both forms."""
    if json and markdown:
        raise typer.BadParameter("--json and --markdown are two forms of the same; got both. Leave one of them out.")


def complete(known: Callable[[], Sequence[str]], separator: str = "") -> Callable[[str], list[str]]:
    """The completion of a name by the shell; with a separator, of the last name of a list."""

    def completion(incomplete: str) -> list[str]:
        before, found, last = incomplete.rpartition(separator) if separator else ("", "", incomplete)
        return [before + found + name for name in known() if name.startswith(last)]

    return completion


def pieces(names: Sequence[str], seeds: Sequence[int], t: float | None, dim: int | None) -> list[Piece]:
    """Each problem with each seed, in the order on the command line.

    Raises:
        ValueError: for an unknown problem.
    """
    from sampleprop.lab.measure import problems
    from sampleprop.lab.measure.runs import Piece

    for name in names:
        problems.find(name)
    if "toy" not in names:
        problems.find(names[0], t=t, dim=dim)  # refuses t and dim
    return [Piece(name, seed) for name in dict.fromkeys(names) for seed in seeds]


def seeds(first: int, text: str | None) -> Sequence[int]:
    """One seed; this number of seeds from the first on; or those of a list."""
    if text is None:
        return [first]
    if "," in text:
        return whole("--seeds", text)
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"--seeds needs a number of seeds, or a list of them; got {text!r}. Write 5, or 0,3,7.")
    return range(first, first + int(text))


def budgets(text: str | None) -> tuple[int, ...] | None:
    """The further budgets; None where the command gives none and they follow from the budget."""
    if text is None:
        return None
    if text == "none":
        return ()
    numbers = whole("--budgets", text)
    if min(numbers) < 1:
        raise ValueError(f"--budgets needs budgets of at least 1 evaluation; got {text!r}.")
    return numbers


def whole(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers, each once.

    Raises:
        ValueError: for anything else.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.removeprefix("-").isdigit() for part in parts):
        raise ValueError(f"{option} needs whole numbers, separated by commas; got {text!r}. Write 2,4,8, say.")
    return tuple(dict.fromkeys(int(part) for part in parts))
