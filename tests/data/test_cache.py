"""The cache: built once, never stale, never incomplete, even with kills and parallel processes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from medrd.config import RecipeConfig
from medrd.data import cache
from medrd.data.brains import kind as brains
from medrd.data.brains.prepare import prepare_slices, read_channels, scan_hash
from medrd.data.cache import (
    CachedSubject,
    cache_subject,
    cache_subjects,
    default_cache,
    files_hash,
)
from medrd.data.kinds import kind_of
from medrd.data.subject import Source, Subject
from medrd.errors import EmptyBrainError, MissingInputError, OutputError
from medrd.images.volume import Volume

RECIPE = RecipeConfig(size=32, field_mm=64.0, min_brain_mm2=400.0)
MAX_VOXELS = 10**6
LESION_SLICES = [6, 7, 13]


@pytest.fixture
def subject(tmp_path: Path, make_brain: Callable[..., Volume]) -> Subject:
    return write_subject(tmp_path / "data", make_brain(), "a")


def write_subject(folder: Path, volume: Volume, name: str) -> Subject:
    folder.mkdir(exist_ok=True)
    label = np.zeros(volume.shape, np.uint8)
    label[15, 13, LESION_SLICES] = (1, 2, 4)
    scan, mask = folder / f"{name}.nii.gz", folder / f"{name}_seg.nii.gz"
    nib.save(nib.Nifti1Image(volume.array, volume.affine), scan)
    nib.save(nib.Nifti1Image(label, volume.affine), mask)
    return Subject(name, {"flair": Source(scan)}, Source(mask))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with every subject that is prepared."""
    calls: list[str] = []

    def counted(volumes: Any, recipe: RecipeConfig) -> Any:
        calls.append("prepared")
        return prepare_slices(volumes, recipe)

    monkeypatch.setattr(brains, "prepare_slices", counted)
    return calls


def get(subject: Subject, folder: Path, recipe: RecipeConfig = RECIPE) -> CachedSubject:
    return cache_subject(subject, kind_of(recipe), folder=folder, budget=MAX_VOXELS)


def entries(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("entry.json"))


def everything_else(folder: Path) -> list[Path]:
    """Whatever lies beside the entries: temporaries that should be gone."""
    return [path for path in folder.glob("*/*") if path not in entries(folder)]


