"""Training that is killed or stopped, and resumed bit for bit, or refused where it must be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from folders import contents
from medrd.config import make_config
from medrd.errors import ConfigError, OutputError
from medrd.training.fit import identity_of
from medrd.training.train import train
from runs import assert_same_result, assert_seconds_are_those_of_all_epochs

Medrd = Callable[..., Any]

KILL = "os.kill(os.getpid(), signal.SIGKILL)"
TERM = "os.kill(os.getpid(), signal.SIGTERM)"


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


ITERATION = "medrd.training.loop:Loop.iteration"
CHECKPOINT = "medrd.training.fit.save_checkpoint"
BATCHES = 6  # an epoch: 26 slices in batches of 4; there are two epochs
AFTER_FIRST_CHECKPOINT = at_call(CHECKPOINT, 1, KILL, after=True)
MOMENTS = {
    "before the first checkpoint": at_call(CHECKPOINT, 1, KILL),
    "while a checkpoint is written": at_call("torch.save", 2, KILL, after=True),
    "before the calibration": at_call("medrd.training.train.calibrate", 1, KILL),
    "before the last file": at_call("medrd.training.train.write_json", 1, KILL),
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
    for prelude in (AFTER_FIRST_CHECKPOINT, at_call(ITERATION, 5, KILL)):
        assert medrd("train", tiny_yaml, "--out", out, "--resume", prelude=prelude).code == -9
    assert medrd("train", tiny_yaml, "--out", out, "--resume").code == 0
    assert_same_result(out, tiny_run)
    assert_seconds_are_those_of_all_epochs(out)


@pytest.mark.parametrize(("batch", "signal"), [(BATCHES, "SIGTERM"), (8, "SIGINT")])
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
    prelude = at_call("medrd.training.train.prepare_sides", 1, TERM)
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


@pytest.fixture(scope="module")
def unfinished(medrd: Medrd, tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its first epoch."""
    out = tmp_path_factory.mktemp("unfinished") / "run"
    prelude = AFTER_FIRST_CHECKPOINT
    assert medrd("train", tiny_yaml, "--out", out, prelude=prelude).code == -9
    return out


@pytest.mark.parametrize(
    ("state", "change"),
    [
        ("finished", "model.lr=0.001"),
        ("finished", "train.epochs=3"),
        ("finished", "seed=1"),
        ("unfinished", "train.epochs=3"),
    ],
)
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
    before = contents(out)
    refused = medrd("train", tiny_yaml, "--out", out, "--resume", "--set", change)
    assert refused.code == (2 if state == "finished" else 4)
    key, value = change.split("=")
    assert f"expected a run with {key}: {value}; found one with {key}: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert contents(out) == before


@pytest.mark.parametrize(
    ("content", "resume", "said"),
    [
        ("finished", False, r"found a finished run\. .*--resume"),
        ("config of ours", False, r"found an unfinished run\. .*--resume"),
        ("config of another", False, r"found files\. Choose another --out"),
        ("config of another", True, r"found files\. Choose another --out"),
        ("thesis", True, r"found files\. Choose another --out"),
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
    before = contents(out)
    with pytest.raises(ConfigError, match=said):
        train(make_config(tiny_raw), out, resume=resume)
    assert contents(out) == before


def test_where_the_teachers_file_lay_is_no_part_of_a_run(
    tiny_run: Path, tmp_path: Path, tiny_raw: dict[str, Any]
) -> None:
    out = Path(shutil.copytree(tiny_run, tmp_path / "run"))

    def config(file: str, name: str = "resnet18") -> Any:
        teacher = {"name": name, "weights": "file", "file": file}
        return make_config(tiny_raw | {"model": {"teacher": teacher}})

    (out / "config.yaml").write_text(config("/here/w.pth").to_yaml())
    assert train(config("/moved/w.pth"), out, resume=True) == out
    with pytest.raises(ConfigError, match=r"resnet34; found one with .*resnet18"):
        train(config("/here/w.pth", name="resnet34"), out, resume=True)


def test_other_weights_in_the_teachers_file_are_another_run(
    tmp_path: Path, tiny_raw: dict[str, Any]
) -> None:
    class Slices(list[int]):
        subjects = ()

    def identity(name: str, content: bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content)
        teacher = {"name": "resnet18", "weights": "file", "file": path}
        return identity_of(make_config(tiny_raw | {"model": {"teacher": teacher}}), Slices())

    assert identity("w.pth", b"one") == identity("moved.pth", b"one") != identity("w.pth", b"two")


@pytest.mark.parametrize("below", ["", "sub/run"])
def test_an_out_that_cannot_be_a_folder_is_a_typed_error_before_any_work(
    tmp_path: Path, tiny_raw: dict[str, Any], below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(
        "medrd.training.train.prepare_sides", lambda *a, **k: pytest.fail("work was begun")
    )
    with pytest.raises(OutputError):
        train(make_config(tiny_raw), tmp_path / "file" / below)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "x"
