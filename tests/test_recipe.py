from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from napari_deblur.batch import BatchSettings, run_files, stem
from napari_deblur.core.errors import CancelledError, InvalidInputError, OutputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.shared import get_engine
from napari_deblur.io.read import read_image, read_record
from napari_deblur.io.write import write_image
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.recipe import Recipe, make_step
from napari_deblur.recipe_psf import PsfChoice
from napari_deblur.steps.background import RemoveBackground
from napari_deblur.steps.calibration import DepthCalibration
from napari_deblur.steps.deblur import Deblur
from napari_deblur.steps.depth import EstimateDepth
from napari_deblur.steps.psf_map import EstimatePsfMap
from napari_deblur.stream.executors import OnCluster

BACKGROUND = {"kind": "remove-background", "n_iterations": 1}
MAP = {"kind": "estimate-psf-map", "stride_px": 32}
DEBLUR = {"kind": "deblur", "method": {"kind": "richardson-lucy", "n_iterations": 2}}
DEPTH = {"kind": "estimate-depth", "min_confidence": 0.0}
OPTICS = Optics(na=0.7, wavelength_um=0.5, pixel_size_um=0.157)


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    spots = np.zeros((160, 192), np.float32)
    spots[rng.integers(0, 160, 400), rng.integers(0, 192, 400)] = rng.uniform(500, 1000, 400)
    from scipy.ndimage import gaussian_filter

    return Image(gaussian_filter(spots, 2.0) + 10, pixel_size_um=(0.157, 0.157), name="spots")


@pytest.fixture
def kernel_file(tmp_path):
    y, x = np.mgrid[-7:8, -7:8]
    kernel = np.exp(-(x**2 + y**2) / 8)
    np.save(tmp_path / "psf.npy", kernel / kernel.sum())
    return tmp_path / "psf.npy"


def recipe(*steps, **more):
    return Recipe.from_dict({"version": 1, "steps": list(steps), **more})


def test_a_recipe_survives_its_file(tmp_path):
    calibration = DepthCalibration.from_optics(OPTICS, axis_deg=30).model_dump(mode="json")
    before = recipe(BACKGROUND, MAP, DEBLUR, DEPTH, optics=OPTICS.model_dump(), calibration=calibration)
    path = before.save(tmp_path / "r.yaml")
    after = Recipe.load(path)
    assert after.steps == before.steps
    assert (after.psf, after.optics, after.calibration) == (before.psf, before.optics, before.calibration)
    assert [type(step) for step in after.steps] == [RemoveBackground, EstimatePsfMap, Deblur, EstimateDepth]
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["steps"][2]["method"]["n_iterations"] == 2
    with pytest.raises(OutputError, match="recipe must not exist yet"):
        before.save(path)
    before.save(path, overwrite=True)


def test_a_recipe_saved_elsewhere_names_the_same_files(tmp_path, kernel_file):
    (tmp_path / "there").mkdir()
    values = {"version": 1, "steps": [DEBLUR], "psf": {"file": kernel_file.name}, "calibration": "c.json"}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    before = Recipe.load(tmp_path / "r.yaml")
    beside = Recipe.load(before.save(tmp_path / "q.yaml"))
    assert (beside.psf.file, beside.calibration) == ("psf.npy", "c.json")
    after = Recipe.load(before.save(tmp_path / "there" / "r.yaml"))
    assert after.files == before.files == {"psf.file": kernel_file, "calibration": tmp_path / "c.json"}
    assert after.calibration == str(tmp_path / "c.json")


