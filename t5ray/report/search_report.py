"""What the report of a search shows, from the mapping that search.json holds (DESIGN §4 has its keys)."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t5ray.counting import counted
from t5ray.report.charts import finite
from t5ray.report.confirmation import Confirmation, view_confirmation
from t5ray.report.page import render
from t5ray.report.parallel import parallel_coordinates
from t5ray.report.search_charts import learning_curves, slices
from t5ray.report.stopping import view_stopping
from t5ray.report.trial_view import CUT_OFF, ENDS, FAILED, TrialView, view_trial
from t5ray.report.words import judged, one_for_all, setting


def render_search(search: Mapping[str, Any]) -> str:
    """Return report.html for the content of search.json.

    Args:
        search: `name`, `task`, `model`, `data`, `max_epochs` and `test` may be missing; `best` may be None.
    """
    best, default_value = search.get("best"), finite((search.get("default") or {}).get("value"))
    winner = None if best is None else best["trial"]
    longest = max((len(trial.get("values") or []) for trial in search["trials"]), default=0)
    max_epochs = search.get("max_epochs") or max(1, longest)
    trials = [view_trial(trial, winner, max_epochs) for trial in search["trials"]]
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    by_role = {trial.role: trial for trial in trials}
    default = by_role.get("default")
    confirmation = view_confirmation(search.get("confirm"), search["mode"])
    importances = view_importances(search.get("importances"))
    by_weight = [*dict.fromkeys(row.parameter for row in importances), *names] if importances else names
    by_weight = list(dict.fromkeys(name for name in by_weight if name in names))
    return render(
        "search.html",
        title=search.get("name") or "Hyperparameter search",
        search=search,
        facts={name: search[name] for name in ("task", "model", "data") if search.get(name)},
        best=best,
        leading=search.get("leading"),
        is_open=_is_open(search),
        winner=by_role.get("winner"),
        default=default,
        default_value=default_value,
        gain=_gain(best, None if default and default.end == FAILED else default_value, search["mode"], confirmation),
        confirms=_confirms(search),
        confirmation=confirmation,
        warning=_warning(search.get("confirm") or {}),
        importances=importances,
        judged=judged(search["metric"]),
        runs_url=search.get("runs_url") or "",
        ui_command=_ui_command(search),
        test=_objective_first(search.get("test") or {}, search["metric"]),
        trials=trials,
        ends=[(sum(trial.end == end for trial in trials), end) for end in ENDS],
        num_cut_off=sum(trial.end == CUT_OFF for trial in trials),
        parameters=names,
        curves=learning_curves(trials),
        longest=longest,
        slices=slices(trials, by_weight),
        parallel=parallel_coordinates(trials, by_weight, search["metric"], search["mode"]),
        constant=_constant(trials, names),
        stopping=view_stopping(trials, max_epochs, search.get("rungs") or ()),
        times=_times(search, trials),
    )


def _warning(confirm: Mapping[str, Any]) -> str:
    """Say of a bundle that gave all rows one label that it did; nothing of any other."""
    same = confirm.get("only_prediction")
    return "" if same is None else one_for_all(same, counted(confirm["rows"], "validation row"))


def _is_open(search: Mapping[str, Any]) -> bool:
    """Say whether a search that has a best trial was cut off before its end, which judges the bundle on test."""
    return bool(search.get("best")) and "test" in search and not search["test"]


def _confirms(search: Mapping[str, Any]) -> bool:
    """Say whether runs on fresh seeds were asked for."""
    asked = ((search.get("config") or {}).get("search") or {}).get("confirm_seeds")
    return bool(asked or search.get("confirm") or search.get("unconfirmed"))


def _gain(
    best: Mapping[str, Any] | None, default: float | None, mode: str, confirmation: Confirmation | None
) -> float | None:
    """Return how much better the winner is than the default settings; negative where it is worse.

    Where both were trained again, the means over fresh seeds are compared: the best of many trials flatters.
    """
    if best is None or default is None:
        return None
    difference = float(best["value"]) - default
    if confirmation is not None and confirmation.default is not None:
        difference = confirmation.winner.mean - confirmation.default.mean
    return difference if mode == "max" else -difference


def _objective_first(test: Mapping[str, float], metric: str) -> dict[str, float]:
    """Return the values on test, that of the objective first: the one to quote. The loss has no `validation_` there."""
    objective = "loss" if metric == "validation_loss" else metric
    return dict(sorted(test.items(), key=lambda item: item[0] != objective))


@dataclass(frozen=True, slots=True)
class Importance:
    """How much one parameter decided, by each of Optuna's evaluators."""

    label: str
    """The parameter, and the condition under which it has this range."""
    parameter: str
    shares: dict[str, float]
    """Evaluator -> share, 0 to 1; all parameters together have 1."""

    def percent(self, evaluator: str) -> float:
        """Return the length of a bar, in percent."""
        return round(100 * self.shares.get(evaluator, 0.0), 1)


def view_importances(found: Mapping[str, Mapping[str, float]] | None) -> list[Importance]:
    """Read search.json's `importances`: evaluator -> parameter -> share. The most important one comes first."""
    if not found:
        return []
    labels = list(dict.fromkeys(label for shares in found.values() for label in shares))
    rows = [
        Importance(label, label.partition(" where ")[0], {name: s[label] for name, s in found.items() if label in s})
        for label in labels
    ]
    return sorted(rows, key=lambda row: -sum(row.shares.values()) / len(row.shares))


def _ui_command(search: Mapping[str, Any]) -> str:
    """Return the command that must run for links to a database's runs to lead anywhere; nothing for a server."""
    uri = str(((search.get("config") or {}).get("tracking") or {}).get("uri") or "")
    is_server = uri.startswith(("http://", "https://", "databricks")) or uri in ("", "none")
    return "" if is_server else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


def _constant(trials: Sequence[TrialView], names: Sequence[str]) -> dict[str, str]:
    """Return the parameters that had one value in all trials."""
    values = {name: {setting(trial.params[name]) for trial in trials if name in trial.params} for name in names}
    return {name: found.pop() for name, found in values.items() if len(found) == 1}


@dataclass(frozen=True, slots=True)
class Times:
    """Where the seconds went."""

    wall_s: float | None
    train_s: float
    """Training and validation, summed over trials and the runs that confirm the best: more than the wall time where
    they ran side by side."""
    overhead_s: float
    """Of the same, in all."""
    overhead_per_trial_s: float

    @property
    def train_share(self) -> float:
        """Share of their time that trained and validated."""
        return self.train_s / max(1e-9, self.train_s + self.overhead_s)


def _times(search: Mapping[str, Any], trials: Sequence[TrialView]) -> Times:
    of_trials_s = sum(trial.overhead_s or 0.0 for trial in trials)
    return Times(
        wall_s=search.get("wall_s"),
        train_s=search.get("train_s", sum(trial.train_s or 0.0 for trial in trials)),
        overhead_s=search.get("overhead_s", of_trials_s),
        overhead_per_trial_s=of_trials_s / max(1, len(trials)),
    )