def assert_same(first: CachedSubject, second: CachedSubject) -> None:
    for name in ("images", "region", "numbers", "lesion_slices"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


# --- What an entry holds ---------------------------------------------------------------


def test_an_entry_holds_what_prepare_gives(subject: Subject, folder: Path) -> None:
    volumes = read_channels(subject, RECIPE, max_voxels=MAX_VOXELS)
    expected = prepare_slices(volumes, RECIPE)

    got = get(subject, folder)

    assert got.images.dtype == np.float16
    assert np.abs(got.images.astype(np.float32) - expected.images).max() <= 1 / 2048
    np.testing.assert_array_equal(got.region, expected.region)
    np.testing.assert_array_equal(got.numbers, expected.numbers)
    np.testing.assert_array_equal(got.lesion_slices, LESION_SLICES)
    assert (got.id, got.warnings) == ("a", expected.warnings)
    assert got.content == scan_hash(volumes, expected.geometry)
    assert isinstance(got.images, np.memmap), "training must not hold the cohort in memory"
    with pytest.raises(ValueError, match="read-only"):
        got.images[0] = 0


def test_a_subject_without_label_has_no_lesions_and_says_so(subject: Subject, folder: Path) -> None:
    got = get(replace(subject, label=None), folder)
    assert got.lesion_slices.shape == (0,)


# --- When it is built ------------------------------------------------------------------


def test_the_second_opening_prepares_nothing(
    subject: Subject, folder: Path, built: list[str]
) -> None:
    first = get(subject, folder)
    # The content counts, not what the file is called.
    path = subject.images["flair"].path.rename(subject.images["flair"].path.parent / "b.nii.gz")
    second = get(replace(subject, id="b", images={"flair": Source(path)}), folder)
    assert len(built) == 1
    assert_same(first, second)
    assert second.id == "b"
    assert len(entries(folder)) == 1
    assert not everything_else(folder)


def test_any_change_of_what_goes_in_makes_another_entry(
    subject: Subject,
    folder: Path,
    built: list[str],
    make_brain: Callable[..., Volume],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert subject.label is not None
    first = get(subject, folder)
    get(subject, folder, RECIPE.model_copy(update={"percentiles": (1.0, 99.0)}))
    get(subject, folder, RECIPE.model_copy(update={"axis": "coronal"}))
    get(replace(subject, label=None), folder)
    assert len(built) == 4

    mask = nib.load(subject.label.path)
    nib.save(nib.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine), subject.label.path)
    relabelled = get(subject, folder)
    assert relabelled.lesion_slices.size == 0
    assert relabelled.content == first.content

    rescanned = get(write_subject(subject.label.path.parent, make_brain(seed=9), "a"), folder)
    assert rescanned.content != first.content
    assert (rescanned.images != first.images).any()

    monkeypatch.setattr(cache, "CODE_VERSION", cache.CODE_VERSION + 1)
    get(subject, folder)
    assert len(built) == len(entries(folder)) == 7


def test_frames_of_one_file_are_different_entries() -> None:
    here = Source(Path(__file__))
    framed = [Subject("s", {"t1": replace(here, frame=frame)}) for frame in (None, 0, 1)]
    assert len({files_hash(subject) for subject in framed}) == 3


def stored_otherwise(volume: Volume, kind: str) -> nib.Nifti1Image:
    """The same scan as another file, or one that only looks like it."""
    array, affine = volume.array, volume.affine
    if kind == "turned":
        transform = ornt_transform(nib.io_orientation(affine), axcodes2ornt("IAR"))
        affine = affine @ inv_ornt_aff(transform, volume.shape)
        array = nib.apply_orientation(array, transform)
    elif kind == "mirrored brain":
        array = array[::-1]
    elif kind == "one voxel":
        array = array.copy()
        array[14, 13, 9] += 1
    elif kind == "other spacing":
        affine = affine @ np.diag([1, 1, 1.5, 1])
    return nib.Nifti1Image(array, affine)


@pytest.mark.parametrize(
    ("kind", "same"),
    [
        ("uncompressed", True),
        ("turned", True),
        ("mirrored brain", False),
        ("one voxel", False),
        ("other spacing", False),
    ],
)
def test_a_scan_is_known_again_however_it_is_stored(
    subject: Subject, folder: Path, make_brain: Callable[..., Volume], kind: str, same: bool
) -> None:
    path = subject.images["flair"].path.with_name("other.nii")
    nib.save(stored_otherwise(make_brain(), kind), path)
    other = Subject("other", {"flair": Source(path)})
    assert files_hash(other) != files_hash(subject)
    assert (get(other, folder).content == get(subject, folder).content) == same


# --- Damage ----------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink, lambda path: path.write_text("")])
@pytest.mark.parametrize("name", ["images.npy", "touched.npy", "entry.json"])
def test_a_damaged_entry_is_found_and_rebuilt(
    subject: Subject,
    folder: Path,
    built: list[str],
    damage: Callable[[Path], object],
    name: str,
) -> None:
    first = [
        np.array(getattr(get(subject, folder), array)) for array in ("images", "lesion_slices")
    ]
    (entry,) = entries(folder)
    damage(entry / name)

    again = get(subject, folder)

    assert len(built) == 2
    np.testing.assert_array_equal(again.images, first[0])
    np.testing.assert_array_equal(again.lesion_slices, first[1])
    get(subject, folder)
    assert len(built) == 2, "the rebuilt entry should be sound"
    assert not everything_else(folder)


@pytest.mark.parametrize("index", ["[]", "{}", '{"checksums": {}}', '{"checksums": [1]}', "3"])
def test_an_index_of_another_form_is_damage(
    subject: Subject, folder: Path, built: list[str], index: str
) -> None:
    get(subject, folder)
    (entries(folder)[0] / "entry.json").write_text(index)
    get(subject, folder)
    assert len(built) == 2


def test_an_entry_taken_away_by_another_process_is_made_again(
    subject: Subject, folder: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = cache.build_entry

    def robbed(entry: Path, *args: Any, **kwargs: Any) -> None:
        build(entry, *args, **kwargs)
        if len(built) == 1:
            entry.rename(entry.with_name(".taken"))

    monkeypatch.setattr(cache, "build_entry", robbed)
    assert get(subject, folder).images.size
    assert len(built) == 2


def test_a_disk_that_never_gives_back_what_was_written_is_an_error(
    subject: Subject, folder: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = iter(range(1000))
    monkeypatch.setattr(cache, "checksum", lambda path: next(sums))
    with pytest.raises(OutputError, match="damaged"):
        get(subject, folder)
    assert len(built) <= 5


# --- Real processes --------------------------------------------------------------------

_PROCESSES = """
import json, multiprocessing, os, signal, sys
from pathlib import Path
from medrd.config import RecipeConfig
from medrd.data import cache
from medrd.data.kinds import kind_of
from medrd.data.subject import Source, Subject

scan, label, folder = map(Path, sys.argv[1:4])
subject = Subject("a", {"flair": Source(scan)}, Source(label))
recipe = RecipeConfig.model_validate_json(sys.argv[4])
fork = multiprocessing.get_context("fork")
put, index = cache.put_in_place, cache.write_json
together = fork.Barrier(2)

def get():
    cached = cache.cache_subject(subject, kind_of(recipe), folder=folder, budget=10**6)
    assert cached.images.shape[0] == cached.numbers.size > 0

def killed():
    cache.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # arrays are written
    get()

def beside():
    cache.put_in_place = lambda *paths: (together.wait(20), put(*paths))
    get()

def run(*targets):
    processes = [fork.Process(target=target) for target in targets]
    for process in processes: process.start()
    for process in processes: process.join(60)
    return [process.exitcode for process in processes]

def lying():
    return sorted(str(p.relative_to(folder)) for p in folder.glob("*/*"))

report = {"killed": run(killed), "after_kill": lying()}
report |= {"beside": run(beside, beside), "after_both": lying()}
print(json.dumps(report))
sys.exit()
"""


def test_a_killed_builder_and_two_at_once_leave_one_sound_entry(
    subject: Subject, folder: Path, built: list[str], medrd: Callable[..., Any]
) -> None:
    assert subject.label is not None
    arguments = [subject.images["flair"].path, subject.label.path, folder, RECIPE.model_dump_json()]
    # The fixture's process has its imports behind it and forks; the command line is not run.
    done = medrd(*arguments, prelude=_PROCESSES)
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)

    assert report["killed"] == [-9]
    (half,) = report["after_kill"]
    assert Path(half).name.startswith("."), "half an entry must not look like one"
    # Both had prepared before either could put its entry in place; the killed one's
    # remains are ignored.
    assert report["beside"] == [0, 0], done.stderr
    assert len(report["after_both"]) == 2
    get(subject, folder)
    assert not built, "what the other processes made should be sound"


# --- Several subjects, and what can fail -----------------------------------------------


def test_subjects_come_by_their_ids_and_report_when_ready(
    tmp_path: Path, folder: Path, make_brain: Callable[..., Volume]
) -> None:
    subjects = [
        write_subject(tmp_path / "data", make_brain(seed=seed), name)
        for seed, name in enumerate("cab")
    ]
    ready: list[str] = []
    got, errors = cache_subjects(
        subjects, kind_of(RECIPE), folder=folder, budget=MAX_VOXELS, workers=3, on_done=ready.append
    )
    assert errors == []
    assert sorted(got) == sorted(ready) == ["a", "b", "c"]
    for subject in subjects:
        assert_same(got[subject.id], get(subject, tmp_path / "other"))


def test_subjects_that_fail_are_named_and_leave_nothing_and_the_others_are_done(
    tmp_path: Path, subject: Subject, folder: Path
) -> None:
    empty = tmp_path / "empty.nii"
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.float32), np.eye(4)), empty)
    missing = Subject("missing", {"flair": Source(tmp_path / "gone.nii.gz")})
    broken = Subject("broken", {"flair": Source(empty)})
    ready: list[str] = []
    got, errors = cache_subjects(
        [missing, broken, subject],
        kind_of(RECIPE),
        folder=folder,
        budget=MAX_VOXELS,
        on_done=ready.append,
    )
    assert list(got) == ["a"]
    assert sorted(ready) == ["a", "broken", "missing"]
    assert [(type(error), Path(error.where).name) for error in errors] == [
        (EmptyBrainError, "empty.nii"),
        (MissingInputError, "gone.nii.gz"),
    ]
    assert len(entries(folder)) == 1
    assert not everything_else(folder)


