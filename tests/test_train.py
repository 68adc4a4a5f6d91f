"""Training: killed and resumed bit for bit, refused where it must be, and complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from medrd.config import load_config, make_config
from medrd.errors import ConfigError, InputError, LeakageError, ModelError, OutputError
from medrd.models import Step, build_detector
from medrd.workflows.checkpoint import Position, load_checkpoint, save_checkpoint
from medrd.workflows.loop import make_optimizers
from medrd.workflows.train import train

Medrd = Callable[..., Any]

KILL = "os.kill(os.getpid(), signal.SIGKILL)"
TERM = "os.kill(os.getpid(), signal.SIGTERM)"
WEIGHTS = Path("model") / "model.safetensors"


def at_call(target: str, number: int, action: str, *, after: bool = False) -> str:
    """Python that does ``action`` at the ``number``-th call of a medrd function."""
    module, _, name = target.rpartition(".")
    return f"""
import importlib, os, signal
parts = {module!r}.split(":")
owner = importlib.import_module(parts[0])
for part in parts[1:]:
    owner = getattr(owner, part)
original, calls = getattr(owner, {name!r}), [0]
def patched(*args, **kwargs):
    calls[0] += 1
    if calls[0] == {number} and not {after}:
        {action}
    result = original(*args, **kwargs)
    if calls[0] == {number} and {after}:
        {action}
    return result
setattr(owner, {name!r}, patched)
"""


ITERATION = "medrd.workflows.loop:Loop.iteration"
CHECKPOINT = "medrd.workflows.fit.save_checkpoint"


def epochs_logged(run: Path) -> list[int]:
    return [
        json.loads(line)["epoch"]
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def losses_logged(run: Path) -> list[float]:
    return [
        json.loads(line)["loss"]
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def assert_same_result(run: Path, reference: Path) -> None:
    """Weights, BatchNorm statistics, thresholds and the course of the loss, bit for bit."""
    assert (run / WEIGHTS).read_bytes() == (reference / WEIGHTS).read_bytes()
    assert epochs_logged(run) == [1, 2]
    assert losses_logged(run) == losses_logged(reference)
    described = [
        json.loads((r / "model" / "model.json").read_text(encoding="utf-8"))
        for r in (run, reference)
    ]
    assert described[0] == described[1]


def assert_seconds_are_those_of_all_epochs(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    seconds = sum(json.loads(line)["seconds"] for line in lines)
    assert record["training_seconds"] == pytest.approx(seconds, abs=1e-3)
    assert record["training_seconds"] > 0


BATCHES = 6  # an epoch: 26 slices in batches of 4; there are two epochs
MOMENTS = {
    "in the first epoch": at_call(ITERATION, 4, KILL),
    "before the first checkpoint": at_call(CHECKPOINT, 1, KILL),
    "after the first checkpoint": at_call(CHECKPOINT, 1, KILL, after=True),
    "in the second epoch": at_call(ITERATION, 9, KILL),
    "while a checkpoint is written": at_call("torch.save", 2, KILL, after=True),
    "before the calibration": at_call("medrd.workflows.train.calibrate", 1, KILL),
    "before the last file": at_call("medrd.workflows.train.write_json", 1, KILL),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_with_kill_9_and_resumed_is_as_if_never_killed(
    medrd: Medrd, tiny_yaml: Path, tiny_run: Path, tmp_path: Path, moment: str
) -> None:
    out = tmp_path / "run"
    killed = medrd("train", tiny_yaml, "--out", out, prelude=MOMENTS[moment])
    assert killed.code == -9
    assert not (out / "run.json").exists()
    resumed = medrd("train", tiny_yaml, "--out", out, "--resume")
    assert resumed.code == 0, resumed.stderr
    assert_same_result(out, tiny_run)
    assert not (out / "checkpoint.pt").exists()


def test_killed_again_and_again_it_still_gets_there(
    medrd: Medrd, tiny_yaml: Path, tiny_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for prelude in (MOMENTS["after the first checkpoint"], at_call(ITERATION, 5, KILL)):
        assert medrd("train", tiny_yaml, "--out", out, "--resume", prelude=prelude).code == -9
    assert medrd("train", tiny_yaml, "--out", out, "--resume").code == 0
    assert_same_result(out, tiny_run)
    assert_seconds_are_those_of_all_epochs(out)


@pytest.mark.parametrize(("batch", "signal"), [(3, "SIGTERM"), (BATCHES, "SIGTERM"), (8, "SIGINT")])
def test_a_signal_saves_in_mid_epoch_and_the_resumed_run_is_the_same(
    medrd: Medrd, tiny_yaml: Path, tiny_run: Path, tmp_path: Path, batch: int, signal: str
) -> None:
    out = tmp_path / "run"
    action = TERM.replace("SIGTERM", signal)
    stopped = medrd("train", tiny_yaml, "--out", out, prelude=at_call(ITERATION, batch, action))
    assert stopped.code == 130
    assert "--resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    content = torch.load(out / "checkpoint.pt", weights_only=True)
    assert (content["epoch"], content["batch"]) == divmod(batch, BATCHES)
    # Nothing is done twice: the resumed process makes the rest of the iterations and no more.
    one_too_many = at_call(ITERATION, 2 * BATCHES - batch + 1, "raise AssertionError")
    resumed = medrd("train", out / "config.yaml", "--out", out, "--resume", prelude=one_too_many)
    assert resumed.code == 0, resumed.stderr
    assert_same_result(out, tiny_run)


def test_a_signal_outside_the_loop_ends_with_a_word(
    medrd: Medrd, tiny_yaml: Path, tmp_path: Path
) -> None:
    prelude = at_call("medrd.workflows.train.prepare_sides", 1, TERM)
    stopped = medrd("train", tiny_yaml, "--out", tmp_path / "run", prelude=prelude)
    assert stopped.code == 130
    assert "interrupted" in stopped.stderr
    assert "Traceback" not in stopped.stderr


def test_resuming_a_finished_run_changes_nothing(
    medrd: Medrd, tiny_yaml: Path, tiny_run: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in tiny_run.rglob("*")}
    done = medrd("train", tiny_yaml, "--out", tiny_run, "--resume")
    assert done.code == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in tiny_run.rglob("*")} == before


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def unfinished(medrd: Medrd, tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its first epoch."""
    out = tmp_path_factory.mktemp("unfinished") / "run"
    prelude = MOMENTS["after the first checkpoint"]
    assert medrd("train", tiny_yaml, "--out", out, prelude=prelude).code == -9
    return out


