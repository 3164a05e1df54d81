"""What holds for every command: help, speed, and one line per mistake."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest

from napari_deblur.cli.app import build
from napari_deblur.core.params import parameters
from napari_deblur.methods.base import registry

COMMANDS = [
    "demo", "background", "psf-map", "deblur", "depth", "calibrate", "compare", "run", "recipe", "methods",
    "models", "doctor", "train",
]  # fmt: skip


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize("command", [[], *[[name] for name in COMMANDS], ["deblur", "tv-richardson-lucy"]])
def test_help_is_quick_and_light(command):
    code = (
        "import sys, time\nstart = time.process_time()\nfrom napari_deblur.cli import main\n"
        f"code = main({[*command, '--help']!r})\n"
        "heavy = {'torch', 'skimage', 'scipy', 'tifffile', 'napari', 'qtpy'} & set(sys.modules)\n"
        "print(code, sorted(heavy), time.process_time() - start, file=sys.stderr)"
    )
    found = python("-c", code)
    status, heavy, seconds = re.fullmatch(r"(\d) (\[.*\]) (.*)\n", found.stderr).groups()
    assert (status, heavy) == ("0", "[]")
    assert float(seconds) < 1  # of one processor: what else the machine does must not count
    assert "Usage: napari-deblur" in found.stdout


def test_all_commands_of_the_contract_are_there():
    assert set(COMMANDS) <= set(build())


@pytest.mark.parametrize("id_", list(registry()))
def test_options_come_from_the_declaration(cli, id_):
    code, out, _ = cli("deblur", id_, "--help")
    text = " ".join(out.replace("│", " ").split())
    assert code == 0
    for info in parameters(registry()[id_]):
        assert "--" + info.name.replace("_", "-") in text
        assert info.help.split(";")[0].split()[0] in text
        if info.low is not None and info.high is not None:
            assert f"{info.low:.12g} to {info.high:.12g}" in text


MISTAKES = {
    "unknown command": (["sharpen"], "the command must be one of demo, background, .*; received 'sharpen'"),
    "unknown method": (
        ["deblur", "magic", "IN", "-o", "a.tif"],
        "METHOD must be one of wiener, .* received 'magic'",
    ),
    "unknown option": (
        ["deblur", "wiener", "IN", "-o", "a.tif", "--sharp", "1"],
        "--sharp is not an option of deblur",
    ),
    "no input": (["deblur", "wiener", "-o", "a.tif"], "IN is required; received nothing"),
    "no output": (["background", "IN"], "--output is required; received nothing"),
    "option without value": (["background", "IN", "-o"], "-o is required; received nothing"),
    "too many inputs": (["background", "IN", "IN", "-o", "a.tif"], "takes no further argument; received '"),
    "option twice": (["background", "IN", "-o", "a.tif", "-o", "b.tif"], "-o specified multiple times"),
    "missing file": (
        ["background", "gone.tif", "-o", "a.tif"],
        "IN must be a file that exists; received 'gone.tif'",
    ),
    "missing folder": (
        ["background", "IN", "-o", "no/a.tif"],
        "--output must lie in a folder that exists; received",
    ),
    "unknown suffix": (
        ["background", "IN", "-o", "a.doc"],
        "--output must end in one of .*; received 'a.doc'",
    ),
    "existing output": (
        ["background", "IN", "-o", "PSF"],
        r"--output must not exist yet \(allow it with --overwrite\)",
    ),
    "input is output": (["background", "IN", "-o", "IN", "--overwrite"], "--output must not be the input"),
    "same output": (
        ["background", "IN", "-o", "a.tif", "--background-output", "a.tif"],
        "--background-output must differ from the other outputs",
    ),
    "not a number": (
        ["background", "IN", "-o", "a.tif", "--levels", "many"],
        "--levels must be a valid integer.* many",
    ),
    "out of range": (
        ["background", "IN", "-o", "a.tif", "--levels", "0"],
        "--levels must be .* 1; received 0",
    ),
    "not a choice": (
        ["background", "IN", "-o", "a.tif", "--algorithm", "magic"],
        "--algorithm must be 'wavelet', .*; received magic",
    ),
    "wrong axes": (["background", "IN", "-o", "a.tif", "--axes", "xy"], "--axes must .*; received xy"),
    "wrong pixel size": (
        ["background", "IN", "-o", "a.tif", "--pixel-size-um", "-1"],
        "--pixel-size-um must be pos",
    ),
    "optics in part": (["deblur", "wiener", "IN", "-o", "a.tif", "--na", "1"], "--wavelength-um is required"),
    "NA above index": (
        ["deblur", "wiener", "IN", "-o", "a.tif", "--na", "1.6", "--wavelength-um", "0.5"],
        "--na must not exceed the refractive index 1.515; received 1.6",
    ),
    "two PSFs": (
        ["deblur", "wiener", "IN", "-o", "a.tif", "--psf", "PSF", "--blind", "zernike-3"],
        "--blind must not be combined with --psf; received 'zernike-3'",
    ),
    "PSF and optics": (
        ["deblur", "wiener", "IN", "-o", "a.tif", "--psf", "PSF", "--na", "1", "--wavelength-um", "0.5"],
        "--na must not be combined with --psf",
    ),
    "not a map": (
        ["deblur", "wiener", "IN", "-o", "a.tif", "--psf-map", "PSF"],
        "--psf-map must be a saved PSF map",
    ),
    "unknown model": (
        ["deblur", "wiener", "IN", "-o", "a.tif", "--blind", "x"],
        "--blind must be one of .*; received",
    ),
    "unknown device": (
        ["deblur", "wiener", "IN", "-o", "a.tif", "--psf", "PSF", "--device", "abacus"],
        "--device must be one of auto, cuda, mps, cpu; received abacus",
    ),
    "map suffix": (["psf-map", "IN", "-o", "a.tif"], r"--output must end in \.npz; received 'a.tif'"),
    "table suffix": (
        ["psf-map", "IN", "-o", "a.npz", "--table", "a.txt"],
        r"--table must end in \.csv or \.json",
    ),
    "surface suffix": (["depth", "IN", "-o", "a.tif", "--surface", "a.x"], r"--surface must end in \.ply or"),
    "missing calibration": (
        ["depth", "IN", "-o", "a.tif", "--calibration", "c"],
        "--calibration must be a file that",
    ),
    "sizes of no PSF": (
        ["deblur", "wiener", "IN", "-o", "a.tif", "--psf-pixel-size-um", "0.1"],
        "--psf-pixel-size-um must be left out without --psf; received '0.1'",
    ),
    "planes of no PSF": (
        ["deblur", "wiener", "IN", "-o", "a.tif", "--blind", "zernike-3", "--psf-z-step-um", "0.1"],
        "--psf-z-step-um must be left out without --psf; received '0.1'",
    ),
    "half a voxel": (
        ["deblur", "wiener", "IN", "-o", "a.tif", "--psf", "PSF", "--psf-z-step-um", "0.1"],
        r"--psf-z-step-um must come with --psf-pixel-size-um for a \.npy, .*; received '0.1'",
    ),
    "a field of no basis": (
        ["deblur", "wiener", "IN", "-o", "a.tif", "--psf", "PSF", "--basis-field", "1"],
        "--basis-field must be left out without --psf-basis; received '1'",
    ),
    "a kernel as a map": (
        ["deblur", "wiener", "IN", "-o", "a.tif", "--psf", "PSF", "--psf-output", "p.npz"],
        "--psf-output must end in .*; received 'p.npz'",
    ),
    "a map as a kernel": (
        ["deblur", "wiener", "IN", "-o", "a.tif", "--blind", "gaussian-2", "--psf-output", "p.tif"],
        r"--psf-output must end in \.npz; received 'p.tif'",
    ),
    "missing background": (
        ["deblur", "wiener", "IN", "-o", "a.tif", "--psf", "PSF", "--background", "b.tif", "--plan"],
        "--background must be a file that exists",
    ),
    "missing result": (["recipe", "gone.tif", "-o", "r.yaml"], "RESULT must be a file that exists"),
    "missing maps": (
        ["calibrate", "gone.npz", "-o", "c.json", "--tilt-deg", "10", "--azimuth-deg", "0"],
        "MAP must be a file that exists",
    ),
    "no stacks": (["psf-basis", "beads", "-o", "b.npz"], "IN must name at least one bead stack"),
    "missing recipe": (["run", "r.yaml", "IN", "-o", "out"], "RECIPE must be a file that exists"),
    "no recipe": (["run", "PSF", "IN", "-o", "out"], "RECIPE must be a recipe"),
    "unknown training": (
        ["train", "everything", "-o", "out"],
        "MODEL must be one of .*; received 'everything'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(cli, tmp_path, monkeypatch, image_file, psf_file, name):
    arguments, expected = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    places = {"IN": image_file, "PSF": psf_file}
    code, out, err = cli(*[places.get(argument, argument) for argument in arguments])
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("napari-deblur: ")
    assert re.search(expected, err)
    assert sorted(tmp_path.iterdir()) == before


def test_no_arguments_show_the_help(cli):
    code, out, err = cli()
    assert (code, err) == (0, "")
    assert "Usage: napari-deblur COMMAND" in out


def test_version(cli):
    assert cli("--version")[:2] == (0, "0.1.0\n")


def test_a_mistake_of_ours_is_one_line_too(cli, monkeypatch, image_file):
    from napari_deblur.steps.background import RemoveBackground

    def broken(*_, **__):
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr(RemoveBackground, "run", broken)
    code, _, err = cli("background", image_file, "-o", image_file.with_name("a.tif"))
    assert code == 1
    assert err.count("\n") == 1
    assert "unexpected ZeroDivisionError: oh no" in err


def test_memory_that_runs_out_is_bad_input(cli, monkeypatch, image_file):
    from napari_deblur.steps.background import RemoveBackground

    def broken(*_, **__):
        raise MemoryError

    monkeypatch.setattr(RemoveBackground, "run", broken)
    code, _, err = cli("background", image_file, "-o", image_file.with_name("a.tif"))
    assert code == 2
    assert "memory ran out" in err


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_leaves_nothing_behind(tmp_path, image_file, psf_file):
    target = tmp_path / "out.tif"
    arguments = [
        "deblur",
        "tv-richardson-lucy",
        image_file,
        "-o",
        target,
        "--psf",
        psf_file,
        "--n-iterations",
        "2000",
    ]
    command = [sys.executable, "-c", _ANNOUNCING, *map(str, arguments)]
    before = sorted(tmp_path.iterdir())
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("plan: ")
        assert process.stdout.readline() == "iterating\n"
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "napari-deblur: cancelled; nothing was written\n"
    assert time.monotonic() - start < 30
    assert sorted(tmp_path.iterdir()) == before


# Says when the first iteration is done, so that the signal comes in the middle of the work.
_ANNOUNCING = """
import sys
from napari_deblur.core.run import Run
step = Run.step
def announcing(self, done, total, message, partial=None):
    if "iteration 1" in message:
        print("iterating", flush=True)
        Run.step = step
    step(self, done, total, message, partial)
Run.step = announcing
from napari_deblur.cli import main
sys.exit(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="closes a pipe")
def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m napari_deblur.cli methods --json | head -c 10; exit ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
