"""``medrd report`` and ``predict(report=True)`` on what predict writes."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest

from medrd.config import make_config
from medrd.errors import (
    ConfigError,
    FileFormatError,
    MissingInputError,
    OutputError,
    WrongKindError,
)
from medrd.evaluation.evaluate import evaluate
from medrd.evaluation.outputs import choose_cases
from medrd.prediction import report as report_scans
from medrd.prediction.predict import predict
from medrd.report import write_report
from medrd.run.model_folder import Model, load_model
from medrd.training.train import train


def embedded(page: Path, name: str) -> np.ndarray:
    """A volume that a page holds."""
    found = re.search(rf'id="{name}">([^<]*)<', page.read_text(encoding="utf-8"))
    assert found is not None
    return np.asarray(
        nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(found[1]))).dataobj
    )


def test_scans_get_a_page_each_and_an_index(quick: Model, tiny_root: Path, tmp_path: Path) -> None:
    given = [tiny_root / "tiny_0", tiny_root / "tiny_4", tmp_path / "missing.nii.gz"]
    result = predict(quick, given, tmp_path / "out", report=True)
    assert result.page is not None
    assert (result.page.pages, result.page.errors) == (2, [])
    index = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    pages = [tmp_path / "out" / "report" / f"tiny_{i}.html" for i in (0, 4)]
    for page in pages:
        assert f'href="report/{page.name}"' in index
        record = json.loads((tmp_path / "out" / f"{page.stem}.json").read_text(encoding="utf-8"))
        assert len(re.findall(r"<tr tabindex", page.read_text(encoding="utf-8"))) == len(
            record["findings"]
        )
        # the finding is where the label is; both are on the page
        heat, truth = embedded(page, "heat"), embedded(page, "truth") > 0
        assert heat[truth].mean() > 1.5 * heat[heat > 0].mean()
        mask = np.asarray(nib.load(tmp_path / "out" / f"{page.stem}_mask.nii.gz").dataobj) > 0
        label = np.asarray(nib.load(record["label"]).dataobj) > 0
        dice = 2 * (mask & label).sum() / (mask.sum() + label.sum())
        assert f"{dice:.3f}" in index
        assert f"{dice:.3f}" in page.read_text(encoding="utf-8")
    assert "missing.nii.gz" in index  # what failed is said
    assert "data:image/jpeg" in index

    # What is gone goes from the report as well; a page that medrd did not write stays.
    (pages[0].parent / "mine.html").write_text("mine")
    (tmp_path / "out" / "tiny_0.json").unlink()
    again = write_report(tmp_path / "out")
    assert again.pages == 1
    assert not pages[0].exists()
    assert not pages[1].exists()  # the only scan is on report.html itself
    assert embedded(again.path, "heat").max() > 1
    assert (pages[0].parent / "mine.html").read_text(encoding="utf-8") == "mine"


def test_a_scan_unlike_the_training_scans_is_shown_with_that_warning(
    quick: Model, tiny_root: Path, tmp_path: Path
) -> None:
    scan = nib.load(tiny_root / "tiny_0" / "tiny_0_flair.nii.gz")
    upside_down = np.asarray(scan.dataobj).max() - np.asarray(scan.dataobj)
    upside_down[np.asarray(scan.dataobj) == 0] = 0
    nib.save(nib.Nifti1Image(upside_down, scan.affine), tmp_path / "a_T1w.nii.gz")
    result = predict(quick, [tmp_path / "a_T1w.nii.gz"], tmp_path / "out", report=True)
    record = json.loads(result.done[0].read_text(encoding="utf-8"))
    assert record["unlike_training"]
    assert result.page is not None
    page = result.page.path.read_text(encoding="utf-8")
    for text in record["unlike_training"]:
        assert escape(f"Unlike the training scans: {text}") in page

    more = predict(quick, [tiny_root / "tiny_0"], tmp_path / "out", report=True)
    assert more.page is not None
    rows = more.page.path.read_text(encoding="utf-8").split("<tr>")
    (row,) = (row for row in rows if ">a_T1w<" in row)
    count = len(record["warnings"]) + len(record["unlike_training"])
    assert re.search(rf'data-value="{count}.0">{count}<', row)
    assert ">not checked<" not in rows[0]


def test_a_page_is_made_again_only_where_it_would_show_something_else(
    quick: Model, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_root / "tiny_0", tmp_path / "tiny_0"))
    first = predict(quick, [folder, tiny_root / "tiny_4"], tmp_path / "out", report=True).page
    assert first is not None
    index = first.path.read_text(encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(report_scans, "embed_scan", None)
        again = write_report(tmp_path / "out")
    assert (again.pages, again.kept, again.errors) == (0, 2, [])
    assert again.path.read_text(encoding="utf-8") == index  # its Dice and warnings too
    label = folder / "tiny_0_seg.nii.gz"
    nib.save(nib.load(label).slicer[:-1], label)
    again = write_report(tmp_path / "out")
    assert (again.pages, again.kept) == (1, 1)
    assert again.path.read_text(encoding="utf-8") != index
    monkeypatch.setattr(report_scans, "CODE_VERSION", 0)
    assert write_report(tmp_path / "out").pages == 2


def test_pages_stay_where_scans_cannot_be_found_again(
    quick: Model, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a#1", "b?x 50%"):  # links must lead to these as well
        shutil.copy(tiny_root / "tiny_0" / "tiny_0_flair.nii.gz", tmp_path / f"{name}.nii.gz")
    monkeypatch.chdir(tmp_path)
    predict(quick, [Path("a#1.nii.gz"), Path("b?x 50%.nii.gz")], tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    first = write_report(tmp_path / "out")
    assert (first.pages, first.errors) == (2, [])  # paths on record do not depend on the folder

    (tmp_path / "a#1.nii.gz").rename(tmp_path / "moved.nii.gz")
    again = write_report(tmp_path / "out")
    assert (again.kept, [type(e) for e in again.errors]) == (1, [MissingInputError])
    index = again.path.read_text(encoding="utf-8")
    assert "a#1.nii.gz: expected" in index
    links = re.findall(r'<a href="(report/[^"]+)"', index)
    assert len(links) == 2
    for link in links:
        assert not set("#?") & set(link)
        assert "tabindex" in (tmp_path / "out" / unquote(link)).read_text(encoding="utf-8")


def test_what_cannot_be_shown_is_in_errors_json_until_it_can(
    quick: Model, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(tiny_root / "tiny_0" / "tiny_0_flair.nii.gz", tmp_path / "a.nii.gz")
    record = json.loads(
        predict(quick, [tmp_path / "a.nii.gz"], tmp_path / "out").done[0].read_text("utf-8")
    )
    del record["frame"]  # as an earlier version wrote it
    (tmp_path / "out" / "a.json").write_text(json.dumps(record))
    result = predict(quick, [tmp_path / "a.nii.gz"], tmp_path / "out", report=True)
    assert (len(result.skipped), result.errors) == (1, [])
    assert result.page is not None
    (error,) = result.page.errors
    (listed,) = json.loads((tmp_path / "out" / "errors.json").read_text(encoding="utf-8"))
    assert listed == {**error.to_dict(), "step": "report"}
    (tmp_path / "out" / "a.json").write_text(json.dumps(record | {"frame": None}))
    assert write_report(tmp_path / "out").errors == []


def test_a_scan_that_is_no_longer_the_one_predicted_is_not_shown(
    quick: Model, tiny_root: Path, tmp_path: Path
) -> None:
    scans = [tmp_path / f"{name}.nii.gz" for name in "ab"]
    for i, scan in enumerate(scans):
        shutil.copy(tiny_root / f"tiny_{i}" / f"tiny_{i}_flair.nii.gz", scan)
    predict(quick, scans, tmp_path / "out", picture=False)
    shutil.copy(scans[1], scans[0])
    report = write_report(tmp_path / "out")
    assert [type(error) for error in report.errors] == [WrongKindError]
    index = report.path.read_text(encoding="utf-8")
    assert 'href="report/b.html"' in index
    assert "with other content" in index


def test_a_label_that_does_not_fit_is_a_warning(
    quick: Model, tiny_root: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_root / "tiny_0", tmp_path / "tiny_0"))
    label = folder / "tiny_0_seg.nii.gz"
    nib.save(nib.load(label).slicer[:-1], label)
    result = predict(quick, [folder], tmp_path / "out", report=True)
    assert result.page is not None
    assert "The label is not shown" in result.page.path.read_text(encoding="utf-8")


def test_of_a_label_the_page_shows_what_the_models_config_calls_lesion(
    quick: Model, tiny_root: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(quick.folder, tmp_path / "model"))
    described = json.loads((model / "model.json").read_text(encoding="utf-8"))
    described["config"]["data"]["lesion_labels"] = [2, 4]
    (model / "model.json").write_text(json.dumps(described))
    folder = Path(shutil.copytree(tiny_root / "tiny_0", tmp_path / "tiny_0"))
    path = folder / "tiny_0_seg.nii.gz"
    brain = np.asarray(nib.load(folder / "tiny_0_flair.nii.gz").dataobj) > 0
    lesion = np.asarray(nib.load(path).dataobj) > 0
    values = np.where(lesion, 4, brain).astype(np.uint8)  # 1 means brain
    nib.save(nib.Nifti1Image(values, nib.load(path).affine), path)
    result = predict(model, [folder], tmp_path / "out", report=True)
    assert result.page is not None
    assert (embedded(result.page.path, "truth") > 0).sum() == lesion.sum()


def test_without_calibration_or_profile_scans_share_a_scale_and_what_is_not_checked_is_listed(
    quick: Model, tiny_root: Path, tmp_path: Path
) -> None:
    bare = Model(quick.detector, quick.config, None, quick.training, "another")
    folders = [tiny_root / "tiny_0", tiny_root / "tiny_4"]
    predict(bare, folders, tmp_path, picture=False, report=True)
    unchecked = "Not checked: anything: the model file has no profile of its training scans."
    for i in (0, 4):
        assert unchecked in (tmp_path / "report" / f"tiny_{i}.html").read_text(encoding="utf-8")
    heading, *rows = (tmp_path / "report.html").read_text(encoding="utf-8").split("<tr>")[1:]
    assert ">not checked<" in heading
    assert all('data-value="1.0">1<' in row for row in rows)
    maps = [np.asarray(nib.load(tmp_path / f"tiny_{i}_anomaly.nii.gz").dataobj) for i in (0, 4)]
    shown = [embedded(tmp_path / "report" / f"tiny_{i}.html", "heat") for i in (0, 4)]
    top = max(m.max() for m in maps)
    assert [s.max() for s in shown] == pytest.approx([m.max() / top for m in maps], abs=0.01)


def test_pictures_get_pages_too(picture_raw: dict[str, Any], tmp_path: Path) -> None:
    raw = picture_raw | {"model": {"name": "intensity"}}
    del raw["train"]
    model = load_model(train(make_config(raw), tmp_path / "run"))
    tests = Path(raw["data"]["root"]) / "weave" / "test"
    result = predict(model, [tests], tmp_path / "out", report=True)
    assert result.page is not None
    assert result.page.pages == len(result.done) > 2
    record = json.loads(result.done[0].read_text(encoding="utf-8"))
    page = tmp_path / "out" / "report" / result.done[0].relative_to(tmp_path / "out")
    text = page.with_suffix(".html").read_text(encoding="utf-8")
    assert text.count("<tr tabindex") == len(record["findings"])
    assert text.count("data:image/png") == 2
    assert 'href="../../report.html"' in text


# --- Training runs and evaluations ---


@pytest.fixture(scope="module")
def evaluation(quick: Model, tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The baseline's evaluation on its two test subjects, with a report; read only."""
    raw = quick.config.to_dict()
    raw["data"]["root"] = str(tiny_root)
    out = tmp_path_factory.mktemp("evaluated") / "evaluation"
    evaluate(quick, make_config(raw), out, report=True)
    return out