@pytest.mark.parametrize("state", ["finished", "unfinished"])
@pytest.mark.parametrize("change", ["model.lr=0.001", "train.epochs=3", "seed=1"])
def test_a_resume_with_another_config_is_refused_and_overwrites_nothing(
    medrd: Medrd,
    tiny_yaml: Path,
    tiny_run: Path,
    unfinished: Path,
    tmp_path: Path,
    state: str,
    change: str,
) -> None:
    out = tmp_path / "run"
    shutil.copytree(tiny_run if state == "finished" else unfinished, out)
    before = snapshot(out)
    refused = medrd("train", tiny_yaml, "--out", out, "--resume", "--set", change)
    assert refused.code == (2 if state == "finished" else 4)
    assert "Traceback" not in refused.stderr
    assert snapshot(out) == before


@pytest.mark.parametrize(
    ("content", "resume", "said"),
    [
        ("finished", False, r"found a finished run\. .*--resume"),
        ("config of ours", False, r"found an unfinished run\. .*--resume"),
        ("config of another", False, r"found files\. Give another --out"),
        ("config of another", True, r"found files\. Give another --out"),
        ("thesis", True, r"found files\. Give another --out"),
    ],
)
def test_a_folder_that_is_not_empty_is_refused_and_left_alone(
    tiny_run: Path,
    tmp_path: Path,
    tiny_raw: dict[str, Any],
    content: str,
    resume: bool,
    said: str,
) -> None:
    """A run that was killed before its first checkpoint holds its config alone."""
    out = tmp_path / "run"
    if content == "finished":
        shutil.copytree(tiny_run, out)
    else:
        out.mkdir()
        if content == "config of ours":
            shutil.copy(tiny_run / "config.yaml", out)
        else:
            name = "thesis.txt" if content == "thesis" else "config.yaml"
            (out / name).write_text("services: {}")
    before = snapshot(out)
    with pytest.raises(ConfigError, match=said):
        train(make_config(tiny_raw), out, resume=resume)
    assert snapshot(out) == before


