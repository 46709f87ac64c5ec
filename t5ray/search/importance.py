"""How much each parameter decided, by Optuna's evaluators.

fANOVA      share of the variance over the whole space; only where every trial has every parameter
            Hutter et al. 2014, An Efficient Approach for Assessing Hyperparameter Importance
PED-ANOVA   what tells the best trials from the rest; knows conditional parameters
            Watanabe et al. 2023, PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces
"""

import warnings

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

from t5ray.config import SearchSpace
from t5ray.search.ledger import Ledger
from t5ray.search.space import point, suggest

FEWEST_TRIALS = 10
"""Fewer say nothing about several parameters."""


def importances(space: SearchSpace, ledger: Ledger) -> dict[str, dict[str, float]] | None:
    """Return evaluator -> parameter -> share of 1; None where there are too few trials inside the space.

    Every trial with a value counts, by its best one: those stopped early too, which were judged on fewer epochs. A
    range under a condition is named with it: `learning_rate where optimizer is adamw`.
    """
    study = _study(space, ledger)
    trials = study.trials
    names = {name for trial in trials for name in trial.params}
    if len(trials) < FEWEST_TRIALS or len(names) < 2 or len({trial.value for trial in trials}) < 2:
        return None
    evaluators: dict[str, optuna.importance.BaseImportanceEvaluator] = {}
    if all(set(trial.params) == names for trial in trials):
        evaluators["fANOVA"] = FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parameters that never differ are told about there
        evaluators["PED-ANOVA"] = PedAnovaImportanceEvaluator()
        found = {kind: get_param_importances(study, evaluator=each) for kind, each in evaluators.items()}
    return {kind: {_label(space, name): float(v) for name, v in shares.items()} for kind, shares in found.items()}


def _study(space: SearchSpace, ledger: Ledger) -> optuna.Study:
    """Return the ended trials as a study of complete ones; those outside the space cannot be placed in it."""
    study = optuna.create_study(direction="maximize" if ledger.mode == "max" else "minimize")
    for record in ledger.ended:
        placed = point(space, record.params)
        if record.best_value is None or record.state == "FAIL" or placed is None:
            continue
        fixed = optuna.trial.FixedTrial(placed[1])
        suggest(fixed, space)
        study.add_trial(
            optuna.trial.create_trial(params=fixed.params, distributions=fixed.distributions, value=record.best_value)
        )
    return study


def _label(space: SearchSpace, name: str) -> str:
    """Return Optuna's name of a range as a reader knows it."""
    parameter, _, number = name.partition(":")
    if not number:
        return parameter
    when = space.parameters[parameter][int(number)].when
    wanted = (value if isinstance(value, tuple) else (value,) for value in when.values())
    terms = (f"{other} is {' or '.join(map(str, values))}" for other, values in zip(when, wanted, strict=True))
    return f"{parameter} where {' and '.join(terms)}"
