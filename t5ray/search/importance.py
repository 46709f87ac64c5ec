"""How much each parameter decided, by Optuna's evaluators.

fANOVA      share of the variance over the whole space; only where every trial has every parameter
            Hutter et al. 2014, An Efficient Approach for Assessing Hyperparameter Importance
PED-ANOVA   what tells the best trials from the rest; knows conditional parameters
            Watanabe et al. 2023, PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.importance import BaseImportanceEvaluator, FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

from t5ray.config import SearchSpace
from t5ray.errors import one_line
from t5ray.report.words import setting
from t5ray.search.ledger import Ledger
from t5ray.search.space import point, suggest

FEWEST_TRIALS = 10
"""Fewer say nothing about several parameters."""
LEAST_DIFFERENCE = 1e-6
"""Values and places that lie nearer are one: scikit-learn's trees do not part them, and shares of rounding are left."""

Shares = dict[str, dict[str, float]]
"""Evaluator -> parameter -> share of 1."""


@dataclass(frozen=True, slots=True)
class Importances:
    """What the evaluators said."""

    shares: Shares | None
    """Of those that could tell; None where none could."""
    unknown: str = ""
    """Why there are none, or which evaluator could not tell."""


def importances(space: SearchSpace, ledger: Ledger) -> Importances:
    """Ask the evaluators how much each parameter decided, of those that differ between trials.

    Every trial with a value counts, by its best one: those stopped early too, which were judged on fewer epochs. A
    range under a condition is named with it: `learning_rate where optimizer is adamw`.
    """
    study = _study(space, ledger)
    trials, differ = study.trials, _differing(study)
    values = [float(trial.value) for trial in trials if trial.value is not None]
    if len(trials) < FEWEST_TRIALS:
        return Importances(
            None, f"it takes {FEWEST_TRIALS} trials inside the search space, and there are {len(trials)}"
        )
    if len(differ) < 2:
        return Importances(None, "fewer than two parameters differ between the trials")
    if max(values) - min(values) < LEAST_DIFFERENCE:
        return Importances(None, "all trials came out the same")
    evaluators: dict[str, BaseImportanceEvaluator] = {"PED-ANOVA": PedAnovaImportanceEvaluator()}
    if all(set(differ) <= set(trial.params) for trial in trials):
        evaluators = {"fANOVA": FanovaImportanceEvaluator(seed=0), **evaluators}
    shares, silent = dict[str, dict[str, float]](), list[str]()
    for kind, evaluator in evaluators.items():
        try:
            found = _shares(study, evaluator, differ)
        except Exception as exc:  # noqa: BLE001 (Optuna's, numpy's or scikit-learn's; a search must not be lost for it)
            silent.append(f"{kind} cannot tell ({one_line(exc)})")
        else:
            shares[kind] = {_label(space, name): share for name, share in found.items()}
    return Importances(shares or None, "; ".join(silent))


def _shares(study: optuna.Study, evaluator: BaseImportanceEvaluator, names: list[str]) -> dict[str, float]:
    """Return parameter -> share of 1. Optuna's own shares of nothing at all are equal ones, as if that were known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few trials in a range are told about there, and that `normalize` is new
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=names, normalize=False)
    total = float(sum(found.values()))
    if not 0 < total < math.inf:  # nan is neither
        raise ValueError(f"its shares must add up to more than nothing, but add up to {total:g}")
    return {name: float(value) / total for name, value in found.items()}


def _study(space: SearchSpace, ledger: Ledger) -> optuna.Study:
    """Return the ended trials as a study of complete ones; those outside the space cannot be placed in it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # that a study was made is no news to the user
    study = optuna.create_study(direction="maximize" if ledger.mode == "max" else "minimize")
    for record in ledger.ended:
        placed = point(space, record.params)
        if record.best_value is None or record.state == "FAIL" or placed is None:
            continue
        fixed = optuna.trial.FixedTrial(placed[1])
        suggest(fixed, space)
        drawn = {name: _as_share(fixed.distributions[name], value) for name, value in fixed.params.items()}
        study.add_trial(
            optuna.trial.create_trial(
                params={name: value for name, (_, value) in drawn.items()},
                distributions={name: distribution for name, (distribution, _) in drawn.items()},
                value=record.best_value,
            )
        )
    return study


def _as_share(distribution: BaseDistribution, value: Any) -> tuple[BaseDistribution, Any]:
    """Return a float as its place in its range, 0 to 1, by logarithm where trials are drawn so; anything else as it is.

    fANOVA would take ranges as linear, so that the largest decade of a learning rate counted for nine tenths of them,
    and its trees part no numbers that lie nearer than 1e-7: an epsilon would never matter.
    """
    if not isinstance(distribution, FloatDistribution) or distribution.single():
        return distribution, value
    low, high = distribution.low, distribution.high
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return FloatDistribution(0.0, 1.0), min(1.0, max(0.0, (value - low) / (high - low)))


def _differing(study: optuna.Study) -> list[str]:
    """Return the parameters that do not have one value in all trials."""
    seen = dict[str, set[Any]]()
    for trial in study.trials:
        for name, value in trial.params.items():
            is_place = isinstance(trial.distributions[name], FloatDistribution)
            seen.setdefault(name, set()).add(round(value / LEAST_DIFFERENCE) if is_place else value)
    return sorted(name for name, values in seen.items() if len(values) > 1)


def _label(space: SearchSpace, name: str) -> str:
    """Return Optuna's name of a range as a reader knows it."""
    parameter, _, number = name.partition(":")
    if not number:
        return parameter
    when = space.parameters[parameter][int(number)].when
    wanted = (value if isinstance(value, tuple) else (value,) for value in when.values())
    terms = (f"{other} is {' or '.join(map(setting, values))}" for other, values in zip(when, wanted, strict=True))
    return f"{parameter} where {' and '.join(terms)}"
