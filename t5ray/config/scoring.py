"""Everything that `predict` and `evaluate` take."""

from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from t5ray.config.base import Settings
from t5ray.config.decode import AskedDecode
from t5ray.config.explain import MISSING_ONE_OF
from t5ray.config.fields import Location, Precision, WorkerPool, refuse_fp16, refuse_unfit_engine
from t5ray.config.run import TrackingConfig


class PredictConfig(Settings):
    """Everything `predict` takes."""

    model: Location
    """Bundle, Hugging Face directory or id, or models:/NAME@ALIAS."""
    input: Location
    """File, glob, folder, fsspec URI or hf:NAME[:CONFIG]."""
    output: Location
    """Directory for the parts and `_job.json`."""
    task: Location | None = None
    """Only for a model that is no bundle: how rows become inputs."""
    source_language: str | None = None
    """For translate with a model that is no bundle."""
    target_language: str | None = None
    """For translate with a model that is no bundle."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column the task looks for -> column of the input."""
    format: Literal["parquet", "jsonl", "csv"] = "parquet"
    """Format of the parts."""
    workers: WorkerPool | None = None
    """Scorers at a time: a number, or `fewest,most` of a pool that grows and shrinks. None: one per GPU or two CPUs, or
    per fewer where most nodes have fewer."""
    cpus_per_worker: float | None = Field(default=None, gt=0)
    """CPUs of one scorer, fractions allowed. None: the most with which as many scorers fit as there are to be; all have
    the same, so a node with few CPUs beside its GPU limits all."""
    gpus_per_worker: float = Field(default=0.0, ge=0)
    """GPUs of one scorer; a fraction shares a GPU. 0: one where the cluster has GPUs, else none."""
    batch_tokens: int = Field(default=16_384, ge=1)
    """Padded input tokens a scorer encodes at once, at most; it decodes inputs of at most four times as many."""
    engine: Literal["torch", "ctranslate2"] = "torch"
    """What runs the model. ctranslate2 is an extra (`t5ray[ctranslate2]`), which generates only."""
    engine_dtype: Literal["float32", "int8"] = "float32"
    """Weights of ctranslate2; int8 changes outputs."""
    precision: Precision = "auto"
    """auto: bf16 where the machine that runs the command is fast at it, else fp32: its GPU if scorers have GPUs, else
    its CPU. A job that goes on keeps its own."""
    scores: bool = False
    """Add the probability of each prediction as `score`."""
    all_scores: bool = False
    """Add the probability of every label as `scores`. For tasks with closed labels."""
    retry_errors: bool = False
    """Score again only the rows whose `error` is not null."""
    on_long: Literal["truncate", "error"] = "truncate"
    """What to do with inputs longer than the bundle's length. A plain model takes them whole, or, with `error`, none
    that are longer than its tokenizer's `model_max_length` or its `n_positions`, whichever is more."""
    shard_rows: int = Field(default=4096, ge=1)
    """Rows of one shard: the unit of work, of commit and of restart."""
    decode: AskedDecode | None = None
    """Decode settings other than the bundle's."""
    tracking_uri: str = TrackingConfig().uri
    """MLflow where models:/NAME@ALIAS is looked up."""
    address: str | None = None
    """Ray to join: `auto` or HOST:PORT. None: RAY_ADDRESS, else a Ray of its own."""

    _precision_is_safe = field_validator("precision", mode="before")(refuse_fp16)
    _engine_fits = model_validator(mode="after")(refuse_unfit_engine)


class EvaluateConfig(Settings):
    """Everything `evaluate` takes."""

    output: Location
    """Directory for metrics.json, predictions.jsonl and report.html."""
    model: Location | None = None
    """Bundle, Hugging Face directory or id, or models:/NAME@ALIAS. None with `predictions`."""
    data: Location | None = None
    """Rows with references. None with `predictions`."""
    predictions: Location | None = None
    """Output directory of predict, with the references in the same rows."""
    split: Literal["train", "validation", "test", "all"] | None = None
    """Which split of the data. None: test where the data have a `split` column, else all; only rows that training did
    not see."""
    task: Location | None = None
    """With a model that is no bundle, or with `predictions` beside which no `_job.json` says the task."""
    source_language: str | None = None
    """For translate with a model that is no bundle."""
    target_language: str | None = None
    """For translate with a model that is no bundle."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column the task looks for -> column of the data."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be judged, counted and listed, instead of stopping at them."""
    workers: WorkerPool | None = None
    """Scorers at a time: a number, or `fewest,most` of a pool that grows and shrinks. None: one per GPU or two CPUs, or
    per fewer where most nodes have fewer."""
    cpus_per_worker: float | None = Field(default=None, gt=0)
    """CPUs of one scorer, fractions allowed. None: the most with which as many scorers fit as there are to be; all have
    the same, so a node with few CPUs beside its GPU limits all."""
    gpus_per_worker: float = Field(default=0.0, ge=0)
    """GPUs of one scorer; a fraction shares a GPU. 0: one where the cluster has GPUs, else none."""
    batch_tokens: int = Field(default=16_384, ge=1)
    """Padded input tokens a scorer encodes at once, at most; it decodes inputs of at most four times as many."""
    engine: Literal["torch", "ctranslate2"] = "torch"
    """What runs the model. ctranslate2 is an extra (`t5ray[ctranslate2]`), which generates only."""
    engine_dtype: Literal["float32", "int8"] = "float32"
    """Weights of ctranslate2; int8 changes outputs."""
    precision: Precision = "auto"
    """auto: bf16 where the machine that runs the command is fast at it, else fp32: its GPU if scorers have GPUs, else
    its CPU. A job that goes on keeps its own."""
    decode: AskedDecode | None = None
    """Decode settings other than the bundle's."""
    bootstrap_samples: int = Field(default=1000, ge=0)
    """Resamples behind each 95 % interval; 0 leaves the intervals out."""
    seed: int = Field(default=0, ge=0)
    """Seeds the bootstrap."""
    tracking: TrackingConfig = TrackingConfig()
    address: str | None = None
    """Ray to join: `auto` or HOST:PORT. None: RAY_ADDRESS, else a Ray of its own."""

    _precision_is_safe = field_validator("precision", mode="before")(refuse_fp16)
    _engine_fits = model_validator(mode="after")(refuse_unfit_engine)

    @model_validator(mode="after")
    def _has_one_source(self) -> "EvaluateConfig":
        if self.predictions is not None:
            clash = [name for name in ("model", "data", "split") if getattr(self, name) is not None]
            if clash:
                raise ValueError(f"{clash[0]}: must not be given with --predictions, which are judged as they are")
        elif self.model is None or self.data is None:
            missing = "model" if self.model is None else "data"
            raise PydanticCustomError(
                MISSING_ONE_OF,
                f"{missing}: must be given (--{missing}), or else --predictions with the output of predict",
            )
        return self
