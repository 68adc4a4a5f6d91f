"""Brain extraction by other programs: HD-BET, SynthStrip, deepbet, or any command.

They are found on PATH, or beside the Python that runs medrd. Each is given the scan as one NIfTI
file whose axes run as the MNI template's do, which HD-BET requires, and writes a brain mask.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from numpy.typing import NDArray

from medrd.errors import (
    ConfigError,
    EmptyBrainError,
    ExtractionError,
    GridMismatchError,
    InputError,
    MissingExtraError,
)
from medrd.extras import require_extra
from medrd.images.geometry import format_shape, max_displacement_mm
from medrd.images.nifti import read_nifti, write_nifti
from medrd.images.volume import Volume, volume_from_array
from medrd.preparation.brain import deepbet_mask
from medrd.preparation.options import TEMPLATE

logger = logging.getLogger("medrd.prepare")

_SYNTHSTRIP = "-i {in} -m {mask}"
_COMMANDS: Mapping[str, tuple[str, ...]] = {
    # Version 2 writes its mask to the name of the output with ``_bet``:
    # https://github.com/MIC-DKFZ/HD-BET
    "hd-bet": ("hd-bet -i {in} -o {out} --save_bet_mask --no_bet_image",),
    # FreeSurfer's own program and its wrappers of containers, which have the same options:
    # https://surfer.nmr.mgh.harvard.edu/docs/synthstrip
    "synthstrip": (
        f"mri_synthstrip {_SYNTHSTRIP}",
        f"synthstrip-singularity {_SYNTHSTRIP}",
        f"synthstrip-docker {_SYNTHSTRIP}",
    ),
    "deepbet": ("deepbet-cli -i {in} -o {out} -m {mask}",),
}
"""Command lines by name; the first that is installed is used."""
_INSTALL: Mapping[str, str] = {
    "hd-bet": "Install it: pip install hd-bet (version 2; it downloads its weights when it first "
    "runs).",
    "synthstrip": "Install FreeSurfer 7.3 or later, or its wrapper of a Docker image in a folder "
    "on PATH: curl -O https://raw.githubusercontent.com/freesurfer/freesurfer/dev/mri_synthstrip/"
    "synthstrip-docker && chmod +x synthstrip-docker.",
}
NAMES = (TEMPLATE, *_COMMANDS)
_ON_CPU = ("-device", "cpu", "--disable_tta")
"""Options that HD-BET's readme recommends without a GPU, as its default (CUDA) fails then."""

_IN, _OUT, _MASK = "scan.nii.gz", "brain.nii.gz", "brain_bet.nii.gz"


@dataclass(frozen=True)
class Extractor:
    """A way to find the brain in a head that does not depend on the template.

    Attributes
    ----------
    name
        Name for the record.
    needs_t1
        Whether it is made for T1-weighted heads alone.
    mask
        Finds the brain of a scan, as (X, Y, Z) bool on its grid. It raises ExtractionError,
        EmptyBrainError or GridMismatchError.
    """

    name: str
    needs_t1: bool
    mask: Callable[[Volume], NDArray[np.bool_]]


def find_extractor(brain: str) -> Extractor | None:
    """The program that ``--brain`` requests; None for the template.

    Parameters
    ----------
    brain
        One of ``NAMES``, or a command line with ``{in}`` and ``{mask}``. It is split as a shell
        would, and run without one.

    Raises
    ------
    ConfigError
        ``brain`` is neither of these.
    MissingExtraError
        The program is not installed.
    """
    if brain == TEMPLATE:
        return None
    if brain == "deepbet" and find_spec("deepbet") is not None:
        return Extractor(brain, needs_t1=True, mask=deepbet_mask)
    if brain in _COMMANDS:
        return _known(brain)
    return _given(brain)


def program_mask(volume: Volume, name: str, command: Sequence[str]) -> NDArray[np.bool_]:
    """Run a program on a scan, and read the mask that it writes: (X, Y, Z) bool on the scan's grid.

    Parameters
    ----------
    name
        The program, for messages.
    command
        The program and its arguments. In these ``{in}`` stands for the scan, ``{mask}`` for the
        mask to write, and ``{out}`` for another image that it may write.

    Raises
    ------
    ExtractionError
        The program cannot be started, fails, or writes no mask that can be read.
    EmptyBrainError
        The mask is empty.
    GridMismatchError
        The mask does not lie on the scan.
    OutputError
        The scan cannot be written for the program: the temporary folder is full.
    """
    canonical = nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.affine))
    scan = volume_from_array(np.asarray(canonical.dataobj), canonical.affine)
    with tempfile.TemporaryDirectory(prefix="medrd-brain-") as folder:
        paths = {
            "{in}": Path(folder, _IN), "{out}": Path(folder, _OUT), "{mask}": Path(folder, _MASK)
        }  # fmt: skip
        write_nifti(paths["{in}"], scan.array, scan, dtype="float32", description="head")
        arguments = [_filled_in(argument, paths) for argument in command]
        _run(arguments, volume, name)
        mask = _read_mask(paths["{mask}"], scan, volume, name)
    own = io_orientation(volume.affine)
    ras = np.array([[0, 1], [1, 1], [2, 1]])
    result: NDArray[np.bool_] = apply_orientation(mask, ornt_transform(ras, own))
    return result


