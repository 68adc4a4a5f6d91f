"""Results of a BIDS dataset as a BIDS derivative: what stands at its top."""

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

`*_anomalymap.nii.gz` is the score of each voxel on the grid of its source, `.json` beside it what
was found, `*_label-L_*_mask.nii.gz` where the score reaches the calibrated threshold.
"""


def describe_derivative(cases: Sequence[Case], out: Path) -> None:
    """Write ``dataset_description.json``, ``README`` and ``.bidsignore`` if the inputs are BIDS.

    What somebody added to them, or wrote in their place, stays.

    Raises
    ------
    ConfigError
        Scans of two datasets, or of none among those of one.
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
            found=f"another input besides {first.first_file}",
            remedy="Run medrd predict once for each, with another --out.",
        )
    (case,) = origins.values()
    assert case.origin is not None
    first_maker = next(iter(makers(read_description(out))), {})
    if (out / DESCRIPTION_NAME).exists() and first_maker.get("Name") != "medrd":
        raise OutputError(
            out,
            expected="a folder of its own for the results",
            found="a BIDS dataset that medrd did not make",
            remedy="Give another --out, for instance derivatives/medrd in the dataset.",
        )
    description = derivative_description(case.origin, out, version("medrd"))
    write_json(out / DESCRIPTION_NAME, description)
    if not any(out.glob("README*")):
        write_text(out / "README", _README)
    _ignore(out / ".bidsignore")


def _ignore(path: Path) -> None:
    """Add what the validator must pass over to what is ignored already."""
    try:
        there = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, ValueError) as error:
        raise OutputError(
            path,
            expected="a text file, or none",
            found=str(error),
            remedy="Move it away, or give another --out.",
        ) from None
    missing = [line for line in _IGNORED if line not in there]
    if missing:
        write_text(path, "\n".join([*there, *missing]) + "\n")
