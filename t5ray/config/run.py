"""Everything that `train` and `tune` take."""

import re

from pydantic import Field, field_validator, model_validator

from t5ray.config.augmentation import BackTranslationConfig
from t5ray.config.base import Settings
from t5ray.config.data import DataConfig
from t5ray.config.decode import DecodeConfig
from t5ray.config.fields import Location
from t5ray.config.search import SearchConfig
from t5ray.config.training import TrainingConfig

CACHE = "cache"
"""Folder of a storage that holds tokenised data, beside one folder per run."""


class ResourcesConfig(Settings):
    """What one trial holds."""

    workers_per_trial: int = Field(default=1, ge=1)
    """Ray Train workers that share each batch of a trial."""
    cpus_per_worker: int | None = Field(default=None, ge=1)
    """CPUs, and torch threads, of one worker. None: its share of this machine; 1 with a GPU, or on a joined Ray."""
    gpus_per_worker: float = Field(default=0.0, ge=0)
    """GPUs of one worker; a fraction shares a GPU between trials."""


class TrackingConfig(Settings):
    """Where MLflow keeps runs."""

    uri: str = "sqlite:///mlflow.db"
    """Tracking URI. `none` logs nothing."""
    experiment: str = "t5ray"
    """MLflow experiment that the runs belong to."""


class RunConfig(Settings):
    """Everything `train` and `tune` take."""

    data: DataConfig = DataConfig()
    task: Location | None = None
    """classify, summarize, answer, translate or a YAML file. None only with the embedded demo."""
    source_language: str | None = None
    """For translate: the language of `source`. None: the task's (English)."""
    target_language: str | None = None
    """For translate: the language of `target`. None: the task's (German)."""
    model: Location | None = None
    """Hugging Face id or directory of a T5. None only with the embedded demo."""
    training: TrainingConfig = TrainingConfig()
    decode: DecodeConfig = DecodeConfig()
    back_translation: BackTranslationConfig = BackTranslationConfig()
    search: SearchConfig = SearchConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()
    storage: Location = "t5ray_runs"
    """Directory or fsspec URI that holds one folder per named run."""
    name: str | None = None
    """Name of the run and of its folder. None: made from the task and the time."""
    register_as: str | None = None
    """Name that MLflow registers the best model under, with the alias `champion`. None: it is logged only."""
    address: str | None = None
    """Ray to join: `auto` or HOST:PORT. None: RAY_ADDRESS, else a Ray of its own."""

    @field_validator("name")
    @classmethod
    def _is_one_folder(cls, value: str | None) -> str | None:
        if value is not None and (not value or "/" in value or value in (".", "..")):
            raise ValueError(f"must be a plain folder name without `/`, but got {value!r}")
        if value == CACHE:
            raise ValueError(f"must not be {CACHE!r}, the folder of the storage that holds the tokens of all runs")
        return value

    @field_validator("register_as")
    @classmethod
    def _is_a_model_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[^/:'\"\s]+", value):
            raise ValueError(f"must be free of `/`, `:`, quotes and spaces, but got {value!r}")
        return value

    @model_validator(mode="after")
    def _has_a_registry(self) -> "RunConfig":
        if self.register_as is not None and self.tracking.uri == "none":
            raise ValueError("register_as: MLflow must be there to register a model, but tracking.uri is `none`")
        return self
