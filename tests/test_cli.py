"""The command line: exit codes, words instead of tracebacks, and a quick start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medrd import __version__
from medrd.cli import app
from medrd.models.detectors import DETECTORS, detector_class

Medrd = Callable[..., Any]

VERBS = (
    "demo",
    "train",
    "predict",
    "prepare",
    "evaluate",
    "compare",
    "tune",
    "report",
    "phantom",
    "export",
    "models",
    "to-dicom",
    "doctor",
)


def test_help_needs_no_heavy_import_and_names_every_verb() -> None:
    """A separate interpreter shows what --help imports."""
    code = """
import sys
import medrd.cli
try:
    medrd.cli.app(["--help"])
except SystemExit as leave:
    assert leave.code == 0
heavy = "torch torchvision monai timm ray optuna scipy sklearn nibabel SimpleITK matplotlib numpy"
print("HEAVY", *(name for name in heavy.split() if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 0, done.stderr
    *text, heavy = done.stdout.strip().splitlines()
    assert heavy == "HEAVY"
    assert all(any(verb in line for line in text) for verb in VERBS)
    assert "not a medical device" in " ".join(text)


def test_the_version_is_said(medrd: Medrd) -> None:
    done = medrd("--version")
    assert (done.code, done.stdout.strip()) == (0, __version__)


def test_the_package_can_be_run_as_a_module() -> None:
    call = [sys.executable, "-m", "medrd", "--version"]
    done = subprocess.run(call, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, __version__), done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(medrd: Medrd, verb: str) -> None:
    done = medrd(verb, "--help")
    assert done.code == 0
    assert "--help" in done.stdout


def test_the_verbs_are_those_that_the_tests_know() -> None:
    commands = [(command.name, command.callback) for command in app.registered_commands]
    assert {name or callback.__name__ for name, callback in commands if callback} == set(VERBS)


@pytest.mark.parametrize(
    "argv",
    [
        ("fly",),
        ("train",),
        ("train", "config.yaml"),
        ("predict", "--out", "x"),
        ("evaluate", "run", "other", "config.yaml", "--out", "x"),
        ("predict", "run", "scan.nii", "--out", "x", "--frame", "-1"),
        ("train", "nowhere.yaml", "--out", "x"),
        ("compare", "nowhere.yaml", "--out", "x"),
        ("tune", "nowhere.yaml", "--out", "x"),
        ("tune", "nowhere.yaml"),
    ],
)
def test_usage_errors_are_exit_2_without_traceback(medrd: Medrd, argv: tuple[str, ...]) -> None:
    done = medrd(*argv)
    assert done.code == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.epoch=3", "Did you mean epochs?"),
        ("model.learning_rate=1", "Known here: "),
        ("train.epochs=many", "train.epochs"),
        ("train.epochs", "key.path=value"),
        ("model.lr=1e-3x", "model.lr"),
    ],
)
def test_a_wrong_setting_says_what_would_be_right(
    medrd: Medrd, tiny_yaml: Path, tmp_path: Path, setting: str, said: str
) -> None:
    done = medrd("train", tiny_yaml, "--out", tmp_path / "run", "--set", setting)
    assert done.code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("--out=~nobody-of-this-name/x", "there is no such user. Write the full path"),
        ("--out=", "--out: expected a value; found an empty one"),
        ("--out=/dev/null", "/dev/null: expected a folder for results; found a file where"),
        ("--out=/dev/null/x", "a file where a folder should be"),
        (f"--out={'x' * 300}", "a name too long for the file system"),
    ],
)
def test_an_out_that_cannot_be_is_named_before_any_work(
    medrd: Medrd, tmp_path: Path, out: str, said: str
) -> None:
    for verb in (["train", tmp_path / "a.yaml"], ["predict", tmp_path, tmp_path], ["phantom"]):
        done = medrd(*verb, out)
        assert done.code in (2, 3)
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("number", "code"), [("ENOSPC", 3), ("EACCES", 3), ("ENOENT", 1)])
def test_what_the_system_denies_is_one_line_but_a_missing_file_may_be_a_bug(
    medrd: Medrd, tmp_path: Path, number: str, code: int
) -> None:
    denied = (
        f"import errno, medrd.doctor as d\ndef no(**_): raise OSError(errno.{number}, 'no', '/f')\n"
    )
    done = medrd("doctor", prelude=f"{denied}d.environment_text = no")
    assert done.code == code
    assert ("Traceback" in done.stderr) == (code == 1)
    assert "/f" in done.stderr


