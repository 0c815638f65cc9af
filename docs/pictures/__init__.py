"""The pictures of the documentation. Each module has `draw`, and where it shows measured numbers `numbers`.

From the folder `docs`:

    python -m pictures                   draw every picture from the numbers in `pictures/data`
    python -m pictures hero              draw one
    python -m pictures hero --measure    measure its numbers again first

The module `outcomes` draws tables of the pages of results, and `thumbnails` one small picture for each example.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
NOT_PICTURES = ("__init__", "__main__", "style", "measure", "outcomes", "thumbnails")
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_PICTURES))


def module(name: str) -> Any:
    """What has `draw`, and maybe `numbers`, of a picture: a module, or an entry of one that draws several."""
    if name.startswith("outcomes-"):
        return module("outcomes").TABLES[name.removeprefix("outcomes-")]
    return import_module(f"pictures.{'thumbnails' if name.startswith('thumbnail-') else name}")


def data_file(name: str) -> Path:
    """Where the numbers of a picture are."""
    return FOLDER / "data" / f"{name}.json"


def drawn(name: str) -> Figure:
    """The picture of this name, from the numbers that are there."""
    if name.startswith("thumbnail-"):
        return module("thumbnails").DRAWINGS[name.removeprefix("thumbnail-")]()  # type: ignore[no-any-return]
    file = data_file(name)
    data = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    return module(name).draw(data)  # type: ignore[no-any-return]
