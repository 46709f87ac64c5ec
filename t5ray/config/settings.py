"""Every setting a user can give, grouped by what it is about. Read from YAML, flags and `--set` by `load`."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from t5ray.config.base import Settings

Precision = Literal["auto", "fp32", "bf16"]
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(value: object) -> object:
    """Read `2h`, `30m`, `90s` or `1d` as seconds; leave numbers to pydantic."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([smhd])\s*", value) if isinstance(value, str) else None
    return float(match[1]) * UNITS_S[match[2]] if match else value


Seconds = Annotated[float, BeforeValidator(_duration)]


def _refuse_fp16(value: object) -> object:
    if isinstance(value, str) and value.lower() in ("fp16", "float16", "half"):
        raise ValueError("T5's activations overflow in fp16 (it was trained in bfloat16). Use bf16 or fp32")
    return value


class DataConfig(Settings):
    """Where rows come from and how they are cut into splits and tokens."""

    path: str | None = None
    """File, glob, folder, fsspec URI or `hf:NAME[:CONFIG]`. None: the embedded demo."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column the task looks for -> column of the data."""
    split_seed: int = 0
    """Seed of the 80/10/10 split by hash of the input text, where the data have no `split` column."""
    max_train_rows: int | None = Field(default=None, ge=1)
    """Use this many training rows, chosen by hash. None: all."""
    max_validation_rows: int | None = Field(default=None, ge=1)
    """Likewise for validation."""
    max_test_rows: int | None = Field(default=None, ge=1)
    """Likewise for test."""
    max_input_tokens: int | None = Field(default=None, ge=2)
    """Longest input in tokens with EOS; longer ones are cut. None: 99th percentile of the data, capped by the model."""
    max_target_tokens: int | None = Field(default=None, ge=2)
    """Longest target in tokens with EOS. None: 99th percentile of the data."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be used, counted and listed, instead of stopping at them."""


class TrainingConfig(Settings):
    """One fine-tuning run. Every field but the ones in `NOT_SEARCHABLE` can be a parameter of a search space."""

    learning_rate: float = Field(default=3e-4, gt=0, le=1)
    """Peak learning rate."""
    batch_size: int = Field(default=32, ge=1)
    """Rows per optimizer step over all workers."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Rows a worker forwards at once. None: as many as `micro_batch_tokens` holds."""
    micro_batch_tokens: int = Field(default=16_384, ge=1)
    """Padded input and target tokens a worker forwards at once, at most."""
    max_epochs: int = Field(default=3, ge=1)
    """Passes over the training split."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """Update rule."""
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    """Decoupled weight decay per step, times the learning rate; not on norms."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's decay rate of the gradient mean."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """AdamW's decay rate of the squared gradient mean."""
    epsilon: float = Field(default=1e-8, gt=0)
    """AdamW's denominator floor."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Shape of the learning rate after warm-up; linear and cosine end at 0 after `max_epochs`."""
    warmup_share: float = Field(default=0.05, ge=0, le=1)
    """Share of all steps over which the learning rate rises from 0."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """T5's dropout rate, in every place where T5 has one."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target probability spread over the vocabulary."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global L2 norm."""
    precision: Precision = "auto"
    """bf16 runs matrix products in bfloat16 over fp32 weights; auto takes it where the hardware has it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    validation_rows: int = Field(default=1000, ge=1)
    """Validation rows that are generated after each epoch for the objective: a fixed sample."""
    seed: int = 0
    """Seeds data order and dropout."""

    _precision_is_safe = field_validator("precision", mode="before")(_refuse_fp16)

    @classmethod
    def searchable(cls) -> set[str]:
        """Return the names that a search space may use."""
        return set(cls.model_fields) - NOT_SEARCHABLE


NOT_SEARCHABLE = {"max_epochs", "validation_rows", "seed", "micro_batch_tokens"}


class DecodeConfig(Settings):
    """How predictions are generated. Stored in the bundle, so that scoring needs no flags."""

    num_beams: int = Field(default=1, ge=1)
    """Beam width; 1 is greedy."""
    length_penalty: float = 1.0
    """Exponent of the length in beam scores; above 0 favours long outputs."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Output cap in tokens. None: derived from the targets' 99th percentile with head room."""


class SearchConfig(Settings):
    """How many trials over which space, and what decides."""

    space: str = "t5_small"
    """Search-space file, or the name of a shipped one (demo, t5_small, t5_base, t5_large, adafactor)."""
    num_trials: int = Field(default=10, ge=1)
    """Trials in all, the default settings included."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Trials at a time. None: as many as the resources allow."""
    time_budget_s: Seconds | None = Field(default=None, gt=0)
    """No trial is started or continued after this long: seconds, or text such as 90s, 30m, 2h. None: no limit."""
    metric: str | None = None
    """The objective: a metric of the task, or `validation_loss`. None: the task's first metric."""
    seed: int = 0
    """Seeds the sampler."""