def test_where_the_teachers_file_lay_is_no_part_of_a_run(
    tiny_run: Path, tmp_path: Path, tiny_raw: dict[str, Any]
) -> None:
    out = Path(shutil.copytree(tiny_run, tmp_path / "run"))

    def config(file: str, name: str = "resnet18") -> Any:
        teacher = {"name": name, "weights": "file", "file": file}
        return make_config(tiny_raw | {"model": {"teacher": teacher}})

    (out / "config.yaml").write_text(config("/here/w.pth").to_yaml())
    assert train(config("/moved/w.pth"), out, resume=True) == out
    with pytest.raises(ConfigError, match="another one"):
        train(config("/here/w.pth", name="resnet34"), out, resume=True)


@pytest.mark.parametrize("below", ["", "sub/run"])
def test_an_out_that_cannot_be_a_folder_is_a_typed_error_before_any_work(
    tmp_path: Path, tiny_raw: dict[str, Any], below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(
        "medrd.workflows.train.prepare_sides", lambda *a, **k: pytest.fail("work was begun")
    )
    with pytest.raises(OutputError):
        train(make_config(tiny_raw), tmp_path / "file" / below)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "x"


# --- The checkpoint itself ---


def test_a_checkpoint_holds_every_trainable_tensor_and_no_frozen_one(tmp_path: Path) -> None:
    detector = build_detector("rd4ad", teacher="resnet18")
    save_checkpoint(tmp_path / "c.pt", detector, {}, Position(0, 0, {}), identity="x")
    saved = torch.load(tmp_path / "c.pt", weights_only=True)["detector"]
    expected = [key for key in detector.state_dict() if not key.startswith("teacher.")]
    assert sorted(saved) == sorted(expected)


def test_a_checkpoint_brings_weights_statistics_and_optimiser_back(tmp_path: Path) -> None:
    def make(seed: int) -> tuple[Any, dict[str, torch.optim.Optimizer]]:
        torch.manual_seed(seed)
        detector = build_detector("rd4ad", teacher="resnet18").train()
        optimizers = make_optimizers(detector.steps())
        return detector, optimizers

    detector, optimizers = make(0)
    for _ in range(2):
        detector.anomaly_map(torch.rand(2, 3, 64, 64)).sum().backward()
        optimizers["distil"].step()
    position = Position(3, 5, {"distil": 0.1 + 0.2})
    save_checkpoint(tmp_path / "c.pt", detector, optimizers, position, identity="x")
    expected = torch.rand(1)

    other, others = make(1)
    state = dict(other.state_dict())
    frozen = {k: v.clone() for k, v in state.items() if k.startswith("teacher.")}
    assert load_checkpoint(tmp_path / "c.pt", other, others, identity="x") == position
    assert torch.equal(torch.rand(1), expected)  # the random state too
    for key, value in detector.state_dict().items():
        wanted = frozen.get(key, value)
        assert torch.equal(other.state_dict()[key], wanted), key
    mine, theirs = (list(o["distil"].state.values()) for o in (optimizers, others))
    assert len(mine) == len(list(detector.bottleneck.parameters())) + len(
        list(detector.decoder.parameters())
    )
    for a, b in zip(mine, theirs, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "other detector", "missing tensor"])
def test_a_damaged_checkpoint_is_a_model_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.pt"
    detector = build_detector("rd4ad", teacher="resnet18")
    save_checkpoint(path, detector, {}, Position(0, 0, {}), identity="x")
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("no checkpoint")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-5000])
    elif damage == "other detector":
        detector = build_detector("rd4ad", teacher="tf_efficientnet_lite0")
    else:
        content = torch.load(path, weights_only=True)
        del content["detector"]["decoder.stages.0.0.body.1.num_batches_tracked"]
        torch.save(content, path)
    with pytest.raises(ModelError):
        load_checkpoint(path, detector, {}, identity="x")


# --- What training sees ---


def copy_cohort(root: Path, to: Path) -> Path:
    return Path(shutil.copytree(root, to))


def relabel(root: Path, subject: str, *, fill: int) -> None:
    path = root / subject / f"{subject}_seg.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(image.shape, fill, np.uint8), image.affine), path)


