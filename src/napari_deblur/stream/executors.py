"""Where pieces of work are done: in this process one after the other, or on the workers of a dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol, TypeVar

from napari_deblur.core.errors import DeviceError, NapariDeblurError
from napari_deblur.core.run import Run

T = TypeVar("T")
# Pieces per worker thread that wait at the scheduler, so that no worker idles and no thousands pile up.
_QUEUED_PER_THREAD = 3
_POLL_S = 0.2


class Executor(Protocol):
    """Does pieces of work, each given by the arguments of one function."""

    notes: tuple[str, ...]

    n_at_once: int

    @property
    def n_here(self) -> int:
        """How many processes share the memory of one machine."""

    @property
    def memory_bytes(self) -> int | None:
        """Memory that one piece may take, where the place of work says so."""

    def each(
        self, function: Callable[..., T], pieces: Sequence[tuple[Any, ...]], run: Run, message: str
    ) -> Iterator[tuple[int, T]]:
        """Do all pieces and yield their numbers and results as they are done.

        Raises
        ------
        CancelledError
            If the run is cancelled; pieces that were yielded are done.
        """


class Here:
    """The process itself.

    Parameters
    ----------
    n_at_once : int
        How many pieces are at work at the same time. They compute one after the other, as the engine has one
        job at a time; with two, one is read or written while the other is computed.
    """

    n_here = 1
    memory_bytes: int | None = None
    notes: tuple[str, ...] = ()

    def __init__(self, n_at_once: int = 1) -> None:
        self.n_at_once = n_at_once

    def each(
        self, function: Callable[..., T], pieces: Sequence[tuple[Any, ...]], run: Run, message: str
    ) -> Iterator[tuple[int, T]]:
        """Do all pieces; ``function`` gets a keyword ``run`` with its share of the progress."""
        if self.n_at_once == 1:
            for number, arguments in enumerate(pieces):
                yield number, function(*arguments, run=_part(run, number, len(pieces), message))
            return
        waiting = iter(enumerate(pieces))
        held: dict[Future[T], int] = {}
        with ThreadPoolExecutor(self.n_at_once, thread_name_prefix="block") as pool:
            try:
                while True:
                    for number, arguments in islice(waiting, self.n_at_once - len(held)):
                        part = _part(run, number, len(pieces), message)
                        held[pool.submit(function, *arguments, run=part)] = number
                    if not held:
                        return
                    for future in wait(held, return_when=FIRST_COMPLETED).done:
                        yield held.pop(future), future.result()
            finally:
                for future in held:
                    future.cancel()


def here() -> Here:
    """Return this process; beside a graphics card it reads and writes while the card computes."""
    from napari_deblur.engine.shared import get_engine

    return Here(n_at_once=1 if get_engine().device == "cpu" else 2)


def _part(run: Run, number: int, count: int, message: str) -> Run:
    """Return a piece's share of a run, with remarks of its own; a cancel takes effect here."""
    part = run.part(number, number + 1, count)
    part.notes, part.facts = [], {}
    part.step(0, 1, f"{message} {number + 1} of {count}")
    return part


class OnCluster:
    """The workers of a dask cluster, which must see the same files under the same paths.

    A piece whose worker dies is given to another one. The results themselves are on the disk, so nothing is
    lost with a worker but what it was computing.

    Parameters
    ----------
    client : dask.distributed.Client
    notes : tuple of str
        What the user should know of the cluster.
    elsewhere : bool
        Whether the workers' own limits say what memory there is, rather than this machine.
    """

    def __init__(self, client: Any, notes: tuple[str, ...] = (), *, elsewhere: bool = True) -> None:
        self._client, self._elsewhere = client, elsewhere
        self.notes = notes
        self.n_at_once = 1

    @property
    def n_here(self) -> int:
        """Most workers on one machine."""
        hosts = [worker["host"] for worker in self._workers()]
        return max((hosts.count(host) for host in hosts), default=1)

    @property
    def memory_bytes(self) -> int | None:
        """Smallest memory limit of a worker, shared among its threads; ``None`` where none is set."""
        if not self._elsewhere:
            return None
        limits = [
            int(worker["memory_limit"] / max(worker["nthreads"], 1))
            for worker in self._workers()
            if worker["memory_limit"]
        ]
        return min(limits, default=None)

    def _workers(self) -> list[dict[str, Any]]:
        try:
            info = self._client.scheduler_info(n_workers=-1)
        except TypeError:  # before dask 2025.4, which lists only some unless asked
            info = self._client.scheduler_info()
        return list(info["workers"].values())

    def each(
        self, function: Callable[..., T], pieces: Sequence[tuple[Any, ...]], run: Run, message: str
    ) -> Iterator[tuple[int, T]]:
        """Do all pieces, a few per worker at a time; a cancel takes back what has not started."""
        waiting = iter(enumerate(pieces))
        held: dict[Any, int] = {}
        done = 0
        try:
            while True:
                threads = sum(self._client.nthreads().values())
                room = max(1, _QUEUED_PER_THREAD * threads) - len(held)  # below 0 once a worker has died
                for number, arguments in islice(waiting, max(0, room)):
                    held[self._client.submit(function, *arguments, pure=False)] = number
                if not held:
                    return
                state = f"{message} {done} of {len(pieces)}" + ("" if threads else ", waiting for workers")
                run.step(done, len(pieces), state)
                for future in self._finished(held):
                    number = held.pop(future)
                    done += 1
                    yield number, _result(future, f"{message} {number + 1}")
        finally:
            if held:
                self._client.cancel(list(held), force=True)

    def _finished(self, held: dict[Any, int]) -> list[Any]:
        """Return the futures that are done, after a short wait if none is."""
        from distributed import wait as wait_for

        if self._client.status != "running":
            raise DeviceError("the dask scheduler has gone")
        # The program around us may have a default client of its own, on another cluster.
        with suppress(TimeoutError), self._client.as_current():
            wait_for(list(held), timeout=_POLL_S, return_when="FIRST_COMPLETED")  # type: ignore[no-untyped-call]
        return [future for future in held if future.done()]


def _result(future: Any, what: str) -> Any:
    """Return what a piece of work gave, its error as ours."""
    from distributed import KilledWorker

    try:
        return future.result()
    except NapariDeblurError:
        raise
    except KilledWorker as error:
        raise DeviceError(
            f"{what} failed: {error.allowed_failures + 1} workers died of it one after the other, "
            "as they do when memory runs out: use smaller blocks, or workers with more memory"
        ) from error
    except Exception as error:
        if future.cancelled():
            raise DeviceError(f"{what} was taken off the dask scheduler") from error
        raise
