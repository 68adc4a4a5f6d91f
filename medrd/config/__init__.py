"""The configuration of a run: typed, validated, read and written as YAML.

The resolved config is written into every run folder, so a run can be understood without the
original file.
"""

from medrd.config.layout import Layout
from medrd.config.load import digest, load_config, make_config
from medrd.config.models import IntensityConfig, RD4ADConfig, TeacherConfig
from medrd.config.sections import (
    AnyDataConfig,
    AnyRecipeConfig,
    AugmentConfig,
    CalibrationConfig,
    Config,
    DataConfig,
    PictureDataConfig,
    PictureRecipeConfig,
    RecipeConfig,
    ScoringConfig,
    SplitConfig,
    TrainConfig,
)

__all__ = [
    "AnyDataConfig",
    "AnyRecipeConfig",
    "AugmentConfig",
    "CalibrationConfig",
    "Config",
    "DataConfig",
    "IntensityConfig",
    "Layout",
    "PictureDataConfig",
    "PictureRecipeConfig",
    "RD4ADConfig",
    "RecipeConfig",
    "ScoringConfig",
    "SplitConfig",
    "TeacherConfig",
    "TrainConfig",
    "digest",
    "load_config",
    "make_config",
]
