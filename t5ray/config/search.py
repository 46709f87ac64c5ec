"""Settings of a search as a whole. What it varies is a file of its own: `space`."""

from pydantic import Field

from t5ray.config.base import Settings
from t5ray.config.fields import Location, Seconds


class SearchConfig(Settings):
    """How many trials over which space, and what decides."""

    space: Location = "t5_small"
    """Search-space file, or the name of a shipped one (demo, t5_small, t5_base, t5_large, adafactor)."""
    num_trials: int = Field(default=10, ge=1)
    """Trials in all, the default settings included."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Trials at a time. None: as many as the resources allow."""
    time_budget_s: Seconds | None = Field(default=None, gt=0)
    """No trial is started or continued after this long: seconds, or text such as 90s, 30m, 2h. An interruption does not
    renew it; once it is used up, --resume and --extend begin a new one. None: no limit."""
    metric: str | None = None
    """The objective: a metric of the task, or `validation_loss`. None: the task's first metric."""
    confirm_seeds: int = Field(default=3, ge=0, le=20)
    """Fresh seeds on which the best three trials and the default are trained again before one is called the winner.
    One says nothing of how much seeds differ. 0: no confirmation."""
    warm_start: str | None = None
    """Name of an earlier search in the same storage: its best points run right after the default, and where the spaces
    agree the sampler learns from its trials."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds the sampler, and the order of a grid."""