def test_a_file_in_the_caches_place_is_an_error(subject: Subject, folder: Path) -> None:
    folder.write_text("mine")
    with pytest.raises(OutputError, match=r"MEDRD_CACHE"):
        cache_subjects([subject], kind_of(RECIPE), folder=folder, budget=MAX_VOXELS)
    assert folder.read_text(encoding="utf-8") == "mine"


def test_a_file_in_an_entrys_place_is_an_error(subject: Subject, folder: Path) -> None:
    get(subject, folder)
    (entry,) = entries(folder)
    entry.rename(entry.with_name("away"))
    entry.write_text("mine")
    with pytest.raises(OutputError):
        get(subject, folder)
    assert entry.read_text(encoding="utf-8") == "mine"


def test_a_cache_that_cannot_be_written_is_an_error(subject: Subject, folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="MEDRD_CACHE"):
        cache_subjects([subject], kind_of(RECIPE), folder=folder, budget=MAX_VOXELS)


def test_a_full_disk_is_an_error_and_leaves_nothing(
    subject: Subject, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        get(subject, folder)
    assert not list(folder.glob("*/*"))


def test_the_default_cache_can_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDRD_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert default_cache() == Path("/a")
    monkeypatch.delenv("MEDRD_CACHE")
    assert default_cache() == Path("/b/medrd")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/x")
    assert default_cache() == Path("/home/x/.cache/medrd")
