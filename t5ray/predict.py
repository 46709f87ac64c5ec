"""Score any amount of data with a model or bundle: `python -m t5ray.predict`."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from t5ray import cli, heap, options, terminal
from t5ray.counting import counted

if TYPE_CHECKING:
    from t5ray.config import PredictConfig
    from t5ray.scoring.ledger import JobSummary
    from t5ray.scoring.plan import Job


def command(
    ctx: typer.Context,
    config: options.ConfigFile = None,
    model: options.ScoringModel = None,
    input: options.Input = None,
    output: options.Output = None,
    task: options.Task = None,
    columns: options.Columns = None,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
    format: options.Format = None,
    workers: options.Workers = None,
    cpus_per_worker: options.CpusPerWorker = None,
    gpus_per_worker: options.GpusPerWorker = None,
    batch_tokens: options.BatchTokens = None,
    engine: options.Engine = None,
    precision: options.Precision = None,
    scores: options.Scores = None,
    all_scores: options.AllScores = None,
    on_long: options.OnLong = None,
    retry_errors: options.RetryErrors = None,
    tracking_uri: options.TrackingUri = None,
    address: options.Address = None,
    sets: options.Sets = None,
) -> int:
    """Score rows: the input's columns and `prediction`, in input order, each row exactly once.

    The same command run again goes on where it was stopped, whatever stopped it.
    """
    terminal.quiet_libraries()
    from t5ray.config import PredictConfig
    from t5ray.text.objectives import task_problems

    setting_of = {name: name for name in PredictConfig.model_fields}
    return _predict(cli.load(ctx, PredictConfig, setting_of, checks=[task_problems]))


def _predict(settings: "PredictConfig") -> int:
    """Prepare, connect, score."""
    from t5ray.scoring.plan import FinishedJob, prepare

    job = prepare(settings)
    if isinstance(job, FinishedJob):
        terminal.say(f"{settings.output}: this job is done already; nothing was scored again.")
        return _close(settings, job.summary)
    terminal.tell(job.notes)
    if job.finished:
        terminal.say(f"Going on: {_of_parts(len(job.finished), job)} finished.")
    try:
        summary = _run(job)
    except KeyboardInterrupt:
        kept = len(job.spec.ledger.finished())
        terminal.say(f"\nInterrupted: {_of_parts(kept, job)} finished and kept.")
        terminal.say(f"Go on with: {cli.again('predict')}")
        return cli.INTERRUPTED
    return _close(settings, summary, runs=" over all runs" if job.seconds_before else "")


def _of_parts(finished: int, job: "Job") -> str:
    parts = job.spec.input.num_shards
    return f"{finished} of {counted(parts, 'part')} {'is' if parts == 1 else 'are'}"


def _run(job: "Job") -> "JobSummary":
    from t5ray.cluster import connect
    from t5ray.scoring.job import run

    with (
        connect(
            job.config.address,
            on_loss=lambda exc: terminal.end_with(exc, cli.again("predict")),
            environment=heap.sharing_environment(),
        ) as cluster,
        terminal.progress("scoring", job.spec.input.num_rows) as advance,
    ):
        return run(job, cluster, advance)


def _close(settings: "PredictConfig", summary: "JobSummary", runs: str = "") -> int:
    """Say what the job came to, and what may be done next.

    Args:
        runs: which runs the seconds are of, where there were several.
    """
    may_pass = summary.num_errors - summary.num_unusable
    failed = f", {summary.num_errors} with an error" if summary.num_errors else ""
    if summary.num_unusable and may_pass:
        failed += f" (of which another try may score {may_pass})"
    cut = f", {summary.capped_share:.1%} of outputs cut at decode.max_new_tokens" if summary.capped_share else ""
    if summary.cut_input_share:
        cut = f", {summary.cut_input_share:.1%} of scored inputs cut as longer than the model was trained to take{cut}"
    commands = {}
    if summary.num_errors:
        _tell_first_error(settings.output, may_pass=may_pass > 0)
    if may_pass:
        cut_those = {"on_long": "truncate"} if settings.on_long == "error" else {}
        commands["try those again"] = cli.again("predict", retry_errors=True, **cut_those)
    if summary.capped_share:
        longer = cli.again("predict", output=f"{settings.output.rstrip('/')}-longer", retry_errors=False)
        commands["let outputs be longer"] = f"{longer} --set decode.max_new_tokens={2 * summary.max_new_tokens}"
    if summary.has_references:
        output = shlex.quote(settings.output.rstrip("/"))
        commands["judge it"] = f"python -m t5ray.evaluate --predictions {output} --output {output}-evaluation"
    terminal.close(
        f"{counted(summary.num_rows, 'row')} in {summary.seconds:.1f} s{runs} "
        f"({summary.rows_per_s:g} rows/s while scoring){failed}{cut}: {settings.output}",
        commands,
    )
    return cli.ROW_ERRORS if summary.num_errors else 0


def _tell_first_error(output: str, *, may_pass: bool) -> None:
    """Say what the first error is, and how rows are mended that are wrong themselves.

    Args:
        may_pass: another try may score some of the rows.
    """
    from t5ray.scoring.failures import first_error

    found = first_error(output)
    if found is not None:
        place, error = found
        wrong = "Where the row itself is wrong, mend it" if may_pass else "Another try would say the same: mend the row"
        rows = f"{wrong} in the input and score into another --output."
        terminal.say(f"The first error, in {place}: {error.rstrip('.')}. {rows}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return cli.run(command, "python -m t5ray.predict", argv)


if __name__ == "__main__":
    from t5ray.predict import main as entry

    raise SystemExit(entry())
