"""search.json and report.html, and what a search found in one sentence."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t5ray.config import load_space
from t5ray.counting import counted
from t5ray.model.card import write_json
from t5ray.report import render_search
from t5ray.report.words import few_seeds, judged, one_for_all
from t5ray.search.confirm import standing, why_unconfirmed
from t5ray.search.importance import importances
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.scheduler import rung_epochs
from t5ray.training.outcome import public, versions
from t5ray.training.prepare import Prepared

UNFINISHED = {"PRUNED": "were stopped early", "FAIL": "failed", "RUNNING": "were cut off"}
"""What became of default settings that did not reach the end."""
OF_THE_BUNDLE = ("best", "confirm", "test")
"""Keys of search.json that say what the bundle is."""


def summary(
    prepared: Prepared,
    ledger: Ledger,
    test: dict[str, float] | None,
    *,
    concluded: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of search.json. `train_s` and `overhead_s` count the runs that confirm, as `wall_s` does.

    Args:
        concluded: search.json of the bundle that lies there; it stays what it was until the search comes to its end.
    """
    config, best, default = public(prepared.config), _best(standing(ledger).source), ledger.trials.get(0)
    space, runs = load_space(config.search.space), [*ledger.trials.values(), *ledger.confirm_runs]
    importance = importances(space, ledger)
    kept = {key: concluded[key] for key in OF_THE_BUNDLE} if concluded is not None else {"best": best}
    return {
        "name": config.name,
        "task": prepared.task.name,
        "model": config.model,
        "data": config.data.path,
        "metric": prepared.objective,
        "mode": prepared.mode,
        "seed": config.search.seed,
        "max_epochs": config.training.max_epochs,
        "wall_s": round(ledger.wall_s, 3),
        "train_s": round(sum(record.busy_s for record in runs), 3),
        "overhead_s": round(sum(record.overhead_s for record in runs), 3),
        "best": best,
        "leading": None if best == kept["best"] else best,
        "default": {"value": default.best_value, "state": default.state} if default else {"value": None, "state": None},
        "confirm": ledger.confirm,
        "unconfirmed": why_unconfirmed(ledger),
        "test": test,
        "rungs": rung_epochs(space.scheduler, config.training.max_epochs),
        "importances": importance.shares,
        "importances_unknown": importance.unknown,
        "runs_url": ledger.runs_url,
        "trials": [ledger.trials[number].public() for number in sorted(ledger.trials)],
        "config": config.model_dump(mode="json"),
        "versions": versions(),
        **kept,
    }


def _best(run: TrialRecord | None) -> dict[str, Any] | None:
    """Return where the bundle's weights are from; with their seed where they are of a run that confirmed the winner."""
    if run is None:
        return None
    found = {"trial": run.trial, "value": run.best_value, "epoch": run.best_epoch}
    return found if run.seed is None else {**found, "seed": run.seed}


def write_summary(folder: Path, content: dict[str, Any]) -> None:
    """Write search.json and report.html."""
    write_json(folder / "search.json", content)
    (folder / "report.html").write_text(render_search(content), encoding="utf-8")


def outcome(content: Mapping[str, Any]) -> str:
    """Say in one sentence what a search found."""
    best, default, metric, confirm = content["best"], content["default"]["value"], content["metric"], content["confirm"]
    on_test = (content["test"] or {}).get("loss" if metric == "validation_loss" else metric)
    test = "" if on_test is None else f"; on test {on_test:.4f}"
    if confirm is None:
        ended = UNFINISHED.get(content["default"].get("state", ""))
        short = f", which {ended}" if ended else ""
        against = "" if default is None else f" against {default:.4f} with the default settings{short}"
        place = f"trial {best['trial']}, epoch {best['epoch']}"
        unsure = f" Nothing was confirmed: {content['unconfirmed']}." if content["unconfirmed"] else ""
        return f"Best: {place}, {judged(metric)} {best['value']:.4f}{against}{test}.{unsure}"
    by_trial = {found["trial"]: found for found in confirm["candidates"]}
    winner, other = by_trial[confirm["winner"]], by_trial.get(0)
    against = "" if other is None or winner is other else f" against {_mean(other)} with the default settings"
    tie = f"; a tie with {_trials(confirm['tie_with'])}" if confirm["tie_with"] else ""
    seeds = counted(len(confirm["seeds"]), "fresh seed")
    mean = f"{judged(metric)} {_mean(winner)} over {seeds}"
    unsure = f" {few_seeds(len(confirm['seeds']))}".rstrip()
    failed = [
        f"trial {run['trial']} failed on seed {run['seed']}: {run['reason']}" for run in confirm.get("failed", ())
    ]
    out = f" Out of the comparison: {'; '.join(failed)}." if failed else ""
    same = confirm.get("only_prediction")
    told = "" if same is None else f" {one_for_all(same, counted(confirm['rows'], 'validation row'))}"
    return f"Winner: trial {confirm['winner']}, {mean}{against}{tie}{test}.{told}{unsure}{out}"


def _trials(numbers: Sequence[int]) -> str:
    *others, last = map(str, sorted(numbers))
    return f"trials {', '.join(others)} and {last}" if others else f"trial {last}"


def _mean(candidate: Mapping[str, Any]) -> str:
    low, high = candidate["interval"]
    return f"{candidate['mean']:.4f} ({low:.4f} to {high:.4f})"