BAD = {
    "not a mapping": ([], "recipe must be a mapping"),
    "no steps": ({"version": 1}, "recipe must be a mapping with 'version' and 'steps'"),
    "empty": ({"version": 1, "steps": []}, "steps must hold at least one step"),
    "a future version": ({"version": 2, "steps": [DEBLUR]}, "version must be 1; received 2"),
    "an unknown key": ({"version": 1, "steps": [DEBLUR], "stepps": 1}, "stepps is not known in a recipe"),
    "an unknown step": (
        {"version": 1, "steps": [{"kind": "sharpen"}]},
        "kind must be one of remove-background",
    ),
    "a step without kind": ({"version": 1, "steps": [{"n": 1}]}, "step must be a mapping with a 'kind'"),
    "an unknown parameter": (
        {"version": 1, "steps": [{**BACKGROUND, "radius": 1}]},
        "radius is not a parameter",
    ),
    "a value out of range": (
        {"version": 1, "steps": [{**MAP, "stride_px": 1}]},
        "stride_px must be .* 8; received 1",
    ),
    "an unknown method": (
        {"version": 1, "steps": [{"kind": "deblur", "method": {"kind": "magic"}}]},
        "method must be one of wiener, .*; received 'magic'",
    ),
    "a method out of range": (
        {"version": 1, "steps": [{"kind": "deblur", "method": {"kind": "wiener", "noise_to_signal": -1}}]},
        "noise_to_signal must be",
    ),
    "a step twice": ({"version": 1, "steps": [DEBLUR, DEBLUR]}, "steps must hold each kind once"),
    "depth without map": (
        {"version": 1, "steps": [DEPTH]},
        "steps must hold estimate-psf-map before estimate-depth",
    ),
    "depth before map": ({"version": 1, "steps": [DEPTH, MAP]}, "steps must hold estimate-psf-map before"),
    "two PSFs": (
        {"version": 1, "steps": [DEBLUR], "psf": {"file": "a", "map": "b"}},
        "psf must name one source",
    ),
    "psf as text": ({"version": 1, "steps": [DEBLUR], "psf": "a.npy"}, "psf must be a mapping"),
    "wrong optics": ({"version": 1, "steps": [DEBLUR], "optics": {"na": 1}}, "wavelength_um is required"),
    "wrong calibration": (
        {"version": 1, "steps": [MAP, DEPTH], "calibration": {"a": 1}},
        "calibration must be a file",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_recipe_refuses(name):
    values, expected = BAD[name]
    with pytest.raises(InvalidInputError, match=expected):
        Recipe.from_dict(values)


def test_files_that_are_no_recipe(tmp_path):
    with pytest.raises(InvalidInputError, match="recipe must be a file that exists"):
        Recipe.load(tmp_path / "gone.yaml")
    for text in ("a: [", "\x00", "!!python/object/apply:os.system ['true']"):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(InvalidInputError, match="recipe must be a YAML file") as caught:
            Recipe.load(tmp_path / "r.yaml")
        assert "\n" not in str(caught.value)


def test_every_step_gets_what_the_one_before_gave(image):
    calibration = DepthCalibration.from_optics(OPTICS, axis_deg=0).model_dump(mode="json")
    steps = recipe(BACKGROUND, MAP, DEBLUR, DEPTH, optics=OPTICS.model_dump(), calibration=calibration)
    shares = []
    run = Run(on_progress=lambda progress: shares.append(progress.fraction))
    result = steps.run(image, engine=get_engine(), run=run)
    assert [record["step"]["kind"] for record in result.records] == [
        "remove-background", "estimate-psf-map", "deblur", "estimate-depth",
    ]  # fmt: skip
    assert result.records[2]["input"]["name"] == result.background.image.name
    assert result.records[2]["psf"]["model"] == "zernike-3"
    assert np.array_equal(result.deblur.psf.parameters, result.psf_map.parameters)
    assert result.depth.calibrated
    assert result.image is result.deblur.image
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert not result.partial


def test_records_of_one_step_do_not_hold_the_facts_of_another(image):
    result = recipe(BACKGROUND, MAP).run(image, engine=get_engine())
    assert "wavelet_level" in result.records[0]["facts"]
    assert "wavelet_level" not in result.records[1]["facts"]


def test_psfs_from_files_are_found_beside_the_recipe(tmp_path, image, kernel_file):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "psf": {"file": "psf.npy"}, "steps": [DEBLUR]}))
    result = Recipe.load(path).run(image, engine=get_engine())
    assert np.allclose(result.deblur.psf, np.load(kernel_file))
    assert result.records[0]["psf"]["path"] == str(kernel_file)
    psf_map = PsfMap.from_parameters(
        "gaussian-2", np.full((2, 2, 2), 2.0), image_shape=(160, 192),
        centers_px=np.stack(np.meshgrid([20, 140], [20, 170], indexing="ij"), axis=-1),
    )  # fmt: skip
    psf_map.save(tmp_path / "map.npz")
    path.write_text(yaml.safe_dump({"version": 1, "psf": {"map": "map.npz"}, "steps": [DEBLUR]}))
    result = Recipe.load(path).run(image, engine=get_engine())
    assert result.records[0]["psf"]["path"] == str(tmp_path / "map.npz")