def test_an_evaluation_shows_metrics_curves_and_cases(evaluation: Path) -> None:
    page = (evaluation / "report.html").read_text(encoding="utf-8")
    metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
    for key in ("pixel_ap", "image_auroc", "subject_dice"):
        assert f"{metrics[key]:.3f}" in page
    for name in ("Images: ROC", "Voxels or pixels: precision", "Per-region overlap", "FROC"):
        assert name in page
    subjects = json.loads((evaluation / "subjects.json").read_text(encoding="utf-8"))
    assert page.count("<figure>") == 6 + len(subjects)
    assert f"<h1>intensity on {metrics['protocol']['data_set']}</h1>" in page
    for row in subjects:
        assert f'href="cases/report/{row["subject"]}.html"' in page
        case = evaluation / "cases" / "report" / f"{row['subject']}.html"
        assert f"{row['dice']:.3f}" in case.read_text(encoding="utf-8")
        assert embedded(case, "truth").any()


def test_froc_is_the_counts_of_the_metrics_at_the_threshold(evaluation: Path) -> None:
    points = json.loads((evaluation / "froc.json").read_text(encoding="utf-8"))
    metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
    factors = [point["factor"] for point in points]
    assert factors == sorted(factors)
    at = points[factors.index(1.0)]
    for key in ("lesion_sensitivity", "false_positives_per_scan"):
        assert at[key] == metrics[key]
    assert points[-1]["lesion_sensitivity"] < at["lesion_sensitivity"]


