"""The configuration of a run: typed, validated, read and written as YAML.

The resolved config is written into every run folder, so a run can be understood without the
original file.
"""

from medrd.config.layout import Layout
from medrd.config.load import digest, load_config, make_config
from medrd.config.models import (
    CoarseNoiseConfig,
    IntensityConfig,
    RD4ADConfig,
    SimplexBoxConfig,
    SimulationConfig,
    TeacherConfig,
)
from medrd.config.sections import (
    MEDIAN_INTENSITY,
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
    "MEDIAN_INTENSITY",
    "AnyDataConfig",
    "AnyRecipeConfig",
    "AugmentConfig",
    "CalibrationConfig",
    "CoarseNoiseConfig",
    "Config",
    "DataConfig",
    "IntensityConfig",
    "Layout",
    "PictureDataConfig",
    "PictureRecipeConfig",
    "RD4ADConfig",
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
