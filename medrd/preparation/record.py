"""The record of prepared scans: their origin and the quality of the preparation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import PlainSerializer, PlainValidator

from medrd.images.geometry import Affine
from medrd.images.volume import Grid, Volume
from medrd.models.section import Text
from medrd.preparation.linear import Matrix
from medrd.preparation.quality import Quality
from medrd.run.record import OutputFile, Record


@dataclass(frozen=True, eq=False)
class Origin:
    """The raw scan behind a prepared one.

    Attributes
    ----------
    path
        The raw file or series.
    grid, affine
        The raw scan's complete geometry, so that mapping back does not need the file.
    to_raw
        The map from the prepared world to the raw world, RAS+ mm.
    """

    path: str
    grid: Grid
    affine: Affine
    to_raw: Matrix

    @classmethod
    def of(cls, volume: Volume, to_raw: Matrix, path: str) -> Origin:
        """Describe the grid and header of a raw volume."""
        return cls(path, volume.grid, volume.affine, to_raw)

    def blank(self) -> Volume:
        """A volume of zeros on the raw scan's grid, as a template for results."""
        x, y, z = self.grid.shape[:3]
        return Volume(np.zeros((x, y, z), np.float32), self.affine, self.grid)

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; float32 values are preserved bit for bit."""
        grid = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in asdict(self.grid).items()
        }
        return {
            "path": self.path,
            "grid": grid,
            "affine": self.affine.tolist(),
            "prepared_to_raw_mm": self.to_raw.tolist(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Origin:
        """The inverse of :meth:`to_dict`. Raises ValueError."""
        try:
            raw = dict(content["grid"])
            real = np.float64 if raw["nifti_version"] == 2 else np.float32
            for name in ("sform", "quaternion", "offset", "pixdim"):
                raw[name] = np.asarray(raw[name], real)
            raw["shape"] = tuple(raw["shape"])
            affine, to_raw = (
                np.asarray(content[name], np.float64) for name in ("affine", "prepared_to_raw_mm")
            )
            path, grid = str(content["path"]), Grid(**raw)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no geometry of a raw scan: {error}") from None
        if affine.shape != (4, 4) or to_raw.shape != (4, 4):
            raise ValueError("expected (4, 4) matrices")
        return cls(path, grid, affine, to_raw)


class PreparedRecord(Record):
    """The record of ``medrd prepare``; docs/prepare.md explains the keys."""

    expected: ClassVar[str] = "the record of medrd prepare"

    subject: Text
    inputs: dict[str, Text]
    series: dict[str, str | None]
    template: Text
    quality: Quality
    warnings: list[Text]
    outputs: dict[str, OutputFile]
    origins: dict[
        str,
        Annotated[
            Origin,
            PlainValidator(lambda v: v if isinstance(v, Origin) else Origin.from_dict(v)),
            PlainSerializer(Origin.to_dict),
        ],
    ]
    versions: dict[str, str]
    notice: str
    identity: dict[str, Any]