def test_a_run_shows_its_loss_and_its_evaluation(
    tiny_run: Path, evaluation: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    alone = write_report(run).path.read_text(encoding="utf-8")
    assert alone.count("<figure>") == 1
    assert "Loss by epoch" in alone
    assert "FROC" not in alone
    shutil.copytree(evaluation, run / "evaluation")
    both = write_report(run).path.read_text(encoding="utf-8")
    cases = len(list((run / "evaluation" / "cases").glob("*.json")))
    assert both.count("<figure>") == 7 + cases
    case = re.search(r'href="(evaluation/cases/report/[^"]+)"', both)
    assert case is not None
    assert (run / case[1]).is_file()


def test_cases_whose_scans_have_moved_keep_their_pages(
    quick: Model, tiny_root: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(tiny_root, tmp_path / "data"))
    raw = quick.config.to_dict()
    raw["data"]["root"] = str(data)
    evaluate(quick, make_config(raw), tmp_path / "ev", report=True)
    data.rename(tmp_path / "elsewhere")
    pages = sorted((tmp_path / "ev" / "cases" / "report").glob("*.html"))
    pages[0].unlink()
    again = write_report(tmp_path / "ev")
    assert len(again.errors) == len(pages) == 2
    page = again.path.read_text(encoding="utf-8")
    links = re.findall(r'href="(cases/[^"]+)"', page)
    assert links == [f"cases/report/{pages[1].name}"]  # none leads to nothing
    assert pages[1].is_file()
    assert "A case could not be shown again" in page


def test_a_damaged_run_is_an_error(evaluation: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(evaluation, tmp_path / "evaluation"))
    for damaged in ("[]", "{", '{"protocol": {}}'):
        (out / "metrics.json").write_text(damaged)
        with pytest.raises(FileFormatError, match="medrd"):
            write_report(out)


def test_cases_are_the_best_and_the_worst_once_each() -> None:
    rows = [{"subject": str(i), "dice": i / 10, "scan_score": 1.0} for i in range(8)]
    assert choose_cases(rows) == ["7", "6", "5", "2", "1", "0"]
    assert choose_cases(rows[:4]) == ["3", "2", "1", "0"]
    pictures = [
        {"subject": f"{i}", "scan_score": float(i), "lesion_voxels": int(i % 2)} for i in range(10)
    ]
    assert choose_cases(pictures) == ["1", "3", "5", "4", "6", "8"]


def test_what_is_no_folder_of_medrds_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}")
    (tmp_path / "foreign.json").write_text('{"identity": 1, "outputs": 2}')
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="medrd predict"):
            write_report(folder)


def test_a_report_of_somebody_elses_is_not_replaced(
    quick: Model, tiny_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(OutputError):
        predict(quick, [tiny_root / "tiny_0", tiny_root / "tiny_1"], tmp_path, report=True)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "mine"
