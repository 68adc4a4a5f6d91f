"""Brain extraction by other programs, for which small Python programs on PATH stand in."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medrd.errors import (
    ConfigError,
    EmptyBrainError,
    ExtractionError,
    GridMismatchError,
    InputError,
    MissingExtraError,
)
from medrd.images.volume import Volume, volume_from_array
from medrd.preparation import prepare as prepare_module
from medrd.preparation import programs
from medrd.preparation.linear import rotation
from medrd.preparation.options import PrepareOptions
from medrd.preparation.prepare import prepare
from medrd.preparation.programs import Extractor, find_extractor
from phantom_heads import (
    brain_at,
    coarse_template,
    make_head,
    points_of,
    save,
    take_few_samples,
)

Install = Callable[[str, str], Path]

_READ = "import sys; from pathlib import Path; import nibabel as nib; import numpy as np; "
_READ += "argv = sys.argv[1:]; scan = nib.load(argv[argv.index('-i') + 1]); "
_READ += "a = np.asarray(scan.dataobj)"
_WRITE = "nib.save(nib.Nifti1Image(mask.astype(np.uint8), scan.affine), path)"
SYNTHSTRIP = f"path = argv[argv.index('-m') + 1]; mask = a > 30; {_WRITE}"
HD_BET = """
from argparse import ArgumentParser
parser = ArgumentParser()
for name in ("-i", "-o"):
    parser.add_argument(name)
parser.add_argument("-device", default="cuda")
for name in ("--save_bet_mask", "--no_bet_image", "--disable_tta"):
    parser.add_argument(name, action="store_true")
