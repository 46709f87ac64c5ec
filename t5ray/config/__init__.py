"""Every user setting, as frozen models, and the reading of YAML.

    run.py       what train and tune take        data.py, training.py, augmentation.py, decode.py, search.py  its groups
    scoring.py   what predict and evaluate take  task.py  what a task is
    space.py, ranges.py, conditions.py, strategy.py, fit.py  search-space files
    effects.py             what a training setting needs to act
    base.py, fields.py     what all models share, kinds of values
    load.py                default < YAML < flag < --set
    explain.py, origins.py what is wrong with them, in a user's words and by the source that said it

Comes in: YAML text, flags. Goes out: frozen pydantic models. Must not know torch, ray or mlflow.
"""

from t5ray.config.augmentation import AugmentationConfig, BackTranslationConfig
from t5ray.config.base import Settings
from t5ray.config.conditions import awaited
from t5ray.config.data import DataConfig
from t5ray.config.decode import AskedDecode, DecodeConfig
from t5ray.config.effects import NEEDS
from t5ray.config.load import (
    dump_yaml,
    load_settings,
    load_space,
    load_task_file,
    parse_yaml,
    read_yaml,
    shipped_spaces,
)
from t5ray.config.ranges import Range
from t5ray.config.run import CACHE, ResourcesConfig, RunConfig, TrackingConfig
from t5ray.config.scoring import EvaluateConfig, PredictConfig
from t5ray.config.search import SearchConfig
from t5ray.config.space import SearchSpace
from t5ray.config.strategy import SamplerConfig, SchedulerConfig
from t5ray.config.task import LANGUAGES, MetricName, TaskConfig, template_fields
from t5ray.config.training import TrainingConfig

__all__ = [
    "CACHE",
    "LANGUAGES",
    "NEEDS",
    "AskedDecode",
    "AugmentationConfig",
    "BackTranslationConfig",
    "DataConfig",
    "DecodeConfig",
    "EvaluateConfig",
    "MetricName",
    "PredictConfig",
    "Range",
    "ResourcesConfig",
    "RunConfig",
    "SamplerConfig",
    "SchedulerConfig",
    "SearchConfig",
    "SearchSpace",
    "Settings",
    "TaskConfig",
    "TrackingConfig",
    "TrainingConfig",
    "awaited",
    "dump_yaml",
    "load_settings",
    "load_space",
    "load_task_file",
    "parse_yaml",
    "read_yaml",
    "shipped_spaces",
    "template_fields",
]
