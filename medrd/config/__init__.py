"""What a run is: typed, validated, YAML in and YAML out.

The resolved config is written into every run folder, so that a run can be read without the
file that it came from.
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
