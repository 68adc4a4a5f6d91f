"""``medrd prepare``: subjects in, a folder each out, and maps back on the raw grid."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from nibabel.affines import apply_affine

from dicoms import write_series
from medrd.errors import (
    ConfigError,
    MissingInputError,
    OutputError,
    RegistrationError,
    TruncatedFileError,
)
from medrd.images.volume import volume_from_array
from medrd.prediction import raw as raw_module
from medrd.prediction.predict import predict
from medrd.preparation import prepare as prepare_module
from medrd.preparation.linear import from_itk, rotation, translation
from medrd.preparation.options import PrepareOptions
from medrd.preparation.prepare import prepare
from medrd.report import write_report
from medrd.run.failures import Failure, write_failures
from medrd.run.model_folder import Model
from medrd.run.shard import Shard
from phantom_heads import LESION_MM, LESION_RADIUS_MM, make_head, points_of, save

Medrd = Callable[..., Any]

MOVED = translation([12, -8, 15]) @ rotation(8, -5, 6)
NODDED = translation([3, 2, -4]) @ rotation(2, 3, -2) @ MOVED


COARSE = """
from medrd.preparation import register
register.FINE_SHARE = 0.1
register.SCALES_IN_PLANE = register.SCALES_ACROSS = (1.0,)
"""
"""The prelude of a process that registers with fewer samples, and tries noise at one scale only."""


@dataclass(frozen=True)
class Prepared:
    """One call of the verb: a good subject, one of noise, and one whose file is cut short."""

    options: dict[str, Any]
    raw: Path
    out: Path
    code: int
    stderr: str

    @property
    def good(self) -> Path:
        return self.out / "good"


@pytest.fixture(scope="module")
def prepared(medrd: Medrd, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root = tmp_path_factory.mktemp("prepare")
    raw, out = root / "raw", root / "out"
    template = save(make_head("t1", skull=False, seed=9), root / "template.nii.gz")
    t1 = make_head("t1", to_head=MOVED, lesion=True, seed=1)
    t1.array[0, 0, 0] = -1  # to be warned of
    flair = make_head(
        "flair", to_head=NODDED, spacing_mm=(3, 3, 6), shape=(80, 90, 44), lesion=True, seed=2
    )
    save(t1, raw / "good" / "good_T1w.nii.gz")
    save(flair, raw / "good" / "good_FLAIR.nii.gz")
    noise = np.random.default_rng(0).uniform(1, 100, (24, 24, 24))
    save(volume_from_array(noise, np.diag([8, 8, 8, 1])), raw / "noise" / "noise_T1w.nii.gz")
    cut = save(t1, raw / "cut" / "cut_T1w.nii.gz")
    cut.write_bytes(cut.read_bytes()[:5000])
    command = ["prepare", raw, "--out", out, "--template", template, "--no-bias"]
    done = medrd(*command, prelude=COARSE)
    options = {"template": template, "options": PrepareOptions(bias=False)}
    return Prepared(options, raw, out, done.code, done.stderr)


def test_a_good_subject_is_prepared_and_bad_ones_are_named(prepared: Prepared) -> None:
    assert prepared.code == 3
    assert "1 prepared, 0 already there, 2 failed" in prepared.stderr
    errors = json.loads((prepared.out / "errors.json").read_text("utf-8"))
    by_kind = {error["error"]: error for error in errors}
    assert by_kind.keys() == {"RegistrationError", "TruncatedFileError"}
    assert "noise" in by_kind["RegistrationError"]["where"]
    assert "registration failed" in by_kind["RegistrationError"]["found"]
    # Of what failed there is a picture to look at, and nothing that could be used.
    noise, cut = ({p.name for p in (prepared.out / n).iterdir()} for n in ("noise", "cut"))
    assert noise == {"noise_failed.png", "noise_failed.json"}
    assert cut == {"cut_failed.json"}
    assert "good: prepared in" in prepared.stderr
    assert "good: t1: 1 voxels were a little below 0" in prepared.stderr


def test_a_prepared_subject_is_a_brats_subject_with_its_transforms(prepared: Prepared) -> None:
    names = {p.relative_to(prepared.good).as_posix() for p in prepared.good.rglob("*.*")}
    transforms = {f"transforms/good_from-{c}_to-prepared_mode-image_xfm.tfm" for c in (
        "t1", "flair", "template"
    )}  # fmt: skip
    assert names == transforms | {
        "good_t1.nii.gz",
        "good_flair.nii.gz",
        "good_brain_mask.nii.gz",
        "good_prepare.json",
        "good_prepare.png",
    }
    images = {c: nib.load(prepared.good / f"good_{c}.nii.gz") for c in ("t1", "flair")}
    brain = np.asarray(nib.load(prepared.good / "good_brain_mask.nii.gz").dataobj) > 0
    for image in images.values():
        assert (image.shape, nib.aff2axcodes(image.affine)) == ((240, 240, 155), ("L", "P", "S"))
        array = np.asarray(image.dataobj)
        np.testing.assert_array_equal(array > 0, brain)
    record = json.loads((prepared.good / "good_prepare.json").read_text("utf-8"))
    assert record["quality"]["brain"] == "template"
    assert 1200 < record["quality"]["brain_ml"] < 1700
    page = (prepared.out / "prepared.html").read_text("utf-8")
    assert "good/good_prepare.png" in page
    assert "cut_T1w.nii.gz: expected" in page


def test_transforms_lead_from_the_template_to_where_the_head_was(prepared: Prepared) -> None:
    record = json.loads((prepared.good / "good_prepare.json").read_text("utf-8"))
    centre = np.argwhere(
        np.asarray(nib.load(prepared.good / "good_brain_mask.nii.gz").dataobj)
    ).mean(0)
    corners = np.array([[x, y, z] for x in (-45, 45) for y in (-55, 55) for z in (-35, 35)])
    head = nib.load(prepared.good / "good_t1.nii.gz").affine
    brain_mm = apply_affine(head, centre[None] + corners)
    folder = prepared.good / "transforms"
    for channel, to_head in (("t1", MOVED), ("flair", NODDED)):
        file = folder / f"good_from-{channel}_to-prepared_mode-image_xfm.tfm"
        to_raw = from_itk(SimpleITK.ReadTransform(str(file)))
        np.testing.assert_allclose(to_raw, record["origins"][channel]["prepared_to_raw_mm"])
        # Prepared -> raw -> the head's own world is what prepared -> template is, for a head of
        # the template's own shape.
        found = apply_affine(to_head @ to_raw, brain_mm)
        template = folder / "good_from-template_to-prepared_mode-image_xfm.tfm"
        expected = apply_affine(from_itk(SimpleITK.ReadTransform(str(template))), brain_mm)
        assert np.linalg.norm(found - expected, axis=1).max() < 3.0


def test_what_is_done_is_not_done_again(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(prepared.out, tmp_path / "out"))
    times = {p: p.stat().st_mtime_ns for p in (out / "good").rglob("*")}
    work: list[object] = []
    monkeypatch.setattr(prepare_module, "prepare_head", lambda *given: give_up(work.append(given)))
    report = prepare([prepared.raw / "good"], out, **prepared.options)
    assert (report.skipped, report.done, report.errors) == (
        [out / "good" / "good_prepare.json"],
        [],
        [],
    )
    assert {p: p.stat().st_mtime_ns for p in (out / "good").rglob("*")} == times
    assert work == []
    # A damaged output, another option: done again.
    (out / "good" / "good_t1.nii.gz").write_bytes(b"damaged")
    for options in (prepared.options, prepared.options | {"options": PrepareOptions(stretch=True)}):
        prepare([prepared.raw / "good"], out, **options)
    assert len(work) == 2


def test_a_subject_that_fails_later_keeps_what_there_is_of_it(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(prepared.out, tmp_path / "out"))
    before = {p.name for p in (out / "good").rglob("*.*")}
    monkeypatch.setattr(prepare_module, "prepare_head", give_up)
    report = prepare([prepared.raw / "good"], out, **prepared.options, overwrite=True)
    (error,) = report.errors
    assert (type(error), error.found) == (RegistrationError, "Zero-valued spacing")
    assert {p.name for p in (out / "good").rglob("*.*")} == before | {"good_failed.json"}

    # The failures of other calls stay listed, until their subjects are there.
    def listed() -> list[str]:
        return sorted(
            error["error"] for error in json.loads((out / "errors.json").read_text("utf-8"))
        )

    assert listed() == ["RegistrationError", "RegistrationError", "TruncatedFileError"]
    assert len(prepare([prepared.raw / "good"], out, **prepared.options).skipped) == 1
    assert listed() == ["RegistrationError", "TruncatedFileError"]
    assert {p.name for p in (out / "good").rglob("*.*")} == before


def test_another_subject_of_that_name_is_not_written_over(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(prepared.out, tmp_path / "out"))
    other = Path(shutil.copytree(prepared.raw / "good", tmp_path / "site" / "good"))
    monkeypatch.setattr(prepare_module, "prepare_head", give_up)
    again = {"options": PrepareOptions(stretch=True), "template": prepared.options["template"]}
    (error,) = prepare([other], out, **again).errors
    assert isinstance(error, OutputError)
    assert str(prepared.raw / "good" / "good_T1w.nii.gz") in error.found
    (error,) = prepare([other], out, **again, overwrite=True).errors
    assert isinstance(error, RegistrationError)


def test_another_series_of_the_same_folder_is_another_subject(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, out = tmp_path / "both", tmp_path / "out" / "both"
    one, other = (write_series(both, np.arange(256).reshape(4, 8, 8), prefix=name) for name in "ab")
    record = json.loads((prepared.good / "good_prepare.json").read_text("utf-8"))
    assert record["series"] == {"t1": None, "flair": None}
    out.mkdir(parents=True)
    of_one = record | {"inputs": {"t1": str(both)}, "series": {"t1": one}}
    (out / "both_prepare.json").write_text(json.dumps(of_one))
    monkeypatch.setattr(prepare_module, "prepare_head", give_up)
    options = prepared.options | {"modality": "t1"}
    (error,) = prepare([both], out.parent, **options, series=other).errors
    assert isinstance(error, OutputError)
    assert (f"series {other}" in error.expected, f"series {one}" in error.found) == (True, True)
    (error,) = prepare([both], out.parent, **options, series=one).errors
    assert isinstance(error, RegistrationError)


def test_what_another_process_did_meanwhile_is_not_an_error(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def overtaken(*_: object) -> SimpleNamespace:
        shutil.copytree(prepared.out, out)
        quality = SimpleNamespace(failures=list, reference="t1", brain="", to_reference={})
        quality.to_template = SimpleNamespace(contrast=0.2)
        return SimpleNamespace(quality=quality)

    def full(*_: object) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(prepare_module, "prepare_head", overtaken)
    monkeypatch.setattr(prepare_module, "write_head", full)
    report = prepare([prepared.raw / "good"], out, **prepared.options)
    assert (len(report.skipped), report.errors) == (1, [])


def test_a_frame_is_asked_of_those_scans_that_have_several(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = volume_from_array(np.random.default_rng(0).random((20, 20, 20)), np.diag([9, 9, 9, 1]))
    save(flat, tmp_path / "a_t1.nii.gz")
    frames = np.stack([flat.array, 2 * flat.array, 3 * flat.array], -1)
    nib.save(nib.Nifti1Image(frames, flat.affine), tmp_path / "a_flair.nii.gz")
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        prepare_module, "prepare_head", lambda volumes, *_: give_up(given.update(volumes))
    )
    prepare([tmp_path], tmp_path / "out", **prepared.options, frame=2)
    np.testing.assert_array_equal(given["t1"].array, flat.array)
    np.testing.assert_array_equal(given["flair"].array, 3 * flat.array)


def test_the_page_does_without_a_picture_or_a_record(prepared: Prepared, tmp_path: Path) -> None:
    out = Path(shutil.copytree(prepared.out, tmp_path / "out"))
    for name in ("other", "broken"):
        shutil.copytree(out / "good", out / name)
    (out / "other" / "good_prepare.png").unlink()
    (out / "broken" / "good_prepare.json").write_text("{}")
    report = prepare([prepared.raw / "good"], out, **prepared.options)
    assert report.page is not None
    page = report.page.read_text("utf-8")
    assert "other/good_prepare.json" in page
    assert "broken" not in page


def test_other_files_in_a_subject_s_folder_are_safe(prepared: Prepared, tmp_path: Path) -> None:
    out = Path(shutil.copytree(prepared.out, tmp_path / "out"))
    (out / "good" / "notes.txt").write_text("mine")
    again = prepared.options | {"options": PrepareOptions(stretch=True)}
    report = prepare([prepared.raw / "good"], out, **again)
    assert [type(error) for error in report.errors] == [OutputError]
    assert (out / "good" / "good_t1.nii.gz").exists()
    assert (out / "good" / "notes.txt").read_text("utf-8") == "mine"


def give_up(*_: object) -> None:
    """Fail in the same way as ITK."""
    raise RuntimeError("Exception thrown in SimpleITK\nZero-valued spacing")


# --- The way back ---


@pytest.fixture(scope="module")
def predicted(prepared: Prepared, quick: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("native") / "maps"
    report = predict(quick, [prepared.good], out, native=True, picture=False)
    assert report.errors == []
    return out


def test_a_map_comes_back_to_the_raw_scan_voxel_on_voxel(
    predicted: Path, prepared: Prepared
) -> None:
    raw = nib.load(prepared.raw / "good" / "good_FLAIR.nii.gz")
    image = nib.load(predicted / "good_native_anomaly.nii.gz")
    for field in ("dim", "pixdim", "srow_x", "srow_y", "srow_z", "sform_code", "qform_code"):
        np.testing.assert_array_equal(image.header[field], raw.header[field])
    ours = nib.load(predicted / "good_anomaly.nii.gz").header
    for field in ("descrip", "intent_name", "cal_min", "cal_max"):
        assert image.header[field] == ours[field]
    record = json.loads((predicted / "good.json").read_text("utf-8"))
    assert record["model"]["hash"][:12] in str(ours["descrip"])
    assert ours["cal_max"] == pytest.approx(2 * record["threshold"])
    scores = np.asarray(image.dataobj)
    points = points_of(raw.shape, NODDED @ raw.affine)
    distance = np.linalg.norm(points - LESION_MM, axis=-1)
    assert distance[np.unravel_index(scores.argmax(), scores.shape)] < LESION_RADIUS_MM
    mask = np.asarray(nib.load(predicted / "good_native_mask.nii.gz").dataobj) > 0
    assert mask[distance < LESION_RADIUS_MM / 2].all()
    assert record["native"]["source"].endswith("good_FLAIR.nii.gz")
    assert 0 <= record["native"]["findings_without_voxel"] < len(record["findings"])
    first = record["native"]["findings"][0]
    assert set(first) == set(record["findings"][0])


def test_raw_heads_are_prepared_and_predicted_in_one_call(
    prepared: Prepared,
    predicted: Path,
    quick: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the fixture prepared is in place, so that it is only found."""
    monkeypatch.setattr(raw_module, "prepare", partial(prepare, **prepared.options))
    good, cut = (
        Path(shutil.copytree(prepared.raw / name, tmp_path / name)) for name in ("good", "cut")
    )
    (cut / "cut_T1w.nii.gz").rename(cut / "cut_FLAIR.nii.gz")
    out = tmp_path / "maps"
    shutil.copytree(prepared.out, out / "prepared")
    report = predict(quick, [good, cut], out, prepare=True, picture=False)
    assert report.done == [out / "good.json"]
    assert [type(error) for error in report.errors] == [TruncatedFileError]
    for name in ("good_native_anomaly.nii.gz", "good_native_mask.nii.gz", "good_anomaly.nii.gz"):
        assert (out / name).read_bytes() == (predicted / name).read_bytes()
    # What failed in an earlier call, and does no longer, is not listed.
    earlier = str(prepared.raw / "good" / "good_FLAIR.nii.gz")
    write_failures(out, [Failure(report.errors[0], earlier)])
    again = predict(quick, [good], out, prepare=True, picture=False)
    assert (again.skipped, again.done, again.errors) == ([out / "good.json"], [], [])
    assert not (out / "errors.json").exists()
    # A head without the model's modality is not prepared.
    (tmp_path / "other").mkdir()
    other = (tmp_path / "good" / "good_FLAIR.nii.gz").rename(tmp_path / "other" / "other_T1.nii.gz")
    (error,) = predict(quick, [other], out, prepare=True, picture=False).errors
    assert "expected flair, which the model was trained on; found only t1" in str(error)
    assert not (out / "prepared" / "other").exists()
    with pytest.raises(ConfigError, match=r"--prepare: .*found --shard 1/2"):
        predict(quick, [good], out, prepare=True, shard=Shard(1, 2))


