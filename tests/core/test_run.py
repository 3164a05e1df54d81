import json

import pytest

from napari_deblur.core.errors import CancelledError
from napari_deblur.core.record import Record
from napari_deblur.core.run import Run


def test_parts_report_their_share_of_the_whole():
    seen = []
    run = Run(on_progress=seen.append)
    second = run.part(1, 2, 4)
    second.step(0, 2, "a")
    second.part(1, 2, 2).step(1, 2, "b")
    assert [round(progress.fraction, 4) for progress in seen] == [0.25, 0.4375]


def test_cancel_stops_at_the_next_step_and_hands_over_the_partial_result():
    run = Run()
    part = run.part(0, 1, 2)
    run.cancel()
    assert part.cancelled
    with pytest.raises(CancelledError, match="work") as caught:
        part.step(1, 2, "work", partial="so far")
    assert caught.value.partial == "so far"


def test_notes_are_kept_once_and_shared():
    run = Run()
    run.part(0, 1, 2).note("x")
    run.note("x")
    assert run.notes == ["x"]


def test_generators_repeat_with_the_seed():
    assert Run(seed=5).numpy_generator().random() == Run(seed=5).numpy_generator().random()
    assert Run(seed=5).torch_generator().initial_seed() == 5


def test_record_is_json():
    record = Record(step={"kind": "x"}, notes=["für"])
    assert json.loads(record.to_json())["notes"] == ["für"]
    assert "numpy" in record.versions