given = parser.parse_args(argv)
assert nib.aff2axcodes(scan.affine) == ("R", "A", "S") and a.ndim == 3
assert given.save_bet_mask and given.no_bet_image
assert (given.device, given.disable_tta) == ("cpu", True)
path = given.o.removesuffix(".nii.gz") + "_bet.nii.gz"
mask = a > 30
"""
HD_BET += _WRITE


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a Python program on PATH, on which there is nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, body: str) -> Path:
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{_READ}\n{body}\n", "utf-8")
        path.chmod(0o755)
        return path

    return put


@pytest.fixture
def scan() -> Volume:
    """A head whose voxels run to the left, the front and the feet, somewhat turned."""
    head = make_head("t1", shape=(20, 24, 22))
    mirrored = head.array[::-1, :, ::-1]
    affine = rotation(4, -3, 5) @ head.affine @ np.diag([-1.0, 1.0, -1.0, 1.0])
    return volume_from_array(mirrored.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]])


def extractor(brain: str) -> Extractor:
    found = find_extractor(brain)
    assert found is not None
    return found


def test_hd_bet_and_synthstrip_are_run_with_their_own_options(
    install: Install, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "has_gpu", lambda: False)
    install("hd-bet", HD_BET)
    install("synthstrip-docker", SYNTHSTRIP)
    assert scan.orientation == "ILA"
    for brain in ("hd-bet", "synthstrip"):
        found = extractor(brain)
        assert (found.name, found.needs_t1) == (brain, False)
        # On the scan's own grid again, though the program saw another orientation.
        np.testing.assert_array_equal(found.mask(scan), scan.array > 30)


def test_freesurfer_s_own_synthstrip_comes_before_its_containers(
    install: Install, scan: Volume
) -> None:
    install("mri_synthstrip", SYNTHSTRIP)
    install("synthstrip-docker", "raise SystemExit('the container was run')")
    assert extractor("synthstrip").mask(scan).any()


def test_deepbet_s_command_serves_where_its_package_is_elsewhere(
    install: Install, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deepbet", None)
    install("deepbet-cli", f"assert '-o' in argv; {SYNTHSTRIP}")
    found = extractor("deepbet")
    assert (found.name, found.needs_t1) == ("deepbet", True)
    np.testing.assert_array_equal(found.mask(scan), scan.array > 30)


def test_any_command_serves_that_takes_a_scan_and_writes_a_mask(
    install: Install, scan: Volume
) -> None:
    path = install("my bet", f"assert argv[-1] == '--level=0.5 x'; {SYNTHSTRIP}")
    for program in ("'my bet'", f"'{path}'"):
        found = extractor(f"{program} -i {{in}} -m {{mask}} '--level=0.5 x'")
        assert found.name == "my bet"
        np.testing.assert_array_equal(found.mask(scan), scan.array > 30)
    assert find_extractor("template") is None


@pytest.mark.parametrize(
    ("brain", "remedy"),
    [
        ("hd-bet", "pip install hd-bet"),
        ("synthstrip", "curl -O https://"),
        ("deepbet", "pip install 'medrd[brain]'"),
        ("no-such-bet -i {in} -m {mask}", "give its path"),
    ],
)
def test_a_program_that_is_not_installed_is_named_with_what_installs_it(
    install: Install, monkeypatch: pytest.MonkeyPatch, brain: str, remedy: str
) -> None:
    monkeypatch.setattr(sys, "executable", str(install("python", "")))
    monkeypatch.setitem(sys.modules, "deepbet", None)
    with pytest.raises(MissingExtraError) as caught:
        find_extractor(brain)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("brain", "found"),
    [
        ("hdbet", "no {in} and no {mask}"),
        ("bet {in} brain", "no {mask} in 'bet {in} brain'"),
        ("bet {in} '{mask}", "No closing quotation"),
        ("", "no {in}"),
    ],
)
def test_what_is_neither_a_name_nor_a_command_is_refused(brain: str, found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_extractor(brain)
    assert found in caught.value.found
    assert "hd-bet" in caught.value.expected


@pytest.mark.parametrize(
    ("body", "error", "found"),
    [
        ("sys.exit('CUDA: out of memory')", ExtractionError, "exit code 1: CUDA: out of memory"),
        (
            "import os; os.kill(os.getpid(), 9)",
            ExtractionError,
            "termination by SIGKILL: no output",
        ),
        ("pass", ExtractionError, "no file when it ended"),
        ("Path(argv[-1]).write_bytes(b'')", ExtractionError, "one that cannot be read: "),
        (f"path = argv[-1]; mask = 0 * a; {_WRITE}", EmptyBrainError, "an empty mask from bet"),
        (f"path = argv[-1]; mask = a[1:]; {_WRITE}", GridMismatchError, "19 × 24 × 22 voxels"),
        (
            f"path = argv[-1]; mask = a; scan.affine[0, 3] += 9; {_WRITE}",
            GridMismatchError,
            "that lie elsewhere",
        ),
    ],
)
def test_a_program_that_fails_fails_its_scan_and_says_how(
    install: Install, scan: Volume, body: str, error: type[InputError], found: str
) -> None:
    install("bet", body)
    with pytest.raises(error) as caught:
        extractor("bet -i {in} -m {mask}").mask(scan)
    assert found in caught.value.found


def test_a_program_that_cannot_be_started_fails_its_scan(install: Install, scan: Volume) -> None:
    install("bet", "").write_bytes(b"\x7fELF, and of another machine")
    with pytest.raises(ExtractionError, match="a program that cannot be started"):
        extractor("bet {in} {mask}").mask(scan)


def test_a_flair_alone_is_prepared_with_the_brain_of_a_program(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_few_samples(monkeypatch)
    monkeypatch.setattr(prepare_module, "load_template", coarse_template)
    head = make_head("flair", seed=1)
    truth = brain_at(points_of(head.shape, head.affine))
    np.save(tmp_path / "truth.npy", truth)
    install("bet", f"path = argv[-1]; mask = np.load('{tmp_path}/truth.npy'); {_WRITE}")
    template = save(make_head("t1", skull=False, seed=9), tmp_path / "template.nii.gz")
    raw = save(head, tmp_path / "raw" / "a_flair.nii.gz")
    options = PrepareOptions(bias=False, extraction="bet -i {in} -m {mask}")
    report = prepare([raw], tmp_path / "out", template=template, options=options)
    assert report.errors == []
    record = json.loads((tmp_path / "out" / "a" / "a_prepare.json").read_text("utf-8"))
    assert record["quality"]["brain"] == "bet"
    assert record["quality"]["brain_dice"] > 0.95
    assert record["quality"]["brain_ml"] == pytest.approx(truth.sum() * 0.064, rel=0.02)
    assert record["warnings"] == []
    # A program that fails fails the subject, and is named.
    install("bet", "sys.exit('no weights')")
    report = prepare([raw], tmp_path / "out", template=template, options=options, overwrite=True)
    assert [type(error) for error in report.errors] == [ExtractionError]
    assert "exit code 1: no weights" in report.errors[0].found
