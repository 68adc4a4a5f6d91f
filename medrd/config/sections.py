"""The sections of a config: each key with its meaning, default and allowed values.

A config file lists only what differs from the defaults below.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, cast

from pydantic import (
    Field,
    PlainValidator,
    SerializeAsAny,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticKnownError

from medrd.config.channel_layout import ChannelLayout
from medrd.config.yaml_text import format_yaml
from medrd.models.detectors import DETECTORS, detector_class
from medrd.models.section import FilePath, Section, Text
from medrd.models.settings import ModelSection

SCHEMA_VERSION: Final = 1
MEDIAN_INTENSITY: Final = 0.4
"""A brain's median under ``recipe.normalise: median``: room for values up to 2.5 times as high."""

_Distance = Annotated[float, Field(gt=0, le=50)]


class RecipeConfig(Section):
    """The conversion of a volume to slices; stored with the model for prediction."""

    kind: Literal["volumes"] = "volumes"
    channels: tuple[str, ...] = Field(("flair",), min_length=1, max_length=8)
    """Modalities. Every model takes one (repeated to three channels) or three (one per channel);
    rdseg and outline take any number."""
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    size: int = Field(256, ge=32, le=1024)
    """Side of a slice in pixels."""
    field_mm: float = Field(240.0, gt=0)
    """Side length, in mm, of the square around the brain's centre that a slice shows."""
    normalise: Literal["percentile", "rank", "median"] = "percentile"
    """Normalisation over the brain of the whole volume, never per slice. ``percentile``: two
    percentiles become 0 and 1; ``rank``: the share of voxels that are darker; ``median``: 0 stays 0
    and the median becomes 0.4 (a large lesion shifts the median less than the percentiles)."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """For ``percentile``: the percentiles that become 0 and 1."""
    shading: Literal["kept", "quadratic"] = "kept"
    """``quadratic``: before normalisation, divide each scan by its smooth shading, fitted to the
    brain so that lesions hardly count (:mod:`medrd.data.brains.shading`)."""
    min_brain_mm2: float = Field(3000.0, gt=0)
    """Slices with less brain than this are neither trained on nor scored."""
    neighbours_mm: tuple[_Distance, ...] = Field((), max_length=8)
    """Also show the slices at these distances on both sides of each slice (rdseg and outline)."""
    place: bool = False
    """Also show each pixel's position in the brain: its row, its distance from the middle column,
    and the slice's height between the lowest and the highest slice with enough brain (rdseg
    and outline)."""

    @property
    def layout(self) -> ChannelLayout:
        """The channels of an image."""
        offsets = [side * each for each in self.neighbours_mm for side in (-1, 1)]
        return ChannelLayout(self.channels, (0.0, *offsets), self.place, self.field_mm / self.size)

    @model_validator(mode="after")
    def _check(self) -> RecipeConfig:
        if len(set(self.channels)) < len(self.channels):
            raise ValueError("channels must differ; medrd repeats a single one to three")
        if len(set(self.neighbours_mm)) < len(self.neighbours_mm):
            raise ValueError("neighbours_mm must differ; each applies to both sides")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles must rise within 0..100, not {low}, {high}")
        return self


class PictureRecipeConfig(Section):
    """The conversion of a picture to a square image; stored with the model too."""

    kind: Literal["pictures"] = "pictures"
    size: int = Field(256, ge=32, le=1024)
    """Side of the square in pixels."""
    resize: Literal["stretch", "fit", "crop"] = "stretch"
    """For a picture that is not square: change its aspect ratio, pad it, or crop its middle
    square."""
    colour: Literal["rgb", "grey"] = "rgb"
    """``grey``: the mean of red, green and blue, repeated."""
    value_range: tuple[float, float] | None = None
    """The values that become 0 and 1; default: the range of the file's integer type (0 to 1 for
    floating-point files)."""

    @property
    def layout(self) -> ChannelLayout:
        """The channels of an image; pixel sizes are as if the picture were a slice of a head."""
        names = ("grey",) if self.colour == "grey" else ("red", "green", "blue")
        return ChannelLayout(names, pixel_mm=240 / self.size)

    @model_validator(mode="after")
    def _check(self) -> PictureRecipeConfig:
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError("value_range must rise")
        return self


AnyRecipeConfig = Annotated[RecipeConfig | PictureRecipeConfig, Field(discriminator="kind")]


class SplitConfig(Section):
    """Subjects on each side: explicit lists of ids, or counts or shares of those not listed."""

    train: int | float | tuple[Text, ...] = 0.6
    calibration: int | float | tuple[Text, ...] = 0.1
    """Held-out subjects whose healthy slices set the threshold."""
    test: int | float | tuple[Text, ...] = 0.3

    @classmethod
    def all_to_test(cls) -> SplitConfig:
        """The split of a data set that a model was not trained on."""
        return cls(train=0, calibration=0, test=1.0)

    @field_validator("train", "calibration", "test", mode="wrap")
    @classmethod
    def _check_side(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:  # True would pass for 1
            side = handler(None if isinstance(value, bool) else value)
        except ValidationError:  # pydantic would report one error for each type of the union
            raise ValueError(
                "write a count (3), a share (0.3) or a list of subject ids ([a, b]; "
                "in quotes if an id looks like a number)"
            ) from None
        if not isinstance(side, tuple) and (side < 0 or (isinstance(side, float) and side > 1)):
            raise ValueError("write a count of 0 or more (3), or a share between 0 and 1 (0.3)")
        return side


class BrainLayout(StrEnum):
    """A layout of scans; :data:`medrd.data.brains.layouts.LAYOUTS` has what each of them means."""

    AUTO = "auto"
    """The first that fits."""
    MSD = "msd"
    BRATS = "brats"
    BRATS2023 = "brats2023"
    FOLDER = "folder"


class DataConfig(Section):
    """The data set of scans, and which of their slices count as healthy."""

    kind: Literal["volumes"] = "volumes"
    root: FilePath | None = None
    layout: BrainLayout = BrainLayout.AUTO
    lesion_labels: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """The values of a label that are lesion, such as [1, 2, 4]; empty: all but 0."""
    healthy: bool = False
    """True if every subject is known to be healthy; labels may then be missing."""
    healthy_margin: int = Field(2, ge=0)
    """Slices up to this distance from a lesion are not trained on (in slices; 0: only slices with a
    lesion)."""
    split: SplitConfig = SplitConfig()
    subject_pattern: str | None = None
    """A regular expression whose first group (or whole match), in a subject's id, is the person:
    scans of one person stay on one side of the split. Default: the names of BIDS and of public
    data sets (docs/own_cohort.md). ``(.*)``: every id is a person."""
    cache: FilePath | None = None
    """Folder for prepared volumes; default: MEDRD_CACHE, or medrd in the user's cache folder."""
    max_voxels: int = Field(512**3, gt=0)
    """A volume with more voxels is refused before it is read."""

    @field_validator("subject_pattern")
    @classmethod
    def _check_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"write a regular expression: {error}") from None
        return value

    @property
    def budget(self) -> int:
        """The limit on the size of an input; larger ones are refused unread."""
        return self.max_voxels


