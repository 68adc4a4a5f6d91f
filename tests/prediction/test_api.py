"""``import medrd``: the verbs on volumes in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import medrd
from medrd.draw.heat import save_figure
from medrd.errors import EmptyBrainError, GridMismatchError, ModelError, TooLargeError
from medrd.images.picture import Picture
from medrd.images.volume import Volume, volume_from_array
from medrd.prediction.api import LoadedModel
from medrd.prediction.predict import predict
from medrd.run.model_folder import Model
from medrd.training.train import train


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> LoadedModel:
    return medrd.load(tiny_run, device="cpu")


@pytest.fixture(scope="module")
def scan(tiny_root: Path) -> Path:
    return tiny_root / "tiny_0" / "tiny_0_flair.nii.gz"


def test_import_is_light_and_its_functions_are_there() -> None:
    code = """
import sys
import medrd
assert "torch" not in sys.modules and "numpy" not in sys.modules
assert {"train", "load", "predict", "evaluate", "read", "Config"} <= set(dir(medrd))
medrd.MedrdError, medrd.Config
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_name_that_it_lists_can_be_had() -> None:
    for name in medrd.__all__:
        assert getattr(medrd, name) is not None
    assert medrd.train is train
    assert medrd.predict is predict
    with pytest.raises(AttributeError, match="no attribute 'teach'"):
        medrd.teach  # noqa: B018


def test_a_plot_has_the_colours_and_units_of_the_pictures(
    model: LoadedModel, tiny_run: Path, scan: Path, tmp_path: Path
) -> None:
    volume = medrd.read(scan)
    assert isinstance(volume, Volume)
    result = model.predict(volume)
    medrd.predict(tiny_run, [scan], tmp_path, device="cpu")
    figure = medrd.plot(volume, result, title="tiny_0_flair")
    save_figure(figure, tmp_path / "mine.png")
    assert (tmp_path / "mine.png").read_bytes() == (tmp_path / "tiny_0_flair.png").read_bytes()
    bare = medrd.plot(volume, result.scores)
    assert any("not calibrated" in text.get_text() for text in bare.axes[0].texts)
    with pytest.raises(GridMismatchError, match="label"):
        medrd.plot(volume, result, label=np.zeros((2, 2, 2), bool))
    picture = Picture(np.full((8, 9, 3), 0.5, np.float32), None, ())
    assert medrd.plot(picture, np.zeros((8, 9), np.float32)) is not None


def test_a_volume_in_memory_gets_the_map_that_the_command_line_writes(
    model: LoadedModel, tiny_run: Path, scan: Path, tmp_path: Path
) -> None:
    found = model.predict(medrd.read(scan))
    medrd.predict(tiny_run, [scan], tmp_path, device="cpu", picture=False)
    stem = tmp_path / "tiny_0_flair"
    written = np.asarray(nib.load(f"{stem}_anomaly.nii.gz").dataobj)
    assert np.array_equal(found.scores, written)
    assert found.scores.dtype == np.float32
    assert found.mask is not None
    assert np.array_equal(found.mask, np.asarray(nib.load(f"{stem}_mask.nii.gz").dataobj) > 0)
    assert found.scan_score == found.slice_scores.max()


def test_predicting_twice_and_in_other_batches_gives_the_same(
    model: LoadedModel, scan: Path
) -> None:
    volume = medrd.read(scan)
    first = model.predict(volume)
    assert np.array_equal(model.predict(volume).scores, first.scores)
    size, model.predictor.batch_size = model.predictor.batch_size, 5
    other = model.predict(volume)
    model.predictor.batch_size = size
    np.testing.assert_allclose(other.scores, first.scores, atol=1e-5)


def test_a_frame_of_a_4d_file_can_be_read_within_a_budget(scan: Path, tmp_path: Path) -> None:
    image = nib.load(scan)
    array = np.asarray(image.dataobj)
    path = tmp_path / "FOUR.NII.GZ"
    nib.save(nib.Nifti1Image(np.stack([array, array + 1], -1), image.affine), tmp_path / "f.nii.gz")
    (tmp_path / "f.nii.gz").rename(path)
    assert np.array_equal(medrd.read(path, frame=1).array, array + 1)
    with pytest.raises(TooLargeError):
        medrd.read(path, frame=1, max_voxels=2 * array.size - 1)


