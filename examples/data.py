"""Images for the examples, with no network: scikit-learn's handwritten digits, Fashion-MNIST and MNIST.

The digits (1797 images of 8 × 8 pixels) come with scikit-learn. The other two (70,000 images of 28 × 28 pixels) are
read from
their IDX files, as they were published or unpacked: Fashion-MNIST from where Debian's package dataset-fashion-mnist
puts it, or from a folder of yours; MNIST from a folder of yours.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

NAMES = ("digits", "fashion-mnist", "mnist")
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package
FILES = {"training": "train", "held_out": "t10k"}  # how the published files' names begin
BYTES = 8  # the code of unsigned bytes, the only type that these data sets have
DIGITS_FOR_TRAINING = 1500


class Images(NamedTuple):
    images: Tensor  # [N, pixels], in [0, 1]
    labels: Tensor  # [N], int64


class Data(NamedTuple):
    training: Images
    held_out: Images
    side: int  # pixels = side²


def load(name: str = "digits", folder: Path | None = None) -> Data:
    """Read a data set by its name.

    Args:
        name: one of `NAMES`.
        folder: where the four IDX files of "fashion-mnist" or "mnist" are; None for where Debian puts the former.

    Raises:
        FileNotFoundError: where files are missing; the message says how to get them.
        ValueError: for another name, and for files that are no IDX files of images and their labels.
    """
    if name not in NAMES:
        raise ValueError(f"The examples need data named {', '.join(NAMES)}; got {name!r}.")
    if name == "digits":
        return _digits()
    parts = {part: _part(name, _folder(name, folder), prefix) for part, prefix in FILES.items()}
    pixels = {part: x.images.shape[1] for part, x in parts.items()}
    if pixels["training"] != pixels["held_out"]:
        raise ValueError(
            f"{name} needs images of one size; got {pixels} pixels. Put the four files of one data set there."
        )
    return Data(**parts, side=math.isqrt(pixels["training"]))


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of bytes, packed by gzip or not: a uint8 tensor of the file's shape.

    Raises:
        ValueError: for a file that is not of this form, or does not have as many bytes as its head says.
    """
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError) as error:
            raise ValueError(f"{path} needs to be a whole gzip file; got: {error}. Get the file again.") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != BYTES or content[3] == 0:
        raise ValueError(
            f"{path} needs the magic number 0x000008NN of an IDX file of bytes; got 0x{content[:4].hex()}. Is it the "
            f"right file?"
        )
    start = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:start]) if len(content) >= start else ()
    if not shape or len(content) != start + math.prod(shape):
        wanted = f"{start} bytes of head" if not shape else f"{start + math.prod(shape)} bytes for shape {list(shape)}"
        raise ValueError(f"{path} needs {wanted}; got {len(content)}. Get the file again.")
    # A copy: torch wants memory that may be written to.
    return torch.frombuffer(bytearray(content[start:]), dtype=torch.uint8).view(shape)


def _digits() -> Data:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.data / 16).float()  # [1797, 64]
    labels = torch.tensor(digits.target)
    # Always the same images are held out, whatever the seed of the training.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    training, held_out = order[:DIGITS_FOR_TRAINING], order[DIGITS_FOR_TRAINING:]
    return Data(Images(images[training], labels[training]), Images(images[held_out], labels[held_out]), 8)


def _folder(name: str, folder: Path | None) -> Path:
    where = folder if folder is not None or name == "mnist" else FASHION_MNIST
    files = [f"{prefix}-{kind}" for prefix in FILES.values() for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    debian = "apt install dataset-fashion-mnist, or " if name == "fashion-mnist" else ""
    fix = (
        f"Do this: {debian}put these into a folder and give it as --folder: {', '.join(files)} (each as it is, or .gz)."
    )
    if where is None:
        raise FileNotFoundError(f"{name} needs a folder with its four IDX files; got none. {fix}")
    missing = [file for file in files if _find(where, file) is None]
    if missing:
        raise FileNotFoundError(f"{name} needs four IDX files; {where} lacks {', '.join(missing)}. {fix}")
    return where


def _find(folder: Path, file: str) -> Path | None:
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)


def _part(name: str, folder: Path, prefix: str) -> Images:
    images, labels = _find(folder, f"{prefix}-images-idx3-ubyte"), _find(folder, f"{prefix}-labels-idx1-ubyte")
    assert images is not None
    assert labels is not None
    x, y = read_idx(images), read_idx(labels)
    if x.dim() != 3 or x.shape[1] != x.shape[2] or y.shape != x.shape[:1]:
        raise ValueError(
            f"{name} needs square images [N, side, side] and labels [N]; got {list(x.shape)} in {images.name} and "
            f"{list(y.shape)} in {labels.name}. Put the four files of one data set into {folder}."
        )
    return Images(x.flatten(1).float() / 255, y.long())