def test_prepared_subjects_are_no_predictions_to_report(
    predicted: Path, prepared: Prepared, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(prepared.out, tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"prepared\.html"):
        write_report(out)
    assert not (out / "report.html").exists()
    shutil.copytree(predicted, out, dirs_exist_ok=True)  # as of predict prepared --out prepared
    report = write_report(out)
    assert (report.pages, report.errors) == (1, [])


def test_what_was_predicted_without_native_is_done_again_with_it(
    predicted: Path, prepared: Prepared, quick: Model, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(predicted, tmp_path / "maps"))
    assert predict(quick, [prepared.good], out, native=True, picture=False).done == []
    record = json.loads((out / "good.json").read_text("utf-8"))
    del record["outputs"]["native_map"]
    (out / "good.json").write_text(json.dumps(record))
    assert len(predict(quick, [prepared.good], out, native=True, picture=False).done) == 1


def test_where_nothing_could_be_prepared_predict_says_where_to_read_why(
    prepared: Prepared, quick: Model, tmp_path: Path
) -> None:
    failed = Path(shutil.copytree(prepared.out / "noise", tmp_path / "prepared" / "noise"))
    (error,) = predict(quick, [failed.parent], tmp_path / "maps").errors
    assert "medrd prepare failed" in error.found
    assert "errors.json" in error.remedy


def test_a_scan_that_was_not_prepared_has_no_native_space(
    prepared: Prepared, quick: Model, tmp_path: Path
) -> None:
    alone = Path(shutil.copy(prepared.good / "good_flair.nii.gz", tmp_path / "a_flair.nii.gz"))
    (error,) = predict(quick, [alone], tmp_path / "maps", native=True).errors
    assert isinstance(error, MissingInputError)
    assert "remove --native" in error.remedy
    changed = Path(shutil.copytree(prepared.good, tmp_path / "good"))
    shutil.copy(changed / "good_t1.nii.gz", changed / "good_flair.nii.gz")
    (error,) = predict(quick, [changed], tmp_path / "maps", native=True).errors
    assert "content that differs" in error.found