def test_a_volume_need_not_come_from_a_file(model: LoadedModel, scan: Path) -> None:
    volume = medrd.read(scan)
    copy = volume_from_array(volume.array, volume.affine)
    assert np.array_equal(model.predict(copy).scores, model.predict(volume).scores)


def test_a_model_of_one_modality_takes_it_by_name_too(model: LoadedModel, scan: Path) -> None:
    volume = medrd.read(scan)
    by_name = model.predict({"t1": volume, "flair": volume})
    assert np.array_equal(by_name.scores, model.predict(volume).scores)
    with pytest.raises(ModelError, match="flair"):
        model.predict({"t1": volume})


def test_an_empty_volume_is_an_input_error(model: LoadedModel) -> None:
    with pytest.raises(EmptyBrainError):
        model.predict(volume_from_array(np.zeros((20, 20, 10)), np.eye(4)))


@pytest.fixture(scope="module")
def three(
    tiny_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LoadedModel, dict[str, Volume]]:
    """A baseline that returns its third channel; t1 and t2 are the FLAIR mirrored."""
    root = tmp_path_factory.mktemp("three")
    for i in range(3):
        image = nib.load(tiny_root / f"tiny_{i}" / f"tiny_{i}_flair.nii.gz")
        label = nib.load(tiny_root / f"tiny_{i}" / f"tiny_{i}_seg.nii.gz")
        folder = root / "cohort" / f"s{i}"
        folder.mkdir(parents=True)
        array = np.asarray(image.dataobj)
        channels = {"flair": array, "t1": array[::-1], "t2": array[:, ::-1]}
        for name, channel in channels.items():
            mirrored = nib.Nifti1Image(channel, image.affine)
            nib.save(mirrored, folder / f"s{i}_{name}.nii.gz")
        nib.save(label, folder / f"s{i}_seg.nii.gz")
    raw: dict[str, Any] = {
        "data": {
            "root": str(root / "cohort"),
            "cache": str(root / "cache"),
            "split": {"train": 1, "calibration": 1, "test": 1},
        },
        "recipe": {"size": 64, "min_brain_mm2": 2000, "channels": ["flair", "t1", "t2"]},
        "model": {"name": "intensity", "channel": 2},
        "scoring": {"sigma_px": 0},
    }
    from medrd.config import make_config

    run = train(make_config(raw), root / "run")
    folder = root / "cohort" / "s0"
    volumes = {m: medrd.read(folder / f"s0_{m}.nii.gz") for m in ("t2", "flair", "t1")}
    return medrd.load(run), volumes


def test_modalities_are_taken_by_name_not_by_order(
    three: tuple[LoadedModel, dict[str, Volume]],
) -> None:
    model, volumes = three
    found = model.predict(volumes).scores
    bright = np.unravel_index(int(found.argmax()), found.shape)
    assert volumes["t2"].array[bright] > np.percentile(volumes["t2"].array, 99)


def test_one_volume_alone_or_other_grids_are_refused(
    three: tuple[LoadedModel, dict[str, Volume]],
) -> None:
    model, volumes = three
    with pytest.raises(ModelError, match="t1, t2"):
        model.predict(volumes["flair"])
    moved = volume_from_array(volumes["t1"].array, volumes["t1"].affine + np.eye(4)[3])
    with pytest.raises((GridMismatchError, ValueError)):
        model.predict(volumes | {"t1": moved})


def test_one_path_is_not_taken_for_its_letters(quick: Model, scan: Path, tmp_path: Path) -> None:
    (record,) = medrd.predict(quick, str(scan), tmp_path / "out").done
    assert record.exists()


def test_what_is_no_volume_or_config_is_named_with_what_reads_one(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    model = LoadedModel(quick, device="cpu")
    for given in (str(scan), np.zeros((4, 4, 4)), None, {"flair": np.zeros((4, 4, 4))}):
        with pytest.raises(TypeError, match=r"what medrd\.read\(path\) returns"):
            model.predict(given)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"medrd\.load_config\(path\) reads one"):
        medrd.train(tmp_path / "a.yaml", tmp_path / "run")  # type: ignore[arg-type]
