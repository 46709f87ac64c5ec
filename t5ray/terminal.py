"""What users read: lines, bars, errors, results, and the commands to run next.

The only home of terminal output, but for tune's live table. Must not import torch, ray or mlflow.
"""

import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from t5ray.errors import T5RayError
from t5ray.redaction import hide_secrets

if TYPE_CHECKING:
    from t5ray.config import RunConfig

console = Console(highlight=False, soft_wrap=True, emoji=False)
stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def show_error(exc: T5RayError) -> None:
    """Print an error as its class's plain name and its message, at once: other threads print too."""
    stderr.print(_text(exc))


def _text(exc: T5RayError) -> Text:
    kind = type(exc).__name__.removesuffix("Error").lower()
    return Text.assemble((f"{kind} error", "bold red"), f": {exc}")


def end_with(exc: T5RayError, command: str) -> None:
    """Print an error and the command that goes on, and end the process at once, from any thread, untidied."""
    console.show_cursor()  # a bar hides it
    stderr.print(Text.assemble(_text(exc), f"\nGo on with: {command}"))  # at once: other threads print too
    os._exit(exc.exit_code)


def say(text: str) -> None:
    """Print one plain line."""
    console.print(hide_secrets(text), markup=False)


def tell(lines: Iterable[str]) -> None:
    """Print plain lines."""
    for line in lines:
        say(line)


def close(result: str, commands: dict[str, str]) -> None:
    """End a command: one result line, then what to run next (purpose -> command)."""
    console.print(f"\n[bold green]{_escaped(hide_secrets(result))}[/]")
    suggest(commands)


def suggest(commands: dict[str, str]) -> None:
    """Print what to run next (purpose -> command)."""
    commands = {purpose: command for purpose, command in commands.items() if command}
    if commands:
        say("Next:")
    width = max((len(purpose) for purpose in commands), default=0)
    for purpose, command in commands.items():
        say(f"  {purpose.ljust(width)}  {typed(command)}")


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


class Advance(Protocol):
    """Moves a bar: `advance(done, note, total)` sets how much is done, the text beside it, and how much there is."""

    def __call__(self, done: float, note: str = "", total: float | None = None) -> None:  # noqa: D102 (said above)
        ...


@contextmanager
def progress(what: str, total: float | None) -> Iterator[Advance]:
    """Show a bar with count, elapsed and remaining time; plain lines (at most one per 10 %) when piped."""
    if not console.is_terminal:
        yield _plain_lines(what, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total, note="")
        yield lambda done, note="", total=total: bar.update(task, completed=done, note=note, total=total)


def _plain_lines(what: str, total: float | None) -> Advance:
    shown, first = -1, (-math.inf, 0.0)

    def advance(done: float, note: str = "", total: float | None = total) -> None:
        nonlocal shown, first
        tenth = int(10 * done / total) if total else int(done)
        if shown < 0 or done == first[0]:  # what starts up tells nothing of the pace
            first = (done, time.monotonic())
        if tenth > shown:
            shown = tenth
            left = _time_left(done - first[0], (total or done) - done, time.monotonic() - first[1])
            say(", ".join(filter(None, [f"{what}: {done:g}{f' of {total:g}' if total else ''} {note}".rstrip(), left])))

    return advance


def _time_left(done: float, rest: float, took_s: float) -> str:
    """Say how long the rest will take at the pace so far.

    Example:
        done 10, rest 20, took 60 s -> "0:02:00 left"
    """
    return f"{timedelta(seconds=round(rest * took_s / done))} left" if done > 0 and rest > 0 else ""


def quiet_libraries() -> None:
    """Keep libraries' banners and progress bars out of the console; set before they are imported."""
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }.items():
        os.environ.setdefault(name, value)


def to_judge(bundle: str, made: "RunConfig") -> str:
    """Return the command that judges a bundle on the test split of its data, and logs it where its run was logged.

    Args:
        made: settings of the run that made it.
    """
    words = ["--model", bundle, "--data", str(made.data.path), "--split", "test"]
    words += ["--output", f"{_run_of(bundle)}-evaluation", *(["--skip-bad-rows"] if made.data.skip_bad_rows else [])]
    words += _tracked(made, {"--tracking-uri": "uri", "--experiment": "experiment"})
    return shlex.join(["python", "-m", "t5ray.evaluate", *words])


def to_score(bundle: str) -> str:
    """Return the command that scores rows with a bundle."""
    words = ["--model", bundle, "--input", "ROWS.jsonl", "--output", f"{_run_of(bundle)}-predictions"]
    return shlex.join(["python", "-m", "t5ray.predict", *words])


def registered(made: "RunConfig", unsent: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the sentence on the model that a run registered, and the command that scores with it; else nothing.

    Args:
        unsent: what the tracker could not send: who is told of that is not told of a model.
    """
    if not made.register_as or unsent:
        return "", {}
    words = ["--model", f"models:/{made.register_as}@champion", "--input", "ROWS.jsonl"]
    words += ["--output", f"{made.register_as}-champion-predictions", *_tracked(made, {"--tracking-uri": "uri"})]
    command = shlex.join(["python", "-m", "t5ray.predict", *words])
    return f" Registered in MLflow as {made.register_as}, alias champion.", {"score by the champion": command}


def _tracked(made: "RunConfig", flags: Mapping[str, str]) -> list[str]:
    """Return the words of a command that say where a run was tracked, as far as its settings did."""
    given = {flag: name for flag, name in flags.items() if name in made.tracking.model_fields_set}
    return [word for flag, name in given.items() for word in (flag, getattr(made.tracking, name))]


def _run_of(bundle: str) -> str:
    """Return the name of a bundle's run: results of several runs lie side by side under it.

    Example:
        _run_of("t5ray_runs/reviews/best") -> "reviews"
    """
    return bundle.rstrip("/").removesuffix("/best").rpartition("/")[2]


def typed(command: str) -> str:
    """Return a command as it can be typed here: `python` and its scripts by path where the shell would find others.

    Example:
        in a shell without the virtual environment: typed("mlflow ui") -> ".venv/bin/mlflow ui"
    """
    program, _, words = command.partition(" ")
    ours, found = Path(sys.executable), shutil.which(program)
    if program not in ("python", "mlflow") or (found and Path(found).absolute().parent == ours.parent):
        return command
    path = ours if program == "python" else ours.with_name(program)
    here = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shlex.quote(str(here))} {words}"
