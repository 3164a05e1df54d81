"""Dask clusters to work on: one that runs already, or one of this machine's own processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from napari_deblur.core.errors import DeviceError, InvalidInputError
from napari_deblur.stream.executors import OnCluster

_WAIT_S = 10
_WORKERS_WAIT_S = 30
_ANSWER_S = 60
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@contextmanager
def on_scheduler(address: str) -> Iterator[OnCluster]:
    """Work on a dask cluster that runs already.

    Parameters
    ----------
    address : str
        Of its scheduler, such as ``tcp://host:8786``.

    Raises
    ------
    InvalidInputError
        If the extra 'batch' is missing, no scheduler answers there, or it has no workers.
    DeviceError
        If the workers have another version of this package, or none.
    """
    client = _client(address, "scheduler", repr(address))
    try:
        try:
            client.wait_for_workers(1, timeout=_WORKERS_WAIT_S)
        except TimeoutError:
            rule = f"must have a worker within {_WORKERS_WAIT_S} s"
            raise InvalidInputError("scheduler", rule, repr(address)) from None
        _check_versions(client)
        yield OnCluster(client, _about_cards(client))
    finally:
        client.close()


@contextmanager
def on_workers(n_workers: int, device: str = "auto") -> Iterator[OnCluster]:
    """Work in processes of this machine, which end with the block.

    Every process gets one graphics card for itself, as long as there are enough, and its share of the cores.

    Parameters
    ----------
    n_workers : int
    device : {"auto", "cuda", "mps", "cpu"}
        What each of them computes on.

    Raises
    ------
    InvalidInputError
        If the extra 'batch' is missing or there are no workers.
    """
    if n_workers < 1:
        raise InvalidInputError("workers", "must be at least 1", n_workers)
    _require("workers", n_workers)
    from distributed import Scheduler, SpecCluster

    workers = worker_specs(n_workers, device)
    quiet = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, **quiet}}
    with SpecCluster(workers, scheduler, silence_logs=50) as cluster:  # type: ignore[no-untyped-call]
        client = _client(cluster, "workers", n_workers)
        try:
            yield OnCluster(client, elsewhere=False)
        finally:
            with suppress(Exception):  # what goes wrong at the end must not hide what went wrong before
                client.close()


def worker_specs(n_workers: int, device: str) -> dict[int, dict[str, Any]]:
    """Return what dask needs to start the processes: each with its card, its cores and its memory."""
    import psutil
    from distributed import Nanny

    cards = _cards() if device in ("auto", "cuda") else []
    cores = max(1, (os.cpu_count() or 1) // n_workers)
    workers = {}
    for number in range(n_workers):
        threads = os.environ.get("OMP_NUM_THREADS", str(cores))
        env = {"NAPARI_DEBLUR_DEVICE": device, "OMP_NUM_THREADS": threads}
        if cards:
            env[_VISIBLE] = cards[number % len(cards)]
        options = {"nthreads": 1, "memory_limit": psutil.virtual_memory().total // n_workers, "env": env}
        workers[number] = {"cls": Nanny, "options": {**options, "dashboard": False, "host": "127.0.0.1"}}
    return workers


def _about_cards(client: Any) -> tuple[str, ...]:
    """Remark workers that compute on one graphics card, and slow each other down there."""
    try:
        found = client.run(_card, callback_timeout=_ANSWER_S).values()
    except TimeoutError:  # no reason not to work
        return ()
    cards = [card for card in found if card is not None]
    shared = {card for card in cards if cards.count(card) > 1}
    if not shared:
        return ()
    return (f"{len(cards)} workers share {len(set(cards))} graphics cards: give each its own {_VISIBLE}.",)


def _card() -> str | None:
    """Return what tells this process's graphics card from all others."""
    from napari_deblur.engine.shared import get_engine

    if get_engine().device != "cuda":
        return None
    import torch

    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


def _cards() -> list[str]:
    """Return this machine's graphics cards as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    visible = [card for card in os.environ.get(_VISIBLE, "").split(",") if card]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return visible[:count] or [str(number) for number in range(count)]


def _require(argument: str, received: Any) -> None:
    from importlib.util import find_spec

    try:
        found = find_spec("distributed") is not None
    except ValueError:  # forbidden rather than missing
        found = False
    if not found:
        rule = "needs the extra 'batch' (pip install \"napari-deblur[batch]\")"
        raise InvalidInputError(argument, rule, received)


def _client(address: Any, argument: str, received: Any) -> Any:
    _require(argument, received)
    from distributed import Client

    # In two steps, to have it in hand when it fails: a client left to the garbage collection closes itself
    # there, under a lock that another client may hold in the same thread just then, which waits for ever.
    client: Any = Client.__new__(Client)
    try:
        client.__init__(address, timeout=_WAIT_S, set_as_default=False)
    except BaseException as error:
        with suppress(Exception):  # what went wrong before is what to say
            client.close()
        if not isinstance(error, (OSError, ValueError)):
            raise
        rule = f"must be the address of a scheduler that answers ({type(error).__name__})"
        raise InvalidInputError(argument, rule, received) from error
    return client


def _version() -> str:
    from napari_deblur import __version__

    return __version__


def _check_versions(client: Any) -> None:
    """Refuse workers that would compute something else."""
    try:
        found = set(client.run(_version, callback_timeout=_ANSWER_S).values())
    except Exception as error:  # whatever a worker without the package answers
        raise DeviceError(f"the workers must have napari-deblur {_version()} installed ({error})") from error
    if found != {_version()}:
        versions = ", ".join(sorted(found))
        raise DeviceError(f"the workers must have napari-deblur {_version()}; they have {versions}")
