"""Who measures the pieces: this process, several processes, or a Dask cluster."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import chdir, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol, TypeVar

from rich.console import Console

from sampleprop.diagnostics.comparing.compare import Progress
from sampleprop.lab.measure import progress
from sampleprop.lab.measure.mistakes import Mistake
from sampleprop.lab.measure.runs import Piece


class Measured(Protocol):
    """What was measured of a piece; all of it, if it is finished."""

    @property
    def piece(self) -> Piece:
        """Of which piece."""

    @property
    def finished(self) -> bool:
        """Whether it was measured to the end, without Ctrl-C."""


Result = TypeVar("Result", bound=Measured)
Found = TypeVar("Found", bound=Measured, covariant=True)


class Work(Protocol[Found]):
    """The settings of a run, which know how a piece is measured."""

    def measure(self, piece: Piece, progress: Progress | None = None, jobs: int = 1) -> Found:
        """Measure a piece, of which `jobs` are measured at a time."""


def results(
    pieces: Sequence[Piece],
    settings: Work[Result],
    *,
    jobs: int = 1,
    dask: str | None = None,
    console: Console,
    broken: list[str],
) -> Generator[Result]:
    """Measure the pieces, and yield each as soon as it is finished, in any order.

    Args:
        pieces: what to measure.
        settings: of all pieces.
        jobs: how many at a time; more than one run in separate processes.
        dask: the address of a scheduler, whose workers measure instead.
        console: where the progress is shown.
        broken: gets a line for each piece that ended its worker (out of memory, say).

    Raises:
        Mistake: for a cluster that cannot be reached, that has no workers, or whose workers have several threads; and
            for a problem that cannot be measured.
        ModuleNotFoundError: for `dask` without dask.distributed.
    """
    if not pieces or (dask is None and min(jobs, len(pieces)) == 1):
        return _here(pieces, settings, console)
    if dask is None:
        return _survived(pieces, settings, min(jobs, len(pieces)), console, broken)
    return _cluster(pieces, settings, dask, console)


def _here(pieces: Sequence[Piece], settings: Work[Result], console: Console) -> Generator[Result]:
    for i, piece in enumerate(pieces, start=1):
        if len(pieces) > 1:
            console.print(f"{i} of {len(pieces)}: {piece}", highlight=False)
        with progress.show_progress(console) as report:
            result = settings.measure(piece, report)
        yield result
        if not result.finished:
            return


def _survived(
    pieces: Sequence[Piece], settings: Work[Result], jobs: int, console: Console, broken: list[str]
) -> Generator[Result]:
    """As `_apart`, where a worker may be killed: its piece is not known then, so those left get a worker each."""
    from joblib.externals.loky.process_executor import BrokenProcessPool

    left = list(pieces)
    for group, at_once in ((pieces, jobs), *(((piece,), 2) for piece in pieces)):
        group = [piece for piece in group if piece in left]
        try:
            for result in _apart(group, settings, at_once, console) if group else ():
                left.remove(result.piece)
                yield result
        except BrokenProcessPool:
            if len(group) == 1:
                broken.append(f"{group[0]}: its process was killed. Too little memory is the usual cause: see dmesg.")


def _apart(pieces: Sequence[Piece], settings: Work[Result], jobs: int, console: Console) -> Generator[Result]:
    from joblib import Parallel, delayed

    # One piece at a time for each process: pieces take seconds to hours, and each is stored when it is finished.
    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
    work = (delayed(_measure)(piece, settings, jobs, Path.cwd()) for piece in pieces)
    with closing(parallel(work)) as found, progress.count_pieces(console, len(pieces)) as report:
        for result in found:
            report(str(result.piece))
            yield result


def _measure(piece: Piece, settings: Work[Result], jobs: int, folder: Path) -> Result:
    """In a worker, which may have been started in another folder: FILE.py:NAME is the same file there as here."""
    with chdir(folder) if folder.is_dir() else nullcontext():
        return settings.measure(piece, jobs=jobs)


def _cluster(pieces: Sequence[Piece], settings: Work[Result], address: str, console: Console) -> Generator[Result]:
    with _client(address) as workers:
        from joblib import parallel_config

        with parallel_config(backend="dask"):
            yield from _apart(pieces, settings, workers, console)


@contextmanager
def _client(address: str) -> Iterator[int]:
    """Connect, and yield the number of workers."""
    from distributed import Client

    try:
        client = Client(address, set_as_default=True)
    except (OSError, ValueError) as error:
        raise Mistake(f"--dask needs the address of a running scheduler; got {address}: {error}.") from error
    with client:
        threads = client.nthreads()
        if not threads or max(threads.values()) > 1:
            got = f"workers with up to {max(threads.values())} threads" if threads else "none"
            raise Mistake(
                "--dask needs workers with one thread each, since threads would share torch's random state; got "
                f"{got}. Start them with: dask worker {address} --nthreads 1 --nworkers 4"
            )
        yield len(threads)
