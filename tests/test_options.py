"""Which words of ``medrd predict`` are a model, and which are scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicoms import write_series
from medrd.errors import ConfigError, ModelError
from medrd.options import split_model


@pytest.fixture
def places(tmp_path: Path) -> Path:
    for name in (
        "run/model/model.json",
        "model/model.json",
        "unfinished/checkpoint.pt",
        "damaged/model.safetensors",
        "scan.nii.gz",
        "scans/p1/anat/scan.nii",
        "other formats/scan.mnc",
        "maps/scan_anomaly.nii.gz",
        "text/a.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "scan.nii.gz").symlink_to("not fetched")
    write_series(tmp_path / "patients" / "series", np.ones((3, 8, 8)))
    return tmp_path


@pytest.mark.parametrize("model", ["run", "run/model", "model", "unfinished", "damaged"])
def test_a_run_or_model_folder_before_scans_is_the_model(places: Path, model: str) -> None:
    scans = [places / "scan.nii.gz", places / "scans"]
    assert split_model([places / model, *scans]) == (places / model, scans)
    with pytest.raises(ConfigError, match="a model and scans, or only scans"):
        split_model([places / model])


@pytest.mark.parametrize(
    "scan",
    ["scan.nii.gz", "missing.nii.gz", "missing.img", "scans", "patients", "links", "other formats"],
)
def test_scans_alone_are_for_the_built_in_model(places: Path, scan: str) -> None:
    assert split_model([places / scan]) == (None, [places / scan])
    both = [places / scan, places / "run"]  # its error says that a run holds no scan
    assert split_model(both) == (None, both)


@pytest.mark.parametrize(
    ("first", "found"),
    [
        ("text", "a folder that contains neither"),
        ("maps", "a folder that contains neither"),
        ("missing", "no such file or folder"),
        ("run/model/model.json", "a file of another kind"),
    ],
)
def test_what_is_neither_is_an_error_with_both_readings(
    places: Path, first: str, found: str
) -> None:
    with pytest.raises(ModelError) as caught:
        split_model([places / first, places / "scan.nii.gz"])
    assert caught.value.found == found
    assert "a run or model folder" in caught.value.expected
    assert "for the built-in model, a scan or a folder of scans" in caught.value.expected
