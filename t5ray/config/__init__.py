"""Every user setting, as frozen models, and the reading of YAML.

    settings.py  what the commands take          task.py  what a task is
    space.py     search-space files              load.py  default < YAML < flag < --set

Comes in: YAML text, flags. Goes out: frozen pydantic models. Must not know torch, ray or mlflow.
"""

from t5ray.config.base import Settings
from t5ray.config.load import (
    dump_yaml,
    load_settings,
    load_space,
    load_task_file,
    parse_yaml,
    read_yaml,
    shipped_spaces,
)
from t5ray.config.settings import (
    DataConfig,
    DecodeConfig,
    EvaluateConfig,
    PredictConfig,
    ResourcesConfig,
    RunConfig,
    SearchConfig,
    TrackingConfig,
    TrainingConfig,
)
from t5ray.config.space import Range, SamplerConfig, SchedulerConfig, SearchSpace
from t5ray.config.task import LANGUAGES, MetricName, TaskConfig, template_fields

__all__ = [
    "LANGUAGES",
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
    "dump_yaml",
    "load_settings",
    "load_space",
    "load_task_file",
    "parse_yaml",
    "read_yaml",
    "shipped_spaces",
    "template_fields",
]
