"""The end of a search: the winner's bundle, one look at test, search.json and report.html."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5ray.config import RunConfig
from t5ray.errors import ClusterError, ModelError, T5RayError
from t5ray.model.loading import LoadedModel
from t5ray.report.words import judged
from t5ray.search.confirm import compare, means, standing
from t5ray.search.ledger import HEARD_MS, Ledger, TrialRecord
from t5ray.search.result import summary, write_summary
from t5ray.search.workspace import Workspace
from t5ray.text.bootstrap import Floats, Statistic
from t5ray.text.metrics import only_prediction
from t5ray.text.statistics import build_statistics
from t5ray.text.tasks import read_prediction
from t5ray.tracking import Tracker
from t5ray.training.curves import log_epoch
from t5ray.training.outcome import judge_on_test, publish_best
from t5ray.training.prepare import Prepared
from t5ray.training.validation import fixed_sample

MENDS = {
    "must be finite": "Lower the learning rates of the search space.",
    "memory": "Set training.gradient_checkpointing=true, lower data.max_input_tokens, or take a smaller model.",
    "process died": "Run python -m t5ray.doctor, and look at the memory of the nodes.",
}
"""Words in the cause of a failed trial -> what helps."""


def interrupt(prepared: Prepared, ledger: Ledger, workspace: Workspace, tracker: Tracker) -> list[str]:
    """Keep what there is when a search is cut off: the ledger and a search.json of what has ended.

    Returns:
        What to say of a bundle that lies there already: that another run leads.
    """
    cut = (*ledger.interrupted, *(run for run in ledger.confirm_runs if run.state == "RUNNING"))
    for run_id in (*(record.mlflow_run_id for record in cut), ledger.study_run_id):
        if run_id is not None:
            tracker.end_run(run_id, "KILLED")
    ledger.save()
    content = summary(prepared, ledger, None, concluded=workspace.concluded())
    write_summary(workspace.folder, content)
    workspace.upload()
    if content["leading"] is None:
        return []
    value = f"{judged(prepared.objective)} {content['leading']['value']:.4f} after epoch {content['leading']['epoch']}"
    return [
        f"The bundle is still of trial {content['best']['trial']}{_on_seed(content['best'])}. "
        f"Trial {content['leading']['trial']} leads now: {value}{_on_seed(content['leading'])}."
    ]


def _on_seed(run: Mapping[str, Any]) -> str:
    return f" on seed {run['seed']}" if "seed" in run else ""


def conclude(prepared: Prepared, ledger: Ledger, workspace: Workspace, tracker: Tracker) -> dict[str, Any]:
    """Publish the winner, judge it on test, and write search.json and report.html.

    They are written once the bundle is there, too, so that they are of the one that lies there whatever ends this. The
    bundle names its run itself, for where the disk takes it, but no more.

    Raises:
        T5RayError: every trial failed; says why.
    """
    while _caught_up(prepared, ledger, workspace, tracker):
        pass  # another may be the best now
    now = standing(ledger)
    workspace.leave_trials(now.kept)
    source = now.source
    ledger.confirm = None if source is None else compare_candidates(prepared, ledger, workspace)
    content = summary(prepared, ledger, None)
    if source is not None:
        try:
            loaded = _published(prepared, source, workspace, content["best"])
        except (ModelError, ClusterError):  # of weights that go for better ones at this very moment
            if not _caught_up(prepared, ledger, workspace, tracker):
                raise
            return conclude(prepared, ledger, workspace, tracker)
        write_summary(workspace.folder, content)
        content["test"] = judge_on_test(prepared, loaded)
    write_summary(workspace.folder, content)
    if ledger.study_run_id is not None:
        _close_study(prepared.config, ledger, source, workspace, tracker, content)
    ledger.finished = True  # only now: a search that was killed before this concludes again, and registers its model
    ledger.save()
    workspace.upload()
    if source is None:
        raise T5RayError(why_all_failed(ledger))
    return content


def _published(prepared: Prepared, source: TrialRecord, workspace: Workspace, best: Mapping[str, Any]) -> LoadedModel:
    """Make the bundle of the best epoch of a trial, or of a run that confirms one."""
    report = source.reports[(source.best_epoch or 1) - 1]
    workspace.fetch_trial(source.key, report["best_step"])
    params = {**source.params, **({} if source.seed is None else {"seed": source.seed})}
    return publish_best(prepared, params, report, workspace.trials / source.key, workspace.best, best)


def _caught_up(prepared: Prepared, ledger: Ledger, workspace: Workspace, tracker: Tracker) -> bool:
    """Let the books tell of the weights that are there of what they say is best, and say whether they did not."""
    source = standing(ledger).source
    report = None if source is None else workspace.catch_up(source)
    if source is None or report is None:
        return False
    report[HEARD_MS] = time.time_ns() // 1_000_000
    if source.mlflow_run_id is not None:
        log_epoch(tracker, source.mlflow_run_id, report, prepared.objective, time_ms=report[HEARD_MS])
    return True


@dataclass(frozen=True, eq=False)
class LossStatistic:
    """Cross-entropy per target token."""

    losses: Floats
    """Summed over each row's tokens [N]."""
    tokens: Floats
    """[N]."""

    def estimate(self, weights: Floats) -> Mapping[Any, Floats]:
        """Return metric -> values [B]; weights are [B, N]."""
        return {"validation_loss": (weights @ self.losses) / (weights @ self.tokens)}