def test_test_labels_change_neither_weights_nor_thresholds(
    medrd: Medrd, tiny_yaml: Path, tiny_root: Path, tiny_run: Path, tmp_path: Path
) -> None:
    root = copy_cohort(tiny_root, tmp_path / "cohort")
    for subject in ("tiny_0", "tiny_4"):
        relabel(root, subject, fill=1)
        (root / subject / f"{subject}_flair.nii.gz").write_text("not even a scan")
    seen = json.loads((tiny_run / "model" / "model.json").read_text(encoding="utf-8"))["training"]
    assert not {"tiny_0", "tiny_4"} & {*seen["subjects"], *seen["calibration_subjects"]}
    out = tmp_path / "run"
    done = medrd("train", tiny_yaml, "--out", out, "--set", f"data.root={root}")
    assert done.code == 0, done.stderr
    assert_same_result(out, tiny_run)


def test_slices_near_a_lesion_are_not_trained_on(
    tiny_root: Path, tmp_path: Path, tiny_raw: dict[str, Any]
) -> None:
    """A training subject that is all lesion leaves the others' slices only."""
    root = copy_cohort(tiny_root, tmp_path / "cohort")
    for subject in ("tiny_1", "tiny_3"):
        relabel(root, subject, fill=1)
    tiny_raw["data"]["root"] = str(root)
    with pytest.raises(ConfigError, match="healthy slices"):
        train(make_config(tiny_raw), tmp_path / "run")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_one_scan_under_two_names_on_two_sides_is_leakage(
    tiny_root: Path, tmp_path: Path, tiny_raw: dict[str, Any], ending: str
) -> None:
    root = copy_cohort(tiny_root, tmp_path / "cohort")
    (root / "tiny_2" / "tiny_2_flair.nii.gz").unlink()
    scan = nib.load(root / "tiny_1" / "tiny_1_flair.nii.gz")
    nib.save(scan, root / "tiny_2" / f"tiny_2_flair{ending}")
    tiny_raw["data"] |= {
        "root": str(root),
        "split": {"train": ["tiny_1"], "calibration": ["tiny_2"], "test": 1},
    }
    with pytest.raises(LeakageError, match="tiny_1"):
        train(make_config(tiny_raw), tmp_path / "run")


def test_a_missing_label_is_an_error_unless_all_are_declared_healthy(
    tiny_root: Path, tiny_run: Path, tmp_path: Path, tiny_raw: dict[str, Any]
) -> None:
    root = copy_cohort(tiny_root, tmp_path / "cohort")
    (root / "tiny_3" / "tiny_3_seg.nii.gz").unlink()
    tiny_raw["data"]["root"] = str(root)
    tiny_raw["model"] = {"name": "intensity"}
    with pytest.raises(ConfigError, match="tiny_3"):
        train(make_config(tiny_raw), tmp_path / "run")
    tiny_raw["data"]["healthy"] = True
    run = train(make_config(tiny_raw), tmp_path / "healthy")
    slices = [
        json.loads((r / "run.json").read_text(encoding="utf-8"))["slices"] for r in (run, tiny_run)
    ]
    assert slices[0] > slices[1]  # all of tiny_3's, not those away from its lesion alone


def test_all_subjects_that_fail_are_listed_and_mended_in_one_go(
    tiny_root: Path, tmp_path: Path, tiny_raw: dict[str, Any]
) -> None:
    root, out = copy_cohort(tiny_root, tmp_path / "cohort"), tmp_path / "run"
    scans = [root / s / f"{s}_flair.nii.gz" for s in ("tiny_1", "tiny_2")]  # one of each side
    for scan in scans:
        scan.write_text("no scan")
    tiny_raw["data"]["root"] = str(root)
    tiny_raw["model"] = {"name": "intensity"}
    config = make_config(tiny_raw)
    with pytest.raises(InputError, match=r"errors\.json.*2 that cannot"):
        train(config, out)
    listed = json.loads((out / "errors.json").read_text(encoding="utf-8"))
    assert [error["where"] for error in listed] == [str(scan) for scan in scans]

    shutil.copy(tiny_root / "tiny_1" / "tiny_1_flair.nii.gz", scans[0])
    with pytest.raises(InputError, match=r"tiny_2_flair"):  # one alone speaks for itself
        train(config, out, resume=True)
    shutil.copy(tiny_root / "tiny_2" / "tiny_2_flair.nii.gz", scans[1])
    train(config, out, resume=True)
    assert (out / "run.json").is_file()
    assert not (out / "errors.json").exists()


