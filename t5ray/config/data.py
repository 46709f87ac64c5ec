"""Settings of the data: where rows come from and how they are cut."""

from pydantic import Field

from t5ray.config.base import Settings
from t5ray.config.fields import Location


class DataConfig(Settings):
    """Where rows come from and how they are cut into splits and tokens."""

    path: Location | None = None
    """File, glob, folder, fsspec URI or `hf:NAME[:CONFIG]`. None: the embedded demo."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column the task looks for, or `split` -> column of the data."""
    split_seed: int = 0
    """Seed of the 80/10/10 split by hash of the input text, where the data have no `split` column. Where
    that names no validation or no test rows, a tenth of the train rows is taken for them in the same way."""
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
