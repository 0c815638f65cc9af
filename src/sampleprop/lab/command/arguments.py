"""What the words on the command line mean."""

from __future__ import annotations

from collections.abc import Sequence

from sampleprop.lab.measure import problems
from sampleprop.lab.measure.runs import Piece


def pieces(names: Sequence[str], seeds: Sequence[int], t: float | None, dim: int | None) -> list[Piece]:
    """Each problem with each seed, in the order of the command.

    Raises:
        ValueError: for an unknown problem, before anything is measured.
    """
    for name in names:
        problems.find(name)
    if "toy" not in names:
        problems.find(names[0], t=t, dim=dim)  # refuses them
    return [Piece(name, seed) for name in dict.fromkeys(names) for seed in seeds]


def seeds(first: int, text: str | None) -> Sequence[int]:
    """One seed; so many from the first on; or those of a list."""
    if text is None:
        return [first]
    if "," in text:
        return _whole("--seeds", text)
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"--seeds needs a number of seeds, or a list of them; got {text!r}. Write 5, or 0,3,7.")
    return range(first, first + int(text))


def budgets(text: str | None) -> tuple[int, ...] | None:
    """The further budgets; None where they follow from the budget."""
    if text is None:
        return None
    if text == "none":
        return ()
    numbers = _whole("--budgets", text)
    if min(numbers) < 1:
        raise ValueError(f"--budgets needs budgets of at least 1 evaluation; got {text!r}.")
    return numbers


def _whole(option: str, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.removeprefix("-").isdigit() for part in parts):
        raise ValueError(f"{option} needs whole numbers, separated by commas; got {text!r}. Write 2,4,8, say.")
    return tuple(dict.fromkeys(int(part) for part in parts))