def test_optics_are_the_psf_where_nothing_else_is(image):
    result = recipe(DEBLUR, optics=OPTICS.model_dump()).run(image, engine=get_engine())
    assert result.records[0]["psf"]["source"] == "optics"


def test_replaying_records_gives_the_same(image):
    first = recipe(BACKGROUND, MAP, DEBLUR).run(image, engine=get_engine())
    again = Recipe.from_records(first.records)
    assert again.steps == recipe(BACKGROUND, MAP, DEBLUR).steps
    second = again.run(image, engine=get_engine())
    assert np.array_equal(first.image.data, second.image.data)


def test_what_records_say_of_the_psf_is_repeated():
    step = make_step(DEBLUR).model_dump(mode="json")

    def repeated(**psf):
        return Recipe.from_records([{"step": step, "psf": psf}])

    assert repeated(source="psf-map", model="gaussian-2").psf == PsfChoice(blind="gaussian-2")
    assert repeated(source="psf-map", model="gaussian-2", path="/m.npz").psf == PsfChoice(map="/m.npz")
    assert repeated(source="kernel", path="/k.npy").psf == PsfChoice(file="/k.npy")
    sizes = {"pixel_size_um": 0.1, "z_step_um": 0.3}
    assert repeated(source="kernel", path="/k.npy", **sizes).psf == PsfChoice(file="/k.npy", **sizes)
    assert repeated(source="optics", **OPTICS.model_dump()).optics == OPTICS
    assert repeated().psf == PsfChoice()
    with pytest.raises(InvalidInputError, match="psf must be in a file to be used again"):
        repeated(source="kernel")


def test_a_measured_psf_keeps_the_voxel_size_that_was_told(tmp_path):
    y, x = np.mgrid[-10:11, -10:11]
    np.save(tmp_path / "psf.npy", np.exp(-(y**2 + x**2) / 2 / 4.0**2).astype(np.float32))
    image = Image(np.random.default_rng(0).random((64, 64), dtype=np.float32), "yx", (0.1, 0.1))
    told = {"file": str(tmp_path / "psf.npy"), "pixel_size_um": 0.05}

    def deblurred(recipe):
        return recipe.run(image, engine=get_engine())

    first = deblurred(Recipe.from_dict({"version": 1, "psf": told, "steps": [DEBLUR]}))
    again = Recipe.from_records(first.records)
    assert again.psf == PsfChoice(**told)
    assert np.array_equal(deblurred(again).image.data, first.image.data)
    silent = Recipe.from_dict({"version": 1, "psf": {"file": told["file"]}, "steps": [DEBLUR]})
    assert not np.allclose(deblurred(silent).image.data, first.image.data, atol=1e-3)
    with pytest.raises(InvalidInputError, match="psf must name the file whose voxel size it tells"):
        Recipe.from_dict({"version": 1, "psf": {"pixel_size_um": 0.05}, "steps": [DEBLUR]})


def test_a_cancel_keeps_what_is_done(image):
    run = Run()

    def cancel(progress):
        if "iteration 2" in progress.message:
            run.cancel()

    run.on_progress = cancel
    long = {"kind": "deblur", "method": {"kind": "richardson-lucy", "n_iterations": 50}}
    steps = recipe(BACKGROUND, long, optics=OPTICS.model_dump())
    result = steps.run(image, engine=get_engine(), run=run)
    assert result.partial
    assert result.deblur.partial
    assert result.records[-1]["partial"]


@pytest.fixture
def files(tmp_path, image):
    paths = [tmp_path / f"f{number}.ome.tif" for number in range(3)]
    for number, path in enumerate(paths):
        write_image(image.with_data(image.data + number), path)
    return paths


@pytest.fixture
def quick(kernel_file):
    return recipe(BACKGROUND, DEBLUR, psf={"file": str(kernel_file)})


