"""One job at a time in another thread, with progress and a cancel that takes effect within an iteration."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from napari.qt.threading import GeneratorWorker, create_worker
from napari.utils.notifications import notification_manager, show_error
from qtpy.QtCore import QCoreApplication, QObject
from qtpy.QtWidgets import QWidget

from napari_deblur.core.errors import CancelledError, NapariDeblurError
from napari_deblur.core.run import Progress, Run
from napari_deblur.ui.qt import Signal, alive

# Progress is shown at most this often; a signal for each of thousands of tiles would choke the window.
_SHORTEST_PAUSE_S = 0.05
# Whoever is done soon shows nothing on the way.
_FIRST_IMAGE_S, _IMAGE_PAUSE_S = 1.0, 0.5


class LiveView(Protocol):
    """What shows a run's result so far; used in the window's thread."""

    def show(self, found: Any) -> None:
        """Show it."""

    def end(self) -> None:
        """Show nothing any more, whatever became of the run."""


@dataclass(eq=False)
class Job:
    """Something to compute for a dock.

    Attributes
    ----------
    title : str
        What it does, for the status line and for napari's question when the window is closed meanwhile.
    work : callable
        Takes a `Run`; called in the worker's thread.
    done : callable
        Takes what ``work`` returned; called in the window's thread if the owner still exists.
    owner : QWidget
    live : LiveView or None
        Shows what the run has so far, now and then.
    run : Run
    dropped : bool
        Whether nobody waits for the result any more.
    value : object
        What ``work`` returned, until ``done`` has it.
    error : Exception or None
        What ``work`` raised.
    """

    title: str
    work: Callable[[Run], Any]
    done: Callable[[Any], None]
    owner: QWidget
    live: LiveView | None = None
    run: Run = field(default_factory=Run)
    dropped: bool = False
    value: Any = None
    error: Exception | None = None

    def let_go(self) -> None:
        """Forget everything that may hold pixels: Qt and napari keep finished workers and what they sent."""
        self.work, self.done, self.live = _nothing, _nothing, None
        self.value, self.run.on_progress = None, None
        if isinstance(self.error, NapariDeblurError):
            self.error.__traceback__ = None
            if isinstance(self.error, CancelledError):
                self.error.partial = None
        self.error = None


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes
    ----------
    job : Job
    seconds : float
    error : Exception or None
    """

    job: Job
    seconds: float
    error: Exception | None = None


class _Task(partial[Any]):
    """A job as napari wants it, shown by its title."""

    def __str__(self) -> str:
        return str(self.args[0].title)


class _StepWorker(GeneratorWorker):  # type: ignore[misc] # napari is untyped
    """A worker whose end, asked for by napari when the window closes, ends the run at its next iteration."""

    def __init__(self, task: _Task) -> None:
        super().__init__(task)
        self._run = task.args[0].run

    def quit(self) -> None:
        """End the run and drop its result."""
        self._run.cancel()
        super().quit()


def _compute(job: Job) -> Generator[None, None, Outcome]:
    # A generator, because napari gives only those a way to be ended; errors are carried, not raised, so that
    # each is shown once, in our words.
    yield None
    started = time.perf_counter()
    try:
        job.value = job.work(job.run)
    except Exception as error:
        job.error = error
    return Outcome(job, time.perf_counter() - started, job.error)


class JobBoard(QObject):
    """The place where all docks of all windows see the one job that runs.

    Signals
    -------
    changed
        A job began or ended.
    progressed (Job, Progress)
    ended (Outcome)
        After the job's ``done`` was called.
    """

    changed = Signal()
    progressed = Signal(object, object)
    _came = Signal(object, object)
    ended = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.current: Job | None = None
        self.worker: Any = None
        self._last_shown = self._last_seen = 0.0
        self._came.connect(self._show)

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self.current is not None

    def start(self, job: Job) -> bool:
        """Start a job; False if another one runs."""
        if self.current is not None:
            return False
        self.current = job
        self._last_shown, self._last_seen = 0.0, time.perf_counter() + _FIRST_IMAGE_S - _IMAGE_PAUSE_S
        job.run.on_progress = partial(self._report, job)
        self.worker = create_worker(_Task(_compute, job), _worker_class=_StepWorker, _ignore_errors=True)
        self.worker.returned.connect(self._returned)
        self.worker.finished.connect(self._finished)
        self.changed.emit()
        self.worker.start()
        return True

    def cancel(self) -> None:
        """Cancel the job that runs; what it has so far is kept."""
        if self.current is not None:
            self.current.run.cancel()

    def drop(self, owner: QWidget) -> None:
        """Cancel the job of a dock that goes away, and forget its result."""
        if self.current is not None and self.current.owner is owner:
            self.current.dropped = True
            self.current.run.cancel()

    def _report(self, job: Job, progress: Progress) -> None:
        """Pass progress on from the worker's thread; a signal brings it to the window's."""
        now = time.perf_counter()
        shown, so_far = progress.shown, progress.partial
        due = job.live is not None and now - self._last_seen >= _IMAGE_PAUSE_S
        if due and shown is not None and so_far is not None:
            self._came.emit(job, shown(so_far))
            self._last_seen = time.perf_counter()
        if now - self._last_shown < _SHORTEST_PAUSE_S and progress.fraction < 1:
            return
        self._last_shown = now
        self.progressed.emit(job, progress)

    def _show(self, job: Job, image: Any) -> None:
        if job is self.current and job.live is not None and not job.dropped and alive(job.owner):
            job.live.show(image)

    def _returned(self, outcome: Outcome) -> None:
        job = outcome.job
        if job.dropped or not alive(job.owner):
            return
        if outcome.error is None:
            try:
                job.done(job.value)
            except Exception as error:
                outcome = Outcome(job, outcome.seconds, error)
        if outcome.error is not None:
            show_failure(outcome.error)
        self.ended.emit(outcome)

    def _finished(self) -> None:
        job, self.current, self.worker = self.current, None, None
        if job is not None:
            if job.live is not None:
                job.live.end()
            job.let_go()
        self.changed.emit()


def _nothing(_: Any) -> None:
    return None


def in_words(error: Exception) -> str:
    """Return a line for the user about what went wrong."""
    if isinstance(error, CancelledError):
        return "Cancelled; nothing was added"
    if isinstance(error, MemoryError):
        return "Memory ran out: close other images, or run on a smaller part"
    return str(error) or type(error).__name__


def show_failure(error: Exception) -> None:
    """Tell the user what went wrong: our own errors name the fix, others bring their traceback."""
    if isinstance(error, CancelledError):
        return
    if isinstance(error, NapariDeblurError | MemoryError):
        show_error(in_words(error))
    else:
        notification_manager.receive_error(type(error), error, error.__traceback__)


_board: JobBoard | None = None


def job_board() -> JobBoard:
    """Return the process-wide board, made at the first call."""
    global _board  # noqa: PLW0603 - one job at a time per process is the point
    if _board is None or not alive(_board):
        app = QCoreApplication.instance()
        _board = JobBoard(app)
        if app is not None:
            app.aboutToQuit.connect(_board.cancel)
    return _board
