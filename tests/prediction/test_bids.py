"""BIDS in, BIDS derivatives out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicoms import write_series
from medrd.config import RecipeConfig, make_config
from medrd.data.brains.bids import bids_root, bids_subjects
from medrd.data.brains.find import find_scans
from medrd.errors import ConfigError, InputError, MissingInputError, OutputError
from medrd.prediction.predict import predict
from medrd.run.model_folder import Model, load_model
from medrd.training.train import train

ANAT = "sub-01/anat"


def dataset(root: Path, *names: str, **description: Any) -> Path:
    """Empty images by their paths."""
    root.mkdir(parents=True, exist_ok=True)
    content = {"Name": "Simulated", "BIDSVersion": "1.10.0", **description}
    (root / "dataset_description.json").write_text(json.dumps(content))
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(root: Path, below: Path | None = None, *, channels: str) -> dict[str, list[str]]:
    """Places and names of results, and the files that they are made from."""
    errors: list[InputError] = []
    scans = bids_subjects(root, below or root, channels.split(), errors)
    assert errors == []
    return {f"{place}/{subject.id}": list(origin.sources) for subject, place, origin in scans}


# --- Which files ---


def test_modalities_are_told_by_suffix_and_contrast_agent(tmp_path: Path) -> None:
    names = ["FLAIR", "T1w", "ce-GAD_T1w", "T2w", "desc-brain_mask", "T1map"]
    root = dataset(tmp_path, *(f"{ANAT}/sub-01_{name}.nii.gz" for name in names))
    expected = {"flair": "FLAIR", "t1": "T1w", "t1ce": "ce-GAD_T1w", "t2": "T2w"}
    for channel, name in expected.items():
        (sources,) = found(root, channels=channel).values()
        assert sources == [f"{ANAT}/sub-01_{name}.nii.gz"]
    assert found(root, channels="t1ce flair t2") == {
        f"{ANAT}/sub-01": [
            f"{ANAT}/sub-01_{name}.nii.gz" for name in ("ce-GAD_T1w", "FLAIR", "T2w")
        ]
    }


def test_entities_sessions_and_derivatives_are_kept_in_names(tmp_path: Path) -> None:
    root = dataset(
        tmp_path,
        "sub-01/ses-a/anat/sub-01_ses-a_run-1_FLAIR.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_run-2_FLAIR.nii",
        "sub-02/anat/sub-02_space-MNI152NLin2009cAsym_desc-brain_FLAIR.nii.gz",
        "derivatives/other/sub-01/anat/sub-01_FLAIR.nii.gz",
        "sourcedata/sub-01/anat/sub-01_FLAIR.nii.gz",
        "sub-02/anat/.sub-02_FLAIR.nii.gz",
        "sub-02/func/sub-02_FLAIR.nii.gz",
    )
    names = {
        "sub-01/ses-a/anat/sub-01_ses-a_run-1",
        "sub-01/ses-a/anat/sub-01_ses-a_run-2",
        "sub-02/anat/sub-02_space-MNI152NLin2009cAsym",
    }
    assert found(root, channels="flair").keys() == names
    part = root / "sub-01" / "ses-a"
    assert bids_root(part) == root
    assert len(found(root, part, channels="flair")) == 2
    assert bids_root(root.parent) is None


def test_sessions_without_the_modality_and_other_names_are_named(tmp_path: Path) -> None:
    root = dataset(
        tmp_path,
        "sub-01/ses-a/anat/sub-01_ses-a_flair.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
        "sub-02/anat/sub-02_FLAIR copy.nii.gz",
        "sub-03/func/sub-03_bold.nii.gz",
    )
    cases, errors, left_out = find_scans([root], RecipeConfig())
    assert errors == []
    assert [str(case.place / case.subject.id) for case in cases] == [
        "sub-01/ses-a/anat/sub-01_ses-a"
    ]
    assert {other.path.relative_to(root).as_posix(): other.reason for other in left_out} == {
        "sub-02/anat/sub-02_FLAIR copy.nii.gz": "no BIDS name in an anat folder",
        **dict.fromkeys(("sub-01/ses-b", "sub-02", "sub-03"), "no FLAIR image in anat"),
    }
    # Of a part of the dataset only what lies in it.
    assert find_scans([root / "sub-01" / "ses-a"], RecipeConfig()).left_out == []


def test_sourcedata_is_no_part_of_the_dataset(tmp_path: Path) -> None:
    """DICOM series lie there, or files by other names: read as in any other folder."""
    root = dataset(tmp_path, f"{ANAT}/sub-01_FLAIR.nii.gz", "sourcedata/sub-01/raw/head.nii.gz")
    write_series(root / "sourcedata/sub-01/flair", np.ones((2, 4, 4)))
    for folder in (root / "sourcedata", root / "sourcedata/sub-01"):
        assert bids_root(folder) is None
        cases, errors, _ = find_scans([folder], RecipeConfig())
        assert errors == []
        assert [(case.subject.id, case.origin) for case in cases] == [
            ("flair", None),
            ("head", None),
        ]
    assert bids_root(root / ANAT) == root


def test_what_is_ambiguous_or_incomplete_spares_the_others(tmp_path: Path) -> None:
    root = dataset(
        tmp_path,
        *(
            f"{ANAT}/sub-01_{name}.nii.gz"
            for name in ("desc-a_FLAIR", "desc-b_FLAIR", "T1w", "T2w")
        ),
        "sub-02/anat/sub-02_FLAIR.nii.gz",
    )
    errors: list[InputError] = []
    ((subject, _, _),) = bids_subjects(root, root, ["flair"], errors)
    assert subject.id == "sub-02"
    (error,) = errors
    assert "desc-a_FLAIR.nii.gz, sub-01_desc-b_FLAIR.nii.gz" in error.found
    errors.clear()
    assert bids_subjects(root, root, ["flair", "t1", "t2"], errors) == []
    assert {type(error) for error in errors} == {MissingInputError}
    assert [Path(error.where).parent.name for error in errors] == ["sub-01", "sub-02"]


# --- From dataset to derivative ---


@pytest.fixture(scope="module")
def model(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("bids_model")
    raw = {
        "data": {
            "root": str(tiny_root),
            "cache": str(folder / "cache"),
            "healthy_margin": 1,
            "split": {"train": 2, "calibration": 2, "test": 2},
        },
        "recipe": {"size": 64, "min_brain_mm2": 2000, "normalise": "rank"},
        "model": {"name": "intensity"},
    }
    return load_model(train(make_config(raw), folder / "run"))


@pytest.fixture
def brains(tiny_root: Path, tmp_path: Path) -> Path:
    """Two subjects, one with a session."""
    root = dataset(tmp_path / "brains")
    for number, name in enumerate(["sub-01/anat/sub-01", "sub-02/ses-a/anat/sub-02_ses-a"]):
        source = tiny_root / f"tiny_{number}" / f"tiny_{number}_flair.nii.gz"
        (root / name).parent.mkdir(parents=True)
        shutil.copy(source, root / f"{name}_FLAIR.nii.gz")
    return root


def test_results_are_a_derivative_that_the_bids_validator_passes(
    model: Model, brains: Path
) -> None:
    out = brains / "derivatives" / "medrd"
    out.mkdir(parents=True)
    (out / ".bidsignore").write_text("mine/\n")
    report = predict(model, [brains], out, report=True)
    assert report.errors == []
    stems = ["sub-01/anat/sub-01", "sub-02/ses-a/anat/sub-02_ses-a"]
    endings = ["_desc-medrd_anomalymap" + e for e in (".nii.gz", ".json", ".png")]
    endings += ["_label-L_desc-medrd_mask" + e for e in (".nii.gz", ".json")]
    top = ["dataset_description.json", "README", ".bidsignore", "report.html"]
    top += [f"report/{stem}_desc-medrd_anomalymap.html" for stem in stems]
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert written == {stem + ending for stem in stems for ending in endings} | set(top)
    assert (out / ".bidsignore").read_text(encoding="utf-8").startswith("mine/\n*_anomalymap.*\n")
    record = json.loads(
        (out / f"{stems[0]}_desc-medrd_anomalymap.json").read_text(encoding="utf-8")
    )
    assert record["Sources"] == ["bids:source:sub-01/anat/sub-01_FLAIR.nii.gz"]
    link = json.loads((out / top[0]).read_text(encoding="utf-8"))["DatasetLinks"]["source"]
    assert (out / link).resolve() == brains.resolve()
    assert predict(model, [brains], out).skipped == report.done

    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists():
        pytest.skip("needs the BIDS validator (pip install bids-validator-deno)")
    for folder in (brains, out):
        done = subprocess.run([validator, folder, "--json"], capture_output=True, text=True)
        issues = json.loads(done.stdout)["issues"]["issues"]
        assert [issue for issue in issues if issue["severity"] == "error"] == []
        assert done.returncode == 0


def test_what_somebody_added_to_a_derivative_stays(
    model: Model, brains: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict(model, [brains], out)
    description = json.loads((out / "dataset_description.json").read_text(encoding="utf-8"))
    added = {"Authors": ["Ada"], "License": "CC0", "Name": "Ours"}
    maker = {"Name": "medrd", "Version": "0.0"}  # no list, as some write it
    (out / "dataset_description.json").write_text(
        json.dumps(description | added | {"GeneratedBy": maker})
    )
    (out / "README").write_text("mine")
    (out / ".bidsignore").write_text("*_anomalymap.*\nmine/")
    predict(model, [brains], out)
    again = json.loads((out / "dataset_description.json").read_text(encoding="utf-8"))
    assert again == description | added
    assert (out / "README").read_text(encoding="utf-8") == "mine"
    ignored = (out / ".bidsignore").read_text(encoding="utf-8").splitlines()
    ours = ["errors.json", "report.html", "report", "report/**"]
    assert ignored == ["*_anomalymap.*", "mine/", *ours]


def test_a_dataset_is_never_written_into_and_comes_alone(
    model: Model, brains: Path, tmp_path: Path
) -> None:
    before = (brains / "dataset_description.json").read_text(encoding="utf-8")
    with pytest.raises(OutputError, match="medrd did not make"):
        predict(model, [brains], brains)
    assert (brains / "dataset_description.json").read_text(encoding="utf-8") == before
    lone = Path(shutil.copy(brains / ANAT / "sub-01_FLAIR.nii.gz", tmp_path / "lone.nii.gz"))
    with pytest.raises(ConfigError, match="one BIDS dataset"):
        predict(model, [brains, lone], tmp_path / "out")
    with pytest.raises(ConfigError, match="no scan"):
        predict(model, [], tmp_path / "out")
    empty = dataset(tmp_path / "empty", f"{ANAT}/sub-01_T2w.nii.gz")
    (error,) = predict(model, [empty], tmp_path / "out").errors
    assert "images of flair in this BIDS dataset" in error.expected