def test_files_get_results_and_records(tmp_path, files, quick):
    out = tmp_path / "new" / "results"
    outcomes = run_files(quick, files, out)
    assert [one.state for one in outcomes] == ["done"] * 3
    names = {
        f"f1{s}" for s in ("_foreground.ome.tif", "_background.ome.tif", "_deblurred.ome.tif", "_record.json")
    }
    assert {path.name for path in outcomes[1].outputs} == names
    assert {path.name for path in out.glob("f1*")} == names
    record = read_record(out / "f1_record.json")
    assert Recipe.from_dict(record["recipe"]).steps == quick.steps
    assert read_image(out / "f1_deblurred.ome.tif").pixel_size_um == (0.157, 0.157)
    assert [one.state for one in run_files(quick, files, out)] == ["skipped"] * 3
    again = run_files(quick, files[:1], out, settings=BatchSettings(overwrite=True))
    assert [one.state for one in again] == ["done"]


def test_everything_that_a_recipe_gives_is_written(tmp_path, files):
    calibration = DepthCalibration.from_optics(OPTICS, axis_deg=0).model_dump(mode="json")
    steps = recipe(MAP, DEPTH, optics=OPTICS.model_dump(), calibration=calibration)
    out = tmp_path / "results"
    assert run_files(steps, files[:1], out)[0].state == "done"
    endings = {path.name.removeprefix("f0_") for path in out.iterdir()}
    assert endings == {
        "psf-map.npz",
        "depth.ome.tif",
        "depth-confidence.ome.tif",
        "surface.ply",
        "record.json",
    }


def test_a_failure_does_not_stop_the_others(tmp_path, files, quick):
    files[1].write_bytes(b"rubbish")
    outcomes = run_files(quick, [*files, tmp_path / "gone.tif"], tmp_path / "out")
    assert [one.state for one in outcomes] == ["done", "failed", "done", "failed"]
    assert "must be a readable TIFF file" in outcomes[1].reason
    assert "must be a file that exists" in outcomes[3].reason
    assert not list((tmp_path / "out").glob("f1*"))


def test_files_that_others_wrote_are_not_replaced(tmp_path, files, quick):
    out = tmp_path / "out"
    out.mkdir()
    (out / "f0_deblurred.ome.tif").write_bytes(b"mine")
    outcome = run_files(quick, files[:1], out)[0]
    assert outcome.state == "failed"
    assert "must not exist yet" in outcome.reason
    assert (out / "f0_deblurred.ome.tif").read_bytes() == b"mine"
    assert [path.name for path in out.iterdir()] == ["f0_deblurred.ome.tif"]


def test_a_cancelled_batch_leaves_whole_files_only(tmp_path, files, quick):
    run = Run()
    run.on_progress = lambda progress: run.cancel() if progress.message == files[1].name else None
    with pytest.raises(CancelledError):
        run_files(quick, files, tmp_path / "out", run=run)
    found = {path.name[:2] for path in (tmp_path / "out").iterdir()}
    assert found == {"f0"}


def test_inputs_and_folders_are_checked_first(tmp_path, files, quick):
    with pytest.raises(InvalidInputError, match="inputs must name at least one file"):
        run_files(quick, [], tmp_path / "out")
    with pytest.raises(InvalidInputError, match="inputs must differ in their names"):
        run_files(quick, [files[0], tmp_path / "other" / "f0.png"], tmp_path / "out")
    with pytest.raises(OutputError, match="output must be a folder that can be made"):
        run_files(quick, files, files[0])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "expected"), [("a.ome.tif", "a"), ("a.tif", "a"), ("a.b.npy", "a.b")])
def test_names_of_results(name, expected):
    assert stem(Path("x") / name) == expected


@pytest.mark.filterwarnings("ignore")
def test_files_on_the_workers_of_dask(tmp_path, files, quick):
    distributed = pytest.importorskip("distributed")
    files[1].write_bytes(b"rubbish")
    with distributed.Client(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None, set_as_default=False
    ) as client:
        outcomes = run_files(quick, files, tmp_path / "out", executor=OnCluster(client))
    assert [one.state for one in outcomes] == ["done", "failed", "done"]