class ResourcesConfig(Settings):
    """What one trial holds."""

    workers_per_trial: int = Field(default=1, ge=1)
    """Ray Train workers that share each batch of a trial."""
    cpus_per_worker: int = Field(default=1, ge=1)
    """CPUs, and torch threads, of one worker."""
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
    task: str | None = None
    """classify, summarize, answer, translate or a YAML file. None only with the embedded demo."""
    source_language: str | None = None
    """For translate: the language of `source`. None: the task's (English)."""
    target_language: str | None = None
    """For translate: the language of `target`. None: the task's (German)."""
    model: str | None = None
    """Hugging Face id or directory of a T5. None only with the embedded demo."""
    training: TrainingConfig = TrainingConfig()
    decode: DecodeConfig = DecodeConfig()
    search: SearchConfig = SearchConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()
    storage: str = "t5ray_runs"
    """Directory or fsspec URI that holds one folder per named run."""
    name: str | None = None
    """Name of the run and of its folder. None: made from the task and the time."""
    address: str | None = None
    """Ray to join: `auto` or HOST:PORT. None: RAY_ADDRESS, else a Ray of its own."""

    @field_validator("name")
    @classmethod
    def _is_one_folder(cls, value: str | None) -> str | None:
        if value is not None and (not value or "/" in value or value in (".", "..")):
            raise ValueError(f"must be a plain folder name without `/`, but got {value!r}")
        return value


class PredictConfig(Settings):
    """Everything `predict` takes."""

    model: str
    """Bundle, Hugging Face directory or id, or models:/NAME@ALIAS."""
    input: str
    """File, glob, folder or fsspec URI."""
    output: str
    """Directory for the parts and `_job.json`."""
    task: str | None = None
    """Only for a model that is no bundle: how rows become inputs."""
    source_language: str | None = None
    """For translate with a model that is no bundle."""
    target_language: str | None = None
    """For translate with a model that is no bundle."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column the task looks for -> column of the input."""
    format: Literal["parquet", "jsonl", "csv"] = "parquet"
    """Format of the parts."""
    workers: int | None = Field(default=None, ge=1)
    """Scorers at a time. None: one per GPU, or one per two CPUs."""
    gpus_per_worker: float = Field(default=0.0, ge=0)
    """GPUs of one scorer."""
    batch_tokens: int = Field(default=16_384, ge=1)
    """Padded input tokens a scorer forwards at once, at most."""
    engine: Literal["torch"] = "torch"
    """What runs the model."""
    precision: Precision = "auto"
    """bf16 where the hardware has it, unless fp32 is asked for."""
    scores: bool = False
    """Add the probability of each prediction as `score`."""
    retry_errors: bool = False
    """Score again only the rows whose `error` is not null."""
    on_long: Literal["truncate", "error"] = "truncate"
    """What to do with inputs longer than the bundle's length."""
    shard_rows: int = Field(default=4096, ge=1)
    """Rows of one shard: the unit of work, of commit and of restart."""
    decode: DecodeConfig | None = None
    """Decode settings other than the bundle's."""
    tracking_uri: str = TrackingConfig().uri
    """MLflow where models:/NAME@ALIAS is looked up."""
    address: str | None = None
    """Ray to join: `auto` or HOST:PORT. None: RAY_ADDRESS, else a Ray of its own."""

    _precision_is_safe = field_validator("precision", mode="before")(_refuse_fp16)


class EvaluateConfig(Settings):
    """Everything `evaluate` takes."""

    output: str
    """Directory for metrics.json, predictions.jsonl and report.html."""
    model: str | None = None
    """Bundle, Hugging Face directory or id, or models:/NAME@ALIAS. None with `predictions`."""
    data: str | None = None
    """Rows with references. None with `predictions`."""
    predictions: str | None = None
    """Output directory of predict, with the references in the same rows."""
    split: Literal["train", "validation", "test", "all"] | None = None
    """Which split of the data. None: test where the data have a `split` column or trained the model, else all rows."""
    task: str | None = None
    """With `predictions`, or with a model that is no bundle."""
    source_language: str | None = None
    """For translate with a model that is no bundle."""
    target_language: str | None = None
    """For translate with a model that is no bundle."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column the task looks for -> column of the data."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be judged, counted and listed, instead of stopping at them."""
    workers: int | None = Field(default=None, ge=1)
    """Scorers at a time."""
    gpus_per_worker: float = Field(default=0.0, ge=0)
    """GPUs of one scorer."""
    batch_tokens: int = Field(default=16_384, ge=1)
    """Padded input tokens a scorer forwards at once, at most."""
    engine: Literal["torch"] = "torch"
    """What runs the model."""
    precision: Precision = "auto"
    """bf16 where the hardware has it, unless fp32 is asked for."""
    decode: DecodeConfig | None = None
    """Decode settings other than the bundle's."""
    bootstrap_samples: int = Field(default=1000, ge=0)
    """Resamples behind each 95 % interval; 0 leaves the intervals out."""
    seed: int = 0
    """Seeds the bootstrap."""
    tracking: TrackingConfig = TrackingConfig()
    address: str | None = None
    """Ray to join: `auto` or HOST:PORT. None: RAY_ADDRESS, else a Ray of its own."""

    _precision_is_safe = field_validator("precision", mode="before")(_refuse_fp16)
