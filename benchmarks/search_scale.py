"""What the driver of a search pays for each trial, and how that grows with the trials there are.

    python -m benchmarks.search_scale --trials 1000 --epochs 5

Searcher, ledger, Optuna's journal and observer are the search's own; trials are played, so that no Ray, model or worker
takes part. The table is measured; below it, what a driver could serve is worked out from its last line.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import psutil

from t5ray.config import TrackingConfig, load_space
from t5ray.search.journal import open_storage
from t5ray.search.ledger import Ledger
from t5ray.search.observer import Observer
from t5ray.search.searcher import StudySearch
from t5ray.search.workspace import Workspace
from t5ray.tracking import open_tracker

EPOCH_S = 60.0
"""How long an epoch is taken to last where the load is worked out."""
LAST = 10
"""Trials that a line of the table is the mean of."""
REPORT = (
    "train_loss",
    "validation_loss",
    "hit_cap",
    "tokens_per_s",
    "padding_share",
    "train_s",
    "validate_s",
    "save_s",
)


@dataclass
class Times:
    """Seconds of each call, in order."""

    proposal: list[float] = field(default_factory=list)
    report: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        play(Path(folder), given.trials, given.epochs)


def play(folder: Path, num_trials: int, epochs: int) -> None:
    """Play a search and print a line whenever it has ten times as many trials."""
    searcher, observer, workspace = open_search(folder, num_trials, epochs)
    times, before = Times(), psutil.Process().memory_info().rss
    print("trials   proposal     report        end     ledger    journal   driver's memory")
    for number in range(num_trials):
        play_trial(searcher, observer, epochs, times)
        if number + 1 in (10, 100, 1000, num_trials):
            sizes = [path.stat().st_size / 2**10 for path in (workspace.ledger, workspace.journal)]
            grown = (psutil.Process().memory_info().rss - before) / 2**20
            means = [1000 * fmean(part[-LAST * count :]) for part, count in parts(times, epochs)]
            shown = "".join(f"{mean:8.1f} ms" for mean in means) + "".join(f"{size:8.0f} KiB" for size in sizes)
            print(f"{number + 1:6}{shown}{grown:+9.1f} MiB", flush=True)
    work_out(times, epochs)


def parts(times: Times, epochs: int) -> list[tuple[list[float], int]]:
    """Return each kind of call with how many of it a trial has."""
    return [(times.proposal, 1), (times.report, epochs), (times.end, 1)]


def open_search(folder: Path, num_trials: int, epochs: int) -> tuple[StudySearch, Observer, Workspace]:
    workspace = Workspace(folder, folder / "cache")
    workspace.trials.mkdir(parents=True)
    ledger = Ledger(workspace.ledger)
    storage = open_storage(workspace.journal)
    searcher = StudySearch(
        load_space("t5_base"), ledger, storage=storage, first_points=[], num_trials=num_trials, seed=0
    )
    tracker = open_tracker(TrackingConfig(uri="none"))
    observer = Observer(
        ledger,
        tracker,
        workspace=workspace,
        objective="accuracy",
        max_epochs=epochs,
        slots=1,
        announce=lambda _: None,
        tell_end=searcher.tell_end,
    )
    return searcher, observer, workspace


def play_trial(searcher: StudySearch, observer: Observer, epochs: int, times: Times) -> None:
    """Propose a trial, report each epoch and end it, as Tune would."""
    config: Any = clocked(times.proposal, searcher.suggest, "trial")
    trial = SimpleNamespace(config=config, last_result={}, pickled_error_file=None)
    observer.on_trial_start(0, [], trial)
    for epoch in range(1, epochs + 1):
        trial.last_result = report(epoch, config["trial"], final=epoch == epochs)
        clocked(times.report, tell, searcher, observer, trial)
    clocked(times.end, end, searcher, observer, trial)


def tell(searcher: StudySearch, observer: Observer, trial: Any) -> None:
    searcher.on_trial_result("trial", trial.last_result)
    observer.on_trial_result(0, [], trial, dict(trial.last_result))


def end(searcher: StudySearch, observer: Observer, trial: Any) -> None:
    searcher.on_trial_complete("trial", trial.last_result)
    observer.on_trial_complete(0, [], trial)


def report(epoch: int, trial: int, *, final: bool) -> dict[str, Any]:
    """Return a report of the size that the training loop's have."""
    value = 1 - 1 / (epoch + trial % 7 + 1)
    best = {"best_epoch": epoch, "best_value": value, "best_step": epoch}
    rest = {"final": final, "early_stopped": False, "evaluations": [], "history": [], "metrics": {"accuracy": value}}
    return {**dict.fromkeys(REPORT, 1 / 3), "epoch": epoch, "step": 100 * epoch, "value": value, **best, **rest}


def clocked(seconds: list[float], call: Any, *arguments: Any) -> Any:
    begun = time.perf_counter()
    result = call(*arguments)
    seconds.append(time.perf_counter() - begun)
    return result


def work_out(times: Times, epochs: int) -> None:
    """Print which share of the driver's one thread so many trials at a time would take, at the search's last size."""
    proposal, per_report, ending = (fmean(part[-LAST * count :]) for part, count in parts(times, epochs))
    per_trial = proposal + epochs * per_report + ending
    print(f"\n{1000 * per_trial:.0f} ms of the driver per trial of {epochs} epochs, at {len(times.proposal)} trials.")
    print(f"Worked out, with epochs of {EPOCH_S:g} s:")
    for workers in (10, 100, 1000):
        print(f"{workers:6} trials at a time: {workers * per_trial / (epochs * EPOCH_S):8.1%} of the driver's time")


if __name__ == "__main__":
    main()
