from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from napari_deblur.core.errors import InvalidInputError, OutputError, UnknownNameError
from napari_deblur.core.lock import locked


def test_one_at_a_time(tmp_path):
    path, output = tmp_path / "lock", tmp_path / "out"
    in_use = r"must not be in use by another run \(process \d+ on .* since"
    with locked(path, output):
        assert path.exists()
        refused = pytest.raises(OutputError, match=in_use)
        with refused, locked(path, output):
            pass
    assert not path.exists()
    with locked(path, output):
        pass


def test_a_lock_dies_with_its_process(tmp_path):
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from napari_deblur.core.lock import locked\n"
        "path = Path(sys.argv[1])\n"
        "with locked(path, path):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=f"process {holder.pid} on"), locked(path, path):
            pass
        holder.kill()
        holder.wait()
    assert path.exists()
    with locked(path, path):
        pass


def test_many_wanting_one_lock_get_it_one_at_a_time(tmp_path):
    held, most, refused = [], [], []

    def want():
        for _ in range(50):
            try:
                with locked(tmp_path / "lock", tmp_path):
                    held.append(1)
                    most.append(len(held))
                    held.pop()
            except OutputError:
                refused.append(1)

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert len(most) + len(refused) == 200


def test_a_folder_that_is_not_there(tmp_path):
    with (
        pytest.raises(OutputError, match="output must be lockable"),
        locked(tmp_path / "a" / "lock", tmp_path),
    ):
        pass


def test_errors_cross_from_one_process_to_another():
    import pickle

    for error in (InvalidInputError("a", "must be b", [1, 2]), UnknownNameError("a", "x", ["y"])):
        error.hint = "try again"
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is type(error)
        assert (str(back), back.argument, back.rule, back.hint) == (
            str(error), error.argument, error.rule, "try again",
        )  # fmt: skip