def test_a_loss_that_is_not_finite_stops_with_a_typed_error(
    tmp_path: Path, tiny_raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medrd.models.rd4ad import RD4AD

    steps = RD4AD.steps

    def diverging(self: RD4AD) -> list[Step]:
        (step,) = steps(self)

        def loss(batch: Any) -> Tensor:
            return step.loss(batch) * float("nan")

        return [Step(step.name, step.groups, step.optimizer, loss)]

    monkeypatch.setattr(RD4AD, "steps", diverging)
    with pytest.raises(ModelError, match=r"epoch 1, batch 1.*learning rate"):
        train(make_config(tiny_raw), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("recipe.size", 80, "recipe.size=96|recipe.size=64"),
        ("model.teacher", {"name": "no_such_net", "weights": "random"}, "no_such_net"),
        ("train.device", "cuda:99", "train.device"),
        ("data.root", None, "data.root"),
    ],
)
def test_a_config_that_cannot_be_run_is_a_config_error(
    tmp_path: Path, tiny_raw: dict[str, Any], key: str, value: Any, said: str
) -> None:
    section, _, name = key.partition(".")
    tiny_raw.setdefault(section, {})[name] = value
    with pytest.raises(ConfigError, match=said):
        train(make_config(tiny_raw), tmp_path / "run")


# --- What a run leaves ---


def test_a_run_folder_is_complete(tiny_run: Path, tiny_yaml: Path) -> None:
    assert load_config(tiny_run / "config.yaml") == load_config(tiny_yaml)
    resolved = yaml.safe_load((tiny_run / "config.yaml").read_text(encoding="utf-8"))
    assert resolved["model"]["lr"] == 0.005  # defaults are written out
    content = json.loads((tiny_run / "run.json").read_text(encoding="utf-8"))
    assert content["seed"] == 0
    assert content["device"] == "cpu"
    assert content["precision"] == "fp32"
    assert content["epochs"] == 2
    assert_seconds_are_those_of_all_epochs(tiny_run)
    assert content["session_seconds"] > content["training_seconds"]
    assert content["peak_memory_mib"] > 100
    assert torch.__version__.startswith(content["versions"]["torch"].split("+")[0])
    assert content["parameters"]["all"] > content["parameters"]["trained"] > 0
    weights = load_file(tiny_run / WEIGHTS)
    trained = sum(
        v.numel()
        for k, v in weights.items()
        if not k.startswith("teacher.") and v.is_floating_point()
    )
    assert trained > content["parameters"]["trained"]  # and BatchNorm statistics
    for line in (tiny_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        report = json.loads(line)
        assert report["losses"] == {"distil": report["loss"]}
        assert 0 <= report["wait_share"] < 1
        assert report["slices_per_s"] > 0


def test_two_epochs_on_the_tiny_cohort_lower_the_loss(tiny_run: Path) -> None:
    first, second = losses_logged(tiny_run)
    assert second < first


def test_another_seed_gives_another_split_and_other_weights(
    tmp_path: Path, tiny_run: Path, tiny_raw: dict[str, Any]
) -> None:
    tiny_raw["seed"] = 5
    tiny_raw["train"]["epochs"] = 1
    run = train(make_config(tiny_raw), tmp_path / "run")
    seen = [
        json.loads((r / "model" / "model.json").read_text(encoding="utf-8"))
        for r in (run, tiny_run)
    ]
    assert seen[0]["training"]["split_hash"] != seen[1]["training"]["split_hash"]
    assert seen[0]["training"]["seed"] == 5


def test_without_calibration_subjects_there_is_a_model_without_threshold(
    tmp_path: Path, tiny_raw: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    tiny_raw["model"] = {"name": "intensity"}
    tiny_raw["data"]["split"]["calibration"] = 0
    run = train(make_config(tiny_raw), tmp_path / "run")
    assert "no threshold" in caplog.text
    assert (
        json.loads((run / "model" / "model.json").read_text(encoding="utf-8"))["calibration"]
        is None
    )