class PictureLayout(StrEnum):
    """A layout of pictures; see :data:`medrd.data.pictures.layouts.LAYOUTS`."""

    AUTO = "auto"
    """The one that fits."""
    MVTEC = "mvtec"
    MVTEC_LOCO = "mvtec_loco"
    MVTEC_3D = "mvtec_3d"
    VISA = "visa"
    FOLDER = "folder"


class PictureDataConfig(Section):
    """The data set of pictures; its folders separate training from test, normal from anomalous."""

    kind: Literal["pictures"] = "pictures"
    root: FilePath | None = None
    layout: PictureLayout = PictureLayout.AUTO
    category: Text | tuple[Text, ...] = "all"
    """One, several or all categories; one model is trained on all of them."""
    calibration: Literal["auto"] | int | float = "auto"
    """Normal pictures per category that set the threshold, held out of train/good: a count or a
    share. ``auto``: validation/good if the data set has it, else 0.1."""
    normal_test: float = Field(0.2, gt=0, lt=1)
    """Share of the normal pictures used for testing, if no folder tells (layout ``folder``)."""
    cache: FilePath | None = None
    """Folder for prepared pictures; the default is the same as for volumes."""
    max_pixels: int = Field(100_000_000, gt=0)
    """A picture with more pixels is refused before it is decoded."""

    @field_validator("calibration", mode="wrap")
    @classmethod
    def _check_calibration(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            chosen = handler(value)
        except ValidationError:
            raise ValueError("write auto, a count (20) or a share (0.1)") from None
        if chosen != "auto" and (chosen < 0 or (isinstance(chosen, float) and chosen >= 1)):
            raise ValueError("write auto, a count of 0 or more, or a share below 1")
        return chosen

    @property
    def budget(self) -> int:
        """The limit on the size of an input; larger ones are refused unread."""
        return self.max_pixels

    @property
    def healthy_margin(self) -> int:
        """Always 0: a picture has no neighbouring slices."""
        return 0


AnyDataConfig = Annotated[DataConfig | PictureDataConfig, Field(discriminator="kind")]


class ScoringConfig(Section):
    """Smoothing of the raw map, and the image score; the same for every model."""

    sigma_px: float = Field(4.0, ge=0)
    """Gaussian, in pixels of a 256-pixel slice; scaled with the slice's size. 0: no smoothing."""
    image_score: Literal["max", "top", "mean", "model"] = "max"
    """``model``: the method's own score, if it has one (patchcore)."""
    top_fraction: float = Field(0.01, gt=0, le=1)
    """For ``top``: the share of highest pixels inside the brain whose mean is the score."""
    sigma_across_mm: float = Field(0.0, ge=0, le=100)
    """Gaussian across a scan's slices, in mm. 0: slices stay independent, as for pictures."""


class AugmentConfig(Section):
    """Random changes to the healthy slices before anomalies are simulated; none by default."""

    flip: bool = False
    """Mirror half of the slices: left and right in axial and coronal slices."""
    gamma: float = Field(0.0, ge=0, le=2)
    """Raise intensities to a power between exp(-gamma) and exp(gamma), one per modality; 0.4, the
    median under recipe.normalise: median, is kept."""
    gain: float = Field(0.0, ge=0, le=2)
    """Multiply intensities by a factor between exp(-gain) and exp(gain), one per modality."""
    bias: float = Field(0.0, ge=0, le=2)
    """Multiply intensities by a smooth field whose logarithm has up to this standard deviation."""

    @property
    def any(self) -> bool:
        """True if any augmentation is enabled."""
        return self.flip or max(self.gamma, self.gain, self.bias) > 0


class TrainConfig(Section):
    """The optimisation loop."""

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(16, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """For training and prediction; auto is bf16 where the device computes faster in it."""
    device: str = "auto"
    compile: bool = False
    augment: AugmentConfig = AugmentConfig()


class CalibrationConfig(Section):
    """Thresholds from held-out healthy slices."""

    voxel_fpr: float = Field(0.02, gt=0, lt=1)
    """Share of healthy brain voxels that may reach the threshold."""
    with_training: bool = False
    """Also use the training subjects' healthy slices for the threshold. They look slightly too
    healthy to the model, but with only one or two held-out subjects the variation between scans
    matters more. A scan's score is still compared with held-out scans only."""


def _model_section(value: Any) -> ModelSection:
    """The section of a detector, whose file is imported only now: it needs torch."""
    if isinstance(value, ModelSection):
        return value
    if not isinstance(value, dict):
        raise PydanticKnownError("model_attributes_type")
    if (name := value.get("name")) is None:
        raise PydanticKnownError("union_tag_not_found", {"discriminator": "'name'"})
    if name not in DETECTORS:
        known = ", ".join(map(repr, DETECTORS))
        context = {"discriminator": "'name'", "tag": str(name), "expected_tags": known}
        raise PydanticKnownError("union_tag_invalid", context)
    try:
        return detector_class(name).section.model_validate(value)
    except ValidationError as error:  # the name tells which section's keys the error is about
        details = [{**each, "loc": (name, *each["loc"])} for each in error.errors()]
        raise ValidationError.from_exception_data(
            "model", cast(list[InitErrorDetails], details)
        ) from None


AnyModelConfig = Annotated[SerializeAsAny[ModelSection], PlainValidator(_model_section)]


class Config(Section):
    """The configuration of a run."""

    schema_version: Literal[1] = SCHEMA_VERSION
    seed: int = Field(0, ge=0, lt=2**31)
    data: AnyDataConfig = DataConfig()
    recipe: AnyRecipeConfig = RecipeConfig()
    model: AnyModelConfig = Field(default_factory=lambda: _model_section({"name": "rd4ad"}))
    scoring: ScoringConfig = ScoringConfig()
    train: TrainConfig = TrainConfig()
    calibration: CalibrationConfig = CalibrationConfig()

    @model_validator(mode="after")
    def _check_kinds(self) -> Config:
        if self.data.kind != self.recipe.kind:
            raise ValueError(
                f"data.kind is {self.data.kind} and recipe.kind is {self.recipe.kind}; "
                "they must be equal"
            )
        layout = self.recipe.layout
        if not (layout.plain or self.model.takes_stacks):
            raise ValueError(
                f"model {self.model.name} takes one or three channels of one slice; the recipe has "
                f"{layout.channels} (recipe.channels, neighbours_mm, place): use rdseg or outline"
            )
        if isinstance(self.recipe, RecipeConfig):
            self.model.check_scans(
                channels=self.recipe.channels,
                axis=self.recipe.axis,
                normalise=self.recipe.normalise,
            )
        return self

    def to_yaml(self) -> str:
        """The resolved config as YAML text."""
        return format_yaml(self.to_dict())
