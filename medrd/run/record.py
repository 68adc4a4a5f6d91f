"""The JSON beside results: what a command made, from which inputs, and how.

The fields of a record are the keys of its file, in the file's order; each key is defined here once.
:class:`Record` is what the records of ``medrd predict`` and ``medrd prepare`` have in common, and
reads those of earlier versions too. :class:`PredictionRecord` is all that ``predict`` writes today,
:class:`medrd.preparation.record.PreparedRecord` all that ``prepare`` writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from medrd.data.subject import Source
from medrd.errors import FileFormatError, InputError
from medrd.files import file_hash, write_json
from medrd.models.section import Text


class OutputFile(BaseModel):
    """A file that was written with the record: its path from the record's folder, and its hash."""

    file: Text
    sha256: str


class Record(BaseModel):
    """The provenance of a result.

    Attributes
    ----------
    subject
        The stem of the output names.
    inputs
        Absolute paths by channel.
    frame, series
        The selected part of the inputs; a prepared subject has a series for each channel.
        Earlier versions did not record them.
    outputs
        Output files by role: ``map``, ``mask`` …
    identity
        Everything that determines the result: hashes of the ``inputs`` by channel, versions of
        the code, and settings.
    unlike_training
        Differences of a predicted scan from the model's training scans.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    expected: ClassVar[str] = "a record that medrd wrote"

    subject: Text
    inputs: dict[str, Text]
    frame: int | None = None
    series: str | dict[str, str | None] | None = None
    unlike_training: list[Text] | None = None
    outputs: dict[str, OutputFile]
    identity: dict[str, Any]

    @classmethod
    def load(cls, path: Path, *, remedy: str) -> Self:
        """Read a record. Raises FileFormatError with this remedy if it cannot be read."""
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise FileFormatError(
                path, expected=cls.expected, found=_in_words(error), remedy=remedy
            ) from None

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a record; None if the file is missing or is not a record."""
        try:
            return cls.load(path, remedy="")
        except FileFormatError:
            return None

    @property
    def content(self) -> dict[str, Any]:
        """All keys and values, in the order of the fields; keys that are not fields come first."""
        content = self.model_dump(exclude_unset=True)
        order = [*(self.model_extra or {}), *type(self).__annotations__]
        return {key: content[key] for key in order if key in content}

    def write(self, path: Path) -> None:
        """Write the record as JSON, atomically. Raises OutputError."""
        write_json(path, self.content)

    @property
    def is_prediction(self) -> bool:
        """True if any version of ``medrd predict`` wrote it."""
        return isinstance(self.identity.get("model"), str) and "map" in self.outputs

    @property
    def input_hashes(self) -> dict[str, str]:
        """Hashes of the inputs by channel."""
        hashes: dict[str, str] = self.identity["inputs"]
        return hashes

    @property
    def sources(self) -> list[Source]:
        """The inputs, as far as the record describes them."""
        series = self.series
        by_channel = series if isinstance(series, dict) else dict.fromkeys(self.inputs, series)
        return [Source(Path(p), self.frame, by_channel.get(c)) for c, p in self.inputs.items()]

    def is_current(self, folder: Path, identity: Mapping[str, Any]) -> bool:
        """True if it has this identity, and its outputs in ``folder`` are unchanged."""
        try:
            return self.identity == identity and all(
                file_hash(folder / output.file) == output.sha256 for output in self.outputs.values()
            )
        except InputError:
            return False


class ModelName(BaseModel):
    """The model that made a prediction.

    Attributes
    ----------
    calibrated_on
        What the calibration scans show, for a built-in model, which is calibrated on no real ones.
    """

    name: str
    hash: str
    calibrated_on: Text | None = None


class PredictionRecord(Record):
    """The record of ``medrd predict``; docs/formats.md explains the keys.

    Those from ``scan_score`` to ``healthy_percentile`` are of scans alone, those from
    ``image_score`` to ``normal_percentile`` of pictures alone; likewise the sizes.
    """

    expected: ClassVar[str] = "a record of this version of medrd"

    subject: Text
    inputs: dict[str, Text]
    frame: int | None
    series: str | None = None
    label: Text | None = None
    lesion_labels: list[int] = []

    scan_score: float | None = None
    healthy_scans: int = 0
    healthy_percentile: float | None = None
    image_score: float | None = None
    normal_pictures: int = 0
    normal_percentile: float | None = None

    p_value: float | None
    threshold: float | None
    threshold_target_fpr: float | None

    findings_volume_mm3: float | None = None
    anomalous_pixels: int | None = None
    findings: list[dict[str, Any]]
    slices_scored: int | None = None
    slices_with_brain: int | None = None
    min_brain_mm2: float | None = None
    slices: int | None = None
    pixels_scored: int | None = None
    height: int | None = None
    width: int | None = None
    native: dict[str, Any] | None = None
    dicom: dict[str, Any] | None = None

    warnings: list[Text]
    unlike_training: list[Text]
    not_judged: list[Text] = []
    model: ModelName
    versions: dict[str, str]
    notice: str
    outputs: dict[str, OutputFile]
    identity: dict[str, Any]

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        needed = {"findings_volume_mm3", "slices_scored", "slices"}
        if not self.is_scan:
            needed = {"image_score", "anomalous_pixels", "pixels_scored"}
        if missing := needed - self.model_fields_set:
            raise PydanticCustomError("missing_keys", _missing(missing))
        return self

    @property
    def is_scan(self) -> bool:
        """True for a scan, False for a picture."""
        return self.scan_score is not None

    @property
    def score(self) -> float:
        """The score of the scan or picture."""
        score = self.scan_score if self.is_scan else self.image_score
        assert score is not None  # see _is_complete
        return score

    @property
    def percentile(self) -> float | None:
        """The share of the calibration inputs that score lower, in percent."""
        return self.healthy_percentile if self.is_scan else self.normal_percentile


def _missing(keys: set[str]) -> str:
    return f"none of {', '.join(sorted(keys))} in it"


def _in_words(error: OSError | ValueError) -> str:
    """The problem of a file that is not a valid record."""
    if not isinstance(error, ValidationError):
        return str(error)
    problems = error.errors()
    if missing := {str(p["loc"][0]) for p in problems if p["type"] == "missing"}:
        return _missing(missing)
    return "; ".join(f"{'.'.join(map(str, p['loc']))} {p['msg']}".strip() for p in problems)