def compare_candidates(prepared: Prepared, ledger: Ledger, workspace: Workspace) -> dict[str, Any] | None:
    """Compare the candidates on the rows of the validation sample; None where there was nothing to compare."""
    rows = fixed_sample(len(prepared.data.validation), prepared.config.training.validation_rows)
    references = [prepared.data.validation_references[int(row)] for row in rows]
    statistics = {
        (trial, seed): _statistics(prepared, _rows(workspace, ledger, trial, seed), references)
        for trial in means(ledger)
        for seed in ledger.confirm_seeds
    }
    found = compare(ledger, statistics, prepared.objective, len(rows))
    if found is None or prepared.objective == "validation_loss":  # of which no predictions are kept
        return found
    texts = _predictions(prepared, _rows(workspace, ledger, found["winner"], ledger.confirm_seeds[-1]))
    return {**found, "only_prediction": only_prediction(prepared.task, texts, references)}


def _rows(workspace: Workspace, ledger: Ledger, trial: int, seed: int) -> dict[str, list[Any]]:
    """Return what the best epoch of a run that confirms did on each row."""
    rows: dict[str, list[Any]] = json.loads(workspace.rows_of(ledger.confirm_run(trial, seed).key).read_text())
    return rows


def _predictions(prepared: Prepared, rows: Mapping[str, list[Any]]) -> list[str | None]:
    return [read_prediction(prepared.task, prediction) for prediction in rows["predictions"]]


def _statistics(
    prepared: Prepared, rows: Mapping[str, list[Any]], references: Sequence[Sequence[str]]
) -> Sequence[Statistic]:
    if prepared.objective == "validation_loss":
        return [LossStatistic(np.array(rows["losses"]), np.array(rows["tokens"], dtype=np.float64))]
    task = prepared.task
    return build_statistics(task.metrics, _predictions(prepared, rows), references, task.labels)


def _close_study(
    config: RunConfig,
    ledger: Ledger,
    source: TrialRecord | None,
    workspace: Workspace,
    tracker: Tracker,
    content: dict[str, Any],
) -> None:
    run_id = str(ledger.study_run_id)
    for name in ("report.html", "search.json"):
        tracker.log_files(run_id, workspace.folder / name)
    if source is None:
        tracker.end_run(run_id, "FAILED")
        return
    if source.mlflow_run_id is not None:
        columns = config.data.columns
        tracker.log_model(source.mlflow_run_id, workspace.best, columns=columns, register=config.register_as)
    metrics = {f"test_{name}": value for name, value in (content["test"] or {}).items()}
    metrics[f"best_{content['metric']}"] = float(source.best_value or 0.0)
    tags = {"t5ray.best_trial": str(source.trial)}
    if (confirm := content["confirm"]) is not None:
        metrics |= _confirmed(confirm)
        tags["t5ray.tie"] = ", ".join(map(str, sorted(confirm["tie_with"]))) or "none"
    tracker.end_run(run_id, "FINISHED", metrics=metrics, tags=tags)


def _confirmed(confirm: Mapping[str, Any]) -> dict[str, float]:
    """Return what training again has shown, by names that are columns of MLflow's list of runs."""
    by_trial = {found["trial"]: found for found in confirm["candidates"]}
    roles = {"winner_mean": by_trial[confirm["winner"]], "default_mean": by_trial.get(0)}
    spans = {name: (found["mean"], *found["interval"]) for name, found in roles.items() if found}
    if confirm["gain"] is not None:
        spans["gain"] = (confirm["gain"], *confirm["gain_interval"])
    return {
        f"{name}{end}": float(value)
        for name, span in spans.items()
        for end, value in zip(("", "_low", "_high"), span, strict=True)
    }


def why_all_failed(ledger: Ledger) -> str:
    """Return one paragraph on a search without a single good epoch."""
    if not ledger.ended:
        return (
            "At least one trial must finish an epoch, but the time budget was used up before. Go on with "
            "--resume; give a longer --time-budget, fewer rows (data.max_train_rows), or a smaller model."
        )
    reasons: dict[str, list[int]] = {}
    for record in ledger.ended:
        reasons.setdefault(record.reason or "no reason known", []).append(record.trial)
    causes = "; ".join(f"{reason} (trial {', '.join(map(str, trials))})" for reason, trials in reasons.items())
    return (
        f"At least one trial must reach its end, but all {len(ledger.ended)} failed: {causes}. "
        f"{' '.join(_mends(causes))}"
    )


def _mends(causes: str) -> list[str]:
    """Return what to do about each kind of cause that is there."""
    return [mend for sign, mend in MENDS.items() if sign in causes] or ["Run python -m t5ray.doctor."]
