"""The configuration of a run: typed, validated, read and written as YAML.

The resolved config is written into every run folder, so a run can be understood without the
original file.
"""

from medrd.config.channel_layout import ChannelLayout
from medrd.config.load import digest, load_config, make_config
from medrd.config.sections import (
    MEDIAN_INTENSITY,
    AnyDataConfig,
    AnyRecipeConfig,
    AugmentConfig,
    BrainLayout,
    CalibrationConfig,
    Config,
    DataConfig,
    PictureDataConfig,
    PictureLayout,
    PictureRecipeConfig,
    RecipeConfig,
    ScoringConfig,
    SplitConfig,
    TrainConfig,
)
from medrd.models.settings import (
    CoarseNoiseConfig,
    SimplexBoxConfig,
    SimulationConfig,
    TeacherConfig,
)

__all__ = [
    "MEDIAN_INTENSITY",
    "AnyDataConfig",
    "AnyRecipeConfig",
    "AugmentConfig",
    "BrainLayout",
    "CalibrationConfig",
    "ChannelLayout",
    "CoarseNoiseConfig",
    "Config",
    "DataConfig",
    "PictureDataConfig",
    "PictureLayout",
    "PictureRecipeConfig",
    "RecipeConfig",
    "ScoringConfig",
    "SimplexBoxConfig",
    "SimulationConfig",
    "SplitConfig",
    "TeacherConfig",
    "TrainConfig",
    "digest",
    "load_config",
    "make_config",
]
