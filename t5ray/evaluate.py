"""Predictions, metrics with intervals and a report on labelled data: `python -m t5ray.evaluate`."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from t5ray import cli, heap, options, terminal
from t5ray.counting import counted

if TYPE_CHECKING:
    from t5ray.config import EvaluateConfig
    from t5ray.scoring.evaluation import Evaluation
    from t5ray.scoring.labelled import Labelled, Scored
    from t5ray.scoring.opening import ScoringModel
    from t5ray.tracking import Tracker

SETTING_OF = {"tracking_uri": "tracking.uri", "experiment": "tracking.experiment"}


def command(
    ctx: typer.Context,
    config: options.ConfigFile = None,
    model: options.ScoringModel = None,
    data: options.Data = None,
    split: options.Split = None,
    predictions: options.Predictions = None,
    output: options.Output = None,
    task: options.Task = None,
    columns: options.Columns = None,
    skip_bad_rows: options.SkipBadRows = None,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
    workers: options.Workers = None,
    cpus_per_worker: options.CpusPerWorker = None,
    gpus_per_worker: options.GpusPerWorker = None,
    batch_tokens: options.BatchTokens = None,
    engine: options.Engine = None,
    precision: options.Precision = None,
    tracking_uri: options.TrackingUri = None,
    experiment: options.Experiment = None,
    seed: options.BootstrapSeed = None,
    address: options.Address = None,
    sets: options.Sets = None,
) -> int:
    """Judge a model on labelled rows, or predictions that are there already.

    Writes metrics.json, predictions.jsonl, report.html, config.yaml, confusion_matrix.csv (labels), an MLflow run.
    """
    terminal.quiet_libraries()
    from t5ray.config import EvaluateConfig
    from t5ray.text.objectives import task_problems

    setting_of = {name: name for name in EvaluateConfig.model_fields} | SETTING_OF
    return _evaluate(cli.load(ctx, EvaluateConfig, setting_of, checks=[task_problems]))


def _evaluate(settings: "EvaluateConfig") -> int:
    """Read, score, judge, log."""
    from t5ray.scoring.evaluation import check_output, conclude, drop_work, notes_on_output, open_evaluated_model
    from t5ray.scoring.labelled import read_labelled, read_predictions
    from t5ray.scoring.ledger import working_alone
    from t5ray.storage import local_path
    from t5ray.tracking import open_tracker, require_usable

    require_usable(settings.tracking)
    check_output(settings)
    model = None if settings.predictions else open_evaluated_model(settings)
    rows, scored = read_predictions(settings) if model is None else (read_labelled(settings, model), None)
    terminal.tell([*rows.notes, *notes_on_output(settings, rows)])
    tracker = open_tracker(settings.tracking)
    try:
        with working_alone(local_path(settings.output)):
            if model is not None:
                scored = _score(settings, model, rows)
            assert scored is not None
            evaluation = conclude(settings, rows, scored)
            drop_work(settings)
            _log(tracker, rows, evaluation)
    except KeyboardInterrupt:
        terminal.say(f"\nInterrupted: what was scored is kept. Go on with: {cli.again('evaluate')}")
        return cli.INTERRUPTED
    finally:
        terminal.tell(tracker.close())
    _close(settings, evaluation)
    if tracker.was_interrupted:
        return cli.INTERRUPTED
    return cli.ROW_ERRORS if evaluation.num_errors else 0


def _score(settings: "EvaluateConfig", model: "ScoringModel", rows: "Labelled") -> "Scored":
    from t5ray.cluster import connect
    from t5ray.scoring.evaluation import plan_scoring, read_scored
    from t5ray.scoring.plan import Job

    job = plan_scoring(settings, model, rows)
    if isinstance(job, Job):
        from t5ray.scoring.job import run

        with (
            connect(
                settings.address,
                on_loss=lambda exc: terminal.end_with(exc, cli.again("evaluate")),
                environment=heap.sharing_environment(),
            ) as cluster,
            terminal.progress("scoring", job.spec.input.num_rows) as advance,
        ):
            run(job, cluster, advance)
    return read_scored(settings, model, rows)


def _log(tracker: "Tracker", rows: "Labelled", evaluation: "Evaluation") -> None:
    """Make the MLflow run."""
    run = tracker.start_run(
        f"evaluate-{rows.task.name}",
        params={**rows.about, "task": rows.task.name, "rows": evaluation.num_rows},
        tags={"t5ray.command": "evaluate"},
    )
    for path in evaluation.files:
        tracker.log_files(run, path)
    tracker.end_run(run, "FINISHED", metrics=evaluation.judgement.metrics)


def _close(settings: "EvaluateConfig", evaluation: "Evaluation") -> None:
    from t5ray.tracking import ui_command

    name, value = next(iter(evaluation.judgement.metrics.items()))
    interval = evaluation.judgement.intervals.get(name)
    sure = f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
    failed = f", {evaluation.num_errors} of them with an error" if evaluation.num_errors else ""
    commands = {"read the report": shlex.quote(f"{settings.output}/report.html")}
    if ui := ui_command(settings.tracking.uri):
        commands["compare runs"] = ui
    terminal.close(
        f"{name} {value:.4f}{sure} on {counted(evaluation.num_rows, 'row')}{failed}: {settings.output}", commands
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return cli.run(command, "python -m t5ray.evaluate", argv)


if __name__ == "__main__":
    from t5ray.evaluate import main as entry

    raise SystemExit(entry())