def _known(brain: str) -> Extractor:
    for line in _COMMANDS[brain]:
        program, *arguments = line.split()
        if found := _find(program):
            command = [found, *arguments, *(_ON_CPU if brain == "hd-bet" and not has_gpu() else ())]
            return _extractor(brain, command, needs_t1=brain == "deepbet")
    if brain == "deepbet":
        require_extra("brain", "--brain deepbet")
    raise _not_found(brain, [line.split()[0] for line in _COMMANDS[brain]], _INSTALL[brain])


def _given(brain: str) -> Extractor:
    try:
        command = shlex.split(brain)
    except ValueError as error:  # an unmatched quotation mark
        raise _no_command(str(error)) from None
    missing = [name for name in ("{in}", "{mask}") if not any(name in part for part in command)]
    if missing:
        raise _no_command(f"no {' and no '.join(missing)} in {brain!r}")
    program, *arguments = command
    if not (found := _find(os.path.expanduser(program))):
        raise _not_found(brain, [program], "Install it, or give its path.")
    return _extractor(Path(program).name, [found, *arguments], needs_t1=False)


def _extractor(name: str, command: Sequence[str], *, needs_t1: bool) -> Extractor:
    return Extractor(name, needs_t1, partial(program_mask, name=name, command=tuple(command)))


def _find(program: str) -> str | None:
    """The path of a program, also in the folder of this Python, whose environment may not be
    activated."""
    here = Path(sys.executable).parent
    return shutil.which(program) or shutil.which(program, path=str(here))


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _filled_in(argument: str, paths: Mapping[str, Path]) -> str:
    for name, path in paths.items():
        argument = argument.replace(name, str(path))
    return argument


def _run(command: Sequence[str], volume: Volume, name: str) -> None:
    logger.debug("running %s", shlex.join(command))
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
            # Ctrl-C is for medrd, which ends after the subject under way.
            start_new_session=True,
        )
    except OSError as error:
        raise _failed(volume, name, f"a program that cannot be started: {error.strerror}") from None
    logger.debug("%s", done.stdout.rstrip())
    if done.returncode:
        lines = done.stdout.split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        raise _failed(volume, name, f"{_ended(done.returncode)}: {last}")


def _ended(code: int) -> str:
    try:
        return f"exit code {code}" if code > 0 else f"termination by {signal.Signals(-code).name}"
    except ValueError:
        return f"termination by signal {-code}"


def _read_mask(path: Path, scan: Volume, volume: Volume, name: str) -> NDArray[np.bool_]:
    """The mask on the grid of ``scan``, which the program was given for ``volume``."""
    if not path.exists():
        raise _failed(volume, name, "no file when it ended")
    try:
        mask = read_nifti(path)
    except InputError as error:
        raise _failed(volume, name, f"one that cannot be read: {error.found}") from None
    # Programs may round headers, but must not move the mask by a voxel.
    near = mask.shape == scan.shape and (
        max_displacement_mm(mask.affine, scan.affine, scan.shape) < min(scan.spacing_mm) / 2
    )
    if not near:
        raise GridMismatchError(
            volume.path or "volume",
            expected=f"a brain mask from {name} on the scan's grid, {format_shape(scan.shape)} "
            f"voxels ({scan.orientation})",
            found=f"{format_shape(mask.shape)} voxels ({mask.orientation})"
            + (" that lie elsewhere" if mask.shape == scan.shape else ""),
            remedy="Let the program write its mask on the grid of {in}, without resampling.",
        )
    inside: NDArray[np.bool_] = mask.array > 0.5
    if not inside.any():
        raise EmptyBrainError(
            volume.path or "volume",
            expected=f"a head in which {name} finds the brain",
            found=f"an empty mask from {name}",
            remedy="Leave out --brain, or give another program.",
        )
    return inside


def _failed(volume: Volume, name: str, found: str) -> ExtractionError:
    return ExtractionError(
        volume.path or "volume",
        expected=f"a brain mask from {name}",
        found=found,
        remedy="medrd --verbose prepare … shows everything that the program printed.",
    )


def _no_command(found: str) -> ConfigError:
    return ConfigError(
        "--brain",
        expected=f"{', '.join(NAMES)}, or a command with {{in}} and {{mask}}",
        found=found,
        remedy="For example --brain 'mri_synthstrip -i {in} -m {mask} --no-csf'.",
    )


def _not_found(brain: str, programs: Sequence[str], remedy: str) -> MissingExtraError:
    return MissingExtraError(
        f"--brain {brain}",
        expected=f"{' or '.join(programs)} on PATH",
        found="no such program",
        remedy=remedy,
    )
