"""How a search proposes trials and which ones it stops: the `sampler:` and `scheduler:` of a search-space file."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from t5ray.config.base import Settings


class _Named(Settings):
    """Settings of one of several kinds, each of which knows only some of the options."""

    @model_validator(mode="after")
    def _knows_its_options(self) -> "_Named":
        name, known = str(getattr(self, "name", "")), self._options()
        changed = {field for field, info in type(self).model_fields.items() if getattr(self, field) != info.default}
        strange = sorted(changed - {"name"} - known.get(name, set()))
        if strange:
            owners = {option: [kind for kind, options in known.items() if option in options] for option in strange}
            raise ValueError(
                "; ".join(
                    f"`{option}` must be an option of {name}, but is one of {', '.join(kinds)}. Leave it out"
                    for option, kinds in owners.items()
                )
            )
        return self

    @classmethod
    def _options(cls) -> Mapping[str, set[str]]:
        return {}


class SamplerConfig(_Named):
    """Which Optuna sampler proposes trials."""

    name: Literal["tpe", "gp", "cmaes", "random", "grid"] = "tpe"
    """tpe: tree-structured Parzen estimator; gp: Gaussian process; cmaes: CMA-ES, for ranges of numbers only; random;
    grid: every combination once, in an order drawn by the seed."""
    startup_trials: int = Field(default=4, ge=1)
    """tpe, gp, cmaes: trials drawn at random before the sampler learns from results."""
    multivariate: bool = True
    """tpe: model parameters jointly; where the space has conditions, each group of parameters that occur together."""
    constant_liar: bool = True
    """tpe: take running trials for bad ones, so that parallel trials do not propose the same point."""
    sigma: float | None = Field(default=None, gt=0, le=1)
    """cmaes: first step size, as a share of each range. None: a sixth."""

    @classmethod
    def _options(cls) -> Mapping[str, set[str]]:
        return {
            "tpe": {"startup_trials", "multivariate", "constant_liar"},
            "gp": {"startup_trials"},
            "cmaes": {"startup_trials", "sigma"},
            "random": set(),
            "grid": set(),
        }


class SchedulerConfig(_Named):
    """Which trials are stopped early."""

    name: Literal["asha", "median", "none"] = "asha"
    """asha: asynchronous successive halving, with several brackets asynchronous Hyperband; median: a trial whose best
    value is below the median of the other trials' running averages; none."""
    grace_epochs: int = Field(default=1, ge=1)
    """asha, median: epochs that every trial gets."""
    reduction_factor: float = Field(default=3, gt=1)
    """asha: at each rung the best 1 in this many goes on."""
    brackets: int = Field(default=1, ge=1, le=10)
    """asha: brackets, the next of which starts judging one rung later; trials are spread over them."""
    min_trials: int = Field(default=3, ge=1)
    """median: trials that must have reached an epoch before it is judged."""

    @classmethod
    def _options(cls) -> Mapping[str, set[str]]:
        return {
            "asha": {"grace_epochs", "reduction_factor", "brackets"},
            "median": {"grace_epochs", "min_trials"},
            "none": set(),
        }
