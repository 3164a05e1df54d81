from __future__ import annotations

import threading
import time

import pytest
from qtpy.QtWidgets import QWidget

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.ui.worker import Job, JobBoard, job_board


@pytest.fixture
def board(qtbot):
    return job_board()


@pytest.fixture
def owner(qtbot):
    widget = QWidget()
    qtbot.addWidget(widget)
    return widget


def slow(run):
    for done in range(500):
        run.step(done, 500, f"step {done}")
        time.sleep(0.01)


def test_work_runs_elsewhere_and_its_result_arrives_here(board, owner, idle, in_gui_thread):
    where, values = [], []

    def work(run):
        where.append(in_gui_thread())
        return 42

    def done(value):
        where.append(in_gui_thread())
        values.append(value)

    assert board.start(Job("a job", work, done, owner))
    idle()
    assert where == [False, True]
    assert values == [42]


def test_progress_arrives_in_the_windows_thread_and_not_too_often(board, owner, idle, in_gui_thread):
    seen = []
    board.progressed.connect(lambda job, progress: seen.append((in_gui_thread(), progress.fraction)))

    def work(run):
        for step in range(2000):
            run.step(step, 2000, "busy")
        time.sleep(0.06)
        run.step(2000, 2000, "done")

    board.start(Job("a job", work, lambda value: None, owner))
    idle()
    assert all(here for here, _ in seen)
    assert seen[-1][1] == 1
    assert len(seen) < 50


def test_one_job_at_a_time(board, owner, idle):
    gate = threading.Event()
    assert board.start(Job("first", lambda run: gate.wait(10), lambda value: None, owner))
    assert not board.start(Job("second", lambda run: None, lambda value: None, owner))
    gate.set()
    idle()
    assert board.start(Job("third", lambda run: None, lambda value: None, owner))
    idle()


def test_a_cancel_ends_the_run_at_its_next_step(board, owner, idle, qtbot, notes):
    ended = []
    board.ended.connect(ended.append)
    board.start(Job("slow", slow, lambda value: None, owner))
    qtbot.wait(50)
    board.cancel()
    idle()
    assert [type(outcome.error).__name__ for outcome in ended] == ["CancelledError"]
    assert notes == []


def test_our_errors_are_shown_as_one_sentence(board, owner, idle, notes):
    def work(run):
        raise InvalidInputError("image", "must be finite", "NaN")

    board.start(Job("fails", work, lambda value: None, owner))
    idle()
    assert notes == [("error", "image must be finite; received NaN")]
    assert not board.busy


@pytest.mark.parametrize("error", [RuntimeError("boom"), MemoryError(), ValueError("bad")])
def test_any_other_error_is_shown_and_the_board_is_free_again(board, owner, idle, notes, error):
    def work(run):
        raise error

    board.start(Job("fails", work, lambda value: None, owner))
    idle()
    assert [severity for severity, _ in notes] == ["error"]
    assert board.start(Job("next", lambda run: None, lambda value: None, owner))
    idle()


def test_an_error_while_showing_the_result_is_shown_too(board, owner, idle, notes):
    def done(value):
        raise RuntimeError("cannot add")

    board.start(Job("fails", lambda run: 1, done, owner))
    idle()
    assert notes == [("error", "cannot add")]


def test_a_dropped_job_is_cancelled_and_forgotten(board, owner, idle, qtbot):
    results = []
    board.start(Job("slow", slow, results.append, owner))
    qtbot.wait(30)
    board.drop(owner)
    idle()
    assert results == []
    assert board.current is None


def test_a_job_whose_owner_is_gone_is_forgotten(board, idle, qtbot):
    results = []
    widget = QWidget()
    gate = threading.Event()
    board.start(Job("waits", lambda run: gate.wait(10), results.append, widget))
    widget.deleteLater()
    qtbot.wait(30)
    gate.set()
    idle()
    assert results == []


def test_finished_jobs_keep_no_pixels(board, owner, idle):
    import gc
    import weakref

    class Pixels:
        pass

    pixels = Pixels()
    reference = weakref.ref(pixels)
    job = Job("a job", lambda run, keep=pixels: keep, lambda value: None, owner)
    board.start(job)
    idle()
    del pixels
    gc.collect()
    assert reference() is None


def test_the_board_is_one(board):
    assert job_board() is board
    assert isinstance(board, JobBoard)