def test_what_a_trained_model_decides_cannot_be_set_in_its_evaluation(
    medrd: Medrd, tiny_yaml: Path, tmp_path: Path
) -> None:
    done = medrd("evaluate", tmp_path, tiny_yaml, "--out", tmp_path, "--set", "scoring.sigma_px=2")
    assert done.code == 2
    assert "found scoring, which the trained model fixes" in done.stderr


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_what_is_no_model_is_exit_4(
    medrd: Medrd, tiny_yaml: Path, tmp_path: Path, verb: str
) -> None:
    done = medrd(verb, tmp_path, tiny_yaml, "--out", tmp_path / "out")
    assert done.code == 4
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_there_are_exit_4(
    medrd: Medrd, tiny_yaml: Path, tmp_path: Path
) -> None:
    teacher = "model.teacher={name: resnet18, weights: file, file: nowhere.pth}"
    done = medrd("train", tiny_yaml, "--out", tmp_path / "run", "--set", teacher)
    assert done.code == 4
    assert "nowhere.pth" in done.stderr


def test_a_bug_is_exit_1_and_shows_its_traceback(
    medrd: Medrd, tiny_yaml: Path, tmp_path: Path
) -> None:
    bug = "import medrd.training.train as t\nt.load_cohort = lambda c: 1 / 0"
    done = medrd("train", tiny_yaml, "--out", tmp_path / "run", prelude=bug)
    assert done.code == 1
    assert "ZeroDivisionError" in done.stderr


def test_what_triton_leaves_behind_is_not_listed_at_the_end() -> None:
    """A separate interpreter, because the list is written when one ends."""
    pytest.importorskip("triton")
    code = """
import sys
import medrd.cli
import triton._C.libtriton
sys.argv[1:] = ["--version"]
medrd.cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_results_go_to_standard_output_and_the_rest_to_standard_error(
    medrd: Medrd, tiny_run: Path, tiny_root: Path, tmp_path: Path
) -> None:
    done = medrd("predict", tiny_run, tiny_root / "tiny_4", "--out", tmp_path)
    assert done.code == 0
    assert done.stdout.split() == [str(tmp_path / "tiny_4.json")]
    assert "1 predicted" in done.stderr
    quiet = medrd("-q", "predict", tiny_run, tiny_root / "tiny_4", "--out", tmp_path)
    assert "predicting" in done.stderr
    assert "predicting" not in quiet.stderr


def test_doctor_knows_versions_models_and_the_embedded_teacher(medrd: Medrd) -> None:
    done = medrd("doctor")
    assert done.code == 0, done.stderr
    assert __version__ in done.stdout
    assert "embedded EfficientNet-Lite0 weights load" in done.stdout
    rows = [row for row in done.stdout.splitlines() if "|" in row]
    for name in DETECTORS:
        assert any(f"| {name} " in row and detector_class(name).source in row for row in rows)


def test_doctor_counts_parameters_if_asked(medrd: Medrd) -> None:
    few = """
import medrd.doctor as module
module.DETECTORS = {name: module.DETECTORS[name] for name in ("intensity", "rd4ad")}
"""
    done = medrd("doctor", "--models", prelude=few)
    rows = [row for row in done.stdout.splitlines() if "|" in row]
    # Deng & Li's student for Wide-ResNet-50-2, without the released code's unused part.
    (row,) = (row for row in rows if "| rd4ad " in row and "wide_resnet50_2" in row)
    assert "83.8 M" in row
    assert "24.9 M" in row


def test_doctor_tells_programs_the_same(medrd: Medrd) -> None:
    few = """
import medrd.doctor as module
module.DETECTORS = {name: module.DETECTORS[name] for name in ("intensity", "rd4ad", "patchcore")}
"""
    done = medrd("doctor", "--json", "--models", prelude=few)
    found = json.loads(done.stdout)
    assert found["versions"]["medrd"] == __version__
    assert {"SimpleITK", "ray", "onnxruntime"} <= found["versions"].keys()
    models = {model["name"]: model for model in found["models"]}
    assert models["intensity"]["parameters"]["all"] == 0
    assert models["rd4ad"]["exports"]
    assert not models["patchcore"]["exports"]


def test_phantom_writes_what_train_can_read(medrd: Medrd, tmp_path: Path) -> None:
    out = tmp_path / "brains"
    fake = """
import medrd.run.phantoms as module
def write_cohort(out, subjects, *, seed, sort, workers, on_done):
    assert (seed, sort, workers) == (7, "varied", 2)
    on_done("a")
    return [out / "a"]
module.write_cohort = write_cohort
"""
    done = medrd("phantom", "--out", out, "--subjects", 2, "--seed", 7, "--varied", prelude=fake)
    assert done.code == 0, done.stderr
    assert done.stdout.split() == [str(out / "a")]


def test_an_errors_json_is_plain_json(medrd: Medrd, tiny_run: Path, tmp_path: Path) -> None:
    done = medrd("predict", tiny_run, tmp_path / "ä missing.nii.gz", "--out", tmp_path / "out")
    assert done.code == 3
    (error,) = json.loads((tmp_path / "out" / "errors.json").read_text(encoding="utf-8"))
    assert error["error"] == "MissingInputError"
    assert "ä missing" in error["where"]
