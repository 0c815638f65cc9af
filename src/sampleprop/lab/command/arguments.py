"""The meaning of the words on the command line, and errors for words that have none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from sampleprop.lab.measure import problems
from sampleprop.lab.measure.mistakes import Mistake, explain_refusals
from sampleprop.lab.measure.runs import Piece


@contextmanager
def report_mistakes() -> Iterator[None]:
    """End the command with one line for what sampleprop refuses."""
    try:
        with explain_refusals():
            yield
    except Mistake as error:
        raise typer.BadParameter(str(error)) from None


def pieces(names: Sequence[str], seeds: Sequence[int], t: float | None, dim: int | None) -> list[Piece]:
    """Each problem with each seed, in the order on the command line.

    Raises:
        ValueError: for an unknown problem.
    """
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
