"""A file under its final name is whole, whatever happens while it is written."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from medrd.errors import MissingInputError, OutputError
from medrd.files import (
    atomic_folder,
    atomic_path,
    file_hash,
    open_regular,
    read_json,
    remove_abandoned,
    write_json,
    write_text,
)


def test_the_target_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "map.v2.nii.gz"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"whole")
        assert not target.exists()
        assert temporary.parent == target.parent  # a rename is atomic in one file system only
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".nii.gz")
    assert target.read_bytes() == b"whole"
    assert list(target.parent.iterdir()) == [target]


def test_two_writers_of_one_target_do_not_share_a_temporary(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "first"  # the outer block ends last


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_a_failed_block_leaves_the_old_file(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise interruption

    with pytest.raises(interruption):
        interrupted()
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, "no permission"),
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "no space left on the device"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
@pytest.mark.parametrize("step", ["mkdir", "fsync", "replace"])
def test_what_the_system_says_is_typed_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str, step: str
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    target = tmp_path / "a.txt"
    target.write_text("old")
    monkeypatch.setattr(*((Path, step) if step == "mkdir" else (os, step)), refuse)
    with pytest.raises(OutputError, match=words) as caught:
        write_text(target, "new")
    assert str(target) in str(caught.value)
    assert caught.value.remedy
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    for name, words in {
        "folder": "a folder of that name",
        "file/below": "a file where a folder should be",
        "file/deep/below": "a file where a folder should be",
        "long" * 100: "too long",
    }.items():
        with pytest.raises(OutputError, match=words):
            write_text(tmp_path / name, "new")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("permission bits do not hold for this user (root?)")
    with pytest.raises(OutputError, match="no permission"):
        write_text(tmp_path / "a.txt", "new")


def test_an_error_of_a_library_is_not_taken_for_the_disk(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "a"):
            raise OSError("a library's own words, without an errno")

    with pytest.raises(OSError, match="own words"):
        write()


PRELUDE = """
import os, resource, signal, sys, time
import numpy as np
from medrd.errors import OutputError
from medrd.images.nifti import write_nifti
from medrd.images.volume import volume_from_array
volume = volume_from_array(np.random.default_rng(0).random((100, 100, 100)), np.eye(4))
def write():
    write_nifti(sys.argv[1], volume.array, volume, dtype="float32")
"""


def run(program: str, target: Path) -> subprocess.CompletedProcess[str]:
    code = PRELUDE + textwrap.dedent(program)
    command = [sys.executable, "-c", code, str(target)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


DIE_HALF_WAY = """
    import gzip
    whole_write = gzip.GzipFile.write
    def write_and_die(self, data):
        if len(data) > 1000:
            whole_write(self, data[: len(data) // 2])
            self.fileobj.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return whole_write(self, data)
    gzip.GzipFile.write = write_and_die
    write()
"""

DIE_BEFORE_THE_RENAME = """
    os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
    write()
"""


@pytest.mark.parametrize(
    "program", [DIE_HALF_WAY, DIE_BEFORE_THE_RENAME], ids=["half way", "before the rename"]
)
def test_kill_9_in_the_middle_leaves_no_file_under_the_final_name(
    tmp_path: Path, program: str
) -> None:
    target = tmp_path / "map.nii.gz"
    done = run(program, target)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    assert left.stat().st_size > 100_000  # it did die in the middle


def test_a_full_disk_leaves_the_old_file_intact(tmp_path: Path) -> None:
    # A limit on file sizes stops the write for real, as a full disk would, without root.
    target = tmp_path / "map.nii.gz"
    target.write_bytes(b"old")
    done = run(
        """
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        try:
            write()
        except OutputError as error:
            print(error)
        """,
        target,
    )
    assert "a file size limit" in done.stdout, done.stderr
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_takes_the_place_of_another_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(text: str) -> None:
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "x").write_text(text)

    write("first")
    write("second")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    real = os.replace

    def fails_the_second_time(old: Path, new: Path) -> None:
        if (old / "x").read_text("utf-8") == "third":
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        real(old, new)

    monkeypatch.setattr(os, "replace", fails_the_second_time)
    with pytest.raises(OutputError):
        write("third")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "x").read_text("utf-8") == "second"


def test_what_killed_processes_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    for name in ("site/.medrd-7-ab/x.nii.gz", "site/.medrd-8-cd.png", ".medrd-9-ef/y", "a/.own/z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("site/.medrd-7-ab", "site/.medrd-8-cd.png", "a/.own"):
        os.utime(tmp_path / name, (0, 0))
    remove_abandoned(tmp_path)
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    assert left == {"site", "a", "a/.own", "a/.own/z", ".medrd-9-ef", ".medrd-9-ef/y"}


def test_json_keeps_its_order_and_reads_back(tmp_path: Path) -> None:
    content = {"z": [1, 2.5], "a": {"µ": None}}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert list(json.loads(text).items()) == list(content.items())
    assert "µ" in text
    assert text.endswith("}\n")


def test_bytes_of_names_that_are_no_text_come_back_from_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"M\xfcller")
    write_json(tmp_path / "a.json", {name: [name, "ü — 日"]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "ü — 日" in text
    assert json.loads(text) == {name: [name, "ü — 日"]}
    write_text(tmp_path / "a.txt", name)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "M\N{REPLACEMENT CHARACTER}ller"


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"auroc": math.nan})
    assert not list(tmp_path.iterdir())


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_text_is_the_same_bytes_on_every_system(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"


@pytest.mark.parametrize(
    ("target", "found", "remedy"),
    [
        ("../.git/annex/objects/Xx/0k/MD5E-s3--a.nii.gz", "git-annex", "datalad get a.nii.gz"),
        ("elsewhere.nii.gz", "a link to elsewhere.nii.gz", "Correct the link"),
    ],
)
def test_a_link_that_leads_nowhere_is_said_to_be_one(
    tmp_path: Path, target: str, found: str, remedy: str
) -> None:
    path = tmp_path / "a.nii.gz"
    path.symlink_to(target)
    with pytest.raises(MissingInputError) as hashed:
        file_hash(path)
    with pytest.raises(MissingInputError) as opened, open_regular(path, kind="scan"):
        pass
    for caught in (hashed, opened):
        assert found in caught.value.found
        assert remedy in caught.value.remedy
