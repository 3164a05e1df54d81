"""Pieces cover the whole, and threads leave the process as it was."""

import threading

import pytest
import torch

from napari_deblur.blur.pieces import each, spans


@pytest.mark.parametrize("size", [1, 2, 7, 64, 541])
@pytest.mark.parametrize("length", [0, 1, 5, 64, 1000])
@pytest.mark.parametrize("even", [1, 8])
def test_spans_cover_the_whole_once(size, length, even, threads):
    found = spans(slice(3, 3 + size), length, even)
    assert [i for span in found for i in range(span.start, span.stop)] == list(range(3, 3 + size))
    assert all(span.stop - span.start <= max(length, even) for span in found)
    assert all((span.stop - span.start) % even == 0 for span in found[:-1])
    assert len(found) % threads == 0 or len(found) == -(-size // even)


@pytest.mark.parametrize("here", [False, True])
def test_threads_compute_alone_and_leave_the_process_as_it_was(threads, here):
    seen = set()
    each(lambda _: seen.add((threading.current_thread().name, torch.get_num_threads())), range(50), here=here)
    assert torch.get_num_threads() == threads
    if threads > 1:
        assert {count for _, count in seen} == {1}
        found = []
        late = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        late.start()
        late.join()
        assert found == [threads]


@pytest.mark.usefixtures("threads")
def test_each_piece_is_done_once():
    done = []
    each(done.append, range(1000))
    assert sorted(done) == list(range(1000))


@pytest.mark.parametrize("here", [False, True])
def test_what_a_piece_raises_is_raised(threads, here):
    def fail(piece):
        if piece == 3:
            raise MemoryError

    with pytest.raises(MemoryError):
        each(fail, range(5), here=here)
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("threads")
def test_two_at_once_do_not_wait_for_each_other_forever():
    done = []
    callers = [
        threading.Thread(target=each, args=(done.append, range(500)), kwargs={"here": True}) for _ in "ab"
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    assert len(done) == 1000
