"""Pictures of VisA (Zou et al. 2022), from the table of its one-class split."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from medrd.data.pictures.files import (
    GOOD,
    PictureSubject,
    Side,
    choose,
    folders_in,
    incomplete,
    logger,
    name_of,
    pictures_in,
    warn_of_orphans,
)
from medrd.data.subject import Source
from medrd.errors import ConfigError, MissingInputError

TABLE = Path("split_csv") / "1cls.csv"

_COLUMNS = ("object", "split", "label", "image", "mask")


def looks_like_visa(root: Path) -> bool:
    """True if there is VisA's table, or ``Data/Images`` in the root or a subfolder."""
    inner = (root, *folders_in(root))
    return (root / TABLE).is_file() or any((f / "Data" / "Images").is_dir() for f in inner)


def visa_pictures(root: Path, category: str | Sequence[str]) -> list[PictureSubject]:
    """The pictures of VisA's one-class split, from its table.

    ``root`` is the data set's folder or that of one category, beside which the table lies.
    """
    whole = (root / TABLE).is_file() or not (root / "Data").is_dir()
    top = root if whole else Path(os.path.abspath(root)).parent
    rows = _rows(top / TABLE)
    known = {row["object"] for row in rows.values()} if whole else {name_of(root)}
    if not known <= {row["object"] for row in rows.values()}:
        raise _bad_table(top / TABLE, f"pictures of {name_of(root)}", "no such object")
    chosen = set(choose(root, sorted(known), category))
    masked = any(row["mask"] and (top / row["mask"]).is_file() for row in rows.values())
    if not masked:
        logger.warning("%s has no masks: only image-level metrics can be computed.", top)
    subjects: dict[str, PictureSubject] = {}
    for line, row in rows.items():
        if row["object"] not in chosen:
            continue
        bad = row["label"] == "anomaly"
        masks = (top / row["mask"],) if bad and masked else ()
        if bad and masked and not row["mask"]:
            raise _missing_row(top, line, row["image"], expected="its mask in the column mask")
        if not (top / row["image"]).is_file():
            raise _missing_row(top, line, row["image"], expected=str(top / row["image"]))
        id = PurePosixPath(row["image"]).with_suffix("").as_posix()
        if id in subjects:
            raise _bad_table(top / TABLE, "each picture once", f"{id} again in line {line}")
        side: Side = "train" if row["split"] == "train" else "test"
        defect = "anomaly" if bad else GOOD
        source = {"picture": Source(top / row["image"])}
        subjects[id] = PictureSubject(id, source, None, row["object"], defect, side, masks)
    claimed = {mask for subject in subjects.values() for mask in subject.masks}
    folders = sorted({mask.parent for mask in claimed})
    warn_of_orphans(m for f in folders for m in set(pictures_in(f).values()) - claimed)
    return list(subjects.values())


def _rows(table: Path) -> dict[int, dict[str, str]]:
    """The rows by line number, with every value checked that is not a path."""
    if not table.is_file():
        raise incomplete(table.parent.parent, TABLE.as_posix(), ".")
    rows: dict[int, dict[str, str]] = {}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            missing = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
            for row in reader if not missing else ():
                rows[reader.line_num] = {column: row[column].strip() for column in _COLUMNS}
    except (UnicodeDecodeError, csv.Error) as error:
        raise _bad_table(table, "a table of comma-separated text", str(error)) from None
    if missing:
        raise _bad_table(table, f"the columns {', '.join(_COLUMNS)}", f"no {', '.join(missing)}")
    for line, row in rows.items():
        _check_row(table, line, row)
    if not rows:
        raise _bad_table(table, "a row for each picture", "no row")
    return rows


def _check_row(table: Path, line: int, row: Mapping[str, str]) -> None:
    """Raise ConfigError if a value is unknown, or there is no path."""
    for column, values in (("split", ("train", "test")), ("label", ("normal", "anomaly"))):
        if row[column] not in values:
            found = f"{row[column]!r} in line {line}"
            raise _bad_table(table, f"{' or '.join(values)} in column {column}", found)
    if not row["image"]:
        raise _bad_table(table, "a path in column image", f"none in line {line}")
    if (row["split"], row["label"]) == ("train", "anomaly"):
        raise _bad_table(table, "only normal pictures for training", f"an anomaly in line {line}")


def _missing_row(top: Path, line: int, image: str, *, expected: str) -> MissingInputError:
    return MissingInputError(
        f"{top / TABLE}, line {line} ({image})",
        expected=expected,
        found="no such file",
        remedy="Unpack the data set again, or take the row out.",
    )


def _bad_table(table: Path, expected: str, found: str) -> ConfigError:
    return ConfigError(table, expected=expected, found=found, remedy="Restore the data set's file.")
