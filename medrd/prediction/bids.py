"""The top-level files of a BIDS derivative, for the results of a BIDS dataset."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from medrd.data.brains.bids import (
    DESCRIPTION_NAME,
    derivative_description,
    makers,
    read_description,
)
from medrd.data.cases import ERRORS_NAME, Case
from medrd.data.output_names import PAGES_NAME, REPORT_NAME
from medrd.errors import ConfigError, OutputError
from medrd.files import write_json, write_text

_IGNORED = ("*_anomalymap.*", ERRORS_NAME, REPORT_NAME, PAGES_NAME, f"{PAGES_NAME}/**")
_README = """Anomaly maps by medrd. Research use only; not a medical device.

`*_anomalymap.nii.gz` has the anomaly score of each voxel, on the grid of its source. The `.json`
file of the same name lists the findings. `*_label-L_*_mask.nii.gz` marks voxels whose score reaches
the calibrated threshold.
"""


def describe_derivative(cases: Sequence[Case], out: Path) -> None:
    """Write ``dataset_description.json``, ``README`` and ``.bidsignore`` if the inputs are BIDS.

    Changes that users made to these files are kept.

    Raises
    ------
    ConfigError
        The scans come from two datasets, or only some come from one.
    OutputError
        ``out`` is another dataset.
    """
    origins = {case.origin.root if case.origin else None: case for case in cases}
    if set(origins) <= {None}:
        return
    if len(origins) > 1:
        first, second = list(origins.values())[:2]
        raise ConfigError(
            second.first_file,
            expected="scans of one BIDS dataset in one call",
            found=f"an input outside the dataset of {first.first_file}",
            remedy="Run medrd predict for each of them, with different --out.",
        )
    (case,) = origins.values()
    assert case.origin is not None
    first_maker = next(iter(makers(read_description(out))), {})
    if (out / DESCRIPTION_NAME).exists() and first_maker.get("Name") != "medrd":
        raise OutputError(
            out,
            expected="a separate folder for the results",
            found="a BIDS dataset that medrd did not make",
            remedy="Choose another --out, for instance derivatives/medrd in the dataset.",
        )
    description = derivative_description(case.origin, out, version("medrd"))
    write_json(out / DESCRIPTION_NAME, description)
    if not any(out.glob("README*")):
        write_text(out / "README", _README)
    _ignore(out / ".bidsignore")


def _ignore(path: Path) -> None:
    """Add patterns of files that the validator must ignore, and keep existing ones."""
    try:
        existing = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, ValueError) as error:
        raise OutputError(
            path,
            expected="a text file, or none",
            found=str(error),
            remedy="Move it away, or choose another --out.",
        ) from None
    missing = [line for line in _IGNORED if line not in existing]
    if missing:
        write_text(path, "\n".join([*existing, *missing]) + "\n")
