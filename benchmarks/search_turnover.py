"""What a trial costs besides its training: t5ray's warm slots against a TorchTrainer nested in a Tune function.

    python -m benchmarks.search_turnover                     the same 12 trials either way, in turn
    python -m benchmarks.search_turnover --dashboard         the same with Ray's dashboard on
    python -m benchmarks.search_turnover --only groups       Ray Train's local mode against a worker group of one

Every trial has the same work, and the same settings but for a hair: the demo's tiny T5 on some of its dates, by the
same loop. Both sides run two trials at a time (as the machine has CPUs), each in a Ray of its own. The nested side is
what Ray's user guide "Hyperparameter Tuning with Ray Tune" shows. A trial's overhead is the time between its place
being free and its end in which it neither trained nor validated; `whole` is the time from the first trial's start to
the last one's end, without the start of Ray and of the data.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import ray
import ray.train.torch
import ray.tune
from ray.tune.integration.ray_train import TuneReportCallback

from t5ray.config import RunConfig
from t5ray.demo import settings as demo_settings
from t5ray.model.loading import load_model
from t5ray.training.best import best_name
from t5ray.training.group import Group
from t5ray.training.loop import fine_tune
from t5ray.training.plan import RunPlan
from t5ray.training.prepare import Prepared, prepare
from t5ray.training.slot import Slot, SlotSpec
from t5ray.tune import main as tune

SPACE = """
parameters: {learning_rate: {loguniform: [3.0e-4, 3.0001e-4]}}
sampler: {name: random}
scheduler: {name: none}
"""
"""Trials of equal work: a search runs no settings twice, so their learning rates differ by less than 0.01 %."""
SETTINGS = {
    "data.max_train_rows": 640,
    "training.max_epochs": 2,
    "training.validation_rows": 50,
    "data.max_test_rows": 50,
}


@dataclass
class Books(ray.tune.Callback):  # type: ignore[misc]
    """Times of trials, kept as t5ray's own observer keeps them: a place is free until a trial takes it."""

    places: int
    free: list[float] = field(default_factory=list)
    began: dict[str, float] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)
    overheads: list[float] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0

    def setup(self, *args: Any, **info: Any) -> None:
        self.started = time.monotonic()
        self.free = [self.started] * self.places

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.began[trial.trial_id] = self.free.pop(0) if self.free else time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        spent = result.get("train_s", 0.0) + result.get("validate_s", 0.0)
        self.busy[trial.trial_id] = self.busy.get(trial.trial_id, 0.0) + spent

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ended = time.monotonic()
        self.free.append(self.ended)
        self.overheads.append(self.ended - self.began[trial.trial_id] - self.busy[trial.trial_id])


@dataclass(frozen=True)
class Outcome:
    """What one side took, in seconds."""

    first: list[float]
    """Overhead of the first trial in each place."""
    later: list[float]
    """Overhead of the others."""
    whole: float
    busy: float
    """Training and validation of all trials together."""

    @classmethod
    def of(cls, overheads: Sequence[float], places: int, whole: float, busy: float) -> "Outcome":
        return cls(list(overheads[:places]), list(overheads[places:]), whole, busy)


def train_worker(config: dict[str, Any]) -> None:
    """Train one trial as a Ray Train worker: the same loop, from a model that is loaded for it."""
    plan, model, data = config["plan"], config["model"], ray.get(config["data"])
    with tempfile.TemporaryDirectory() as folder:

        def report(epoch: dict[str, Any]) -> bool:
            best = ray.train.Checkpoint.from_directory(Path(folder) / best_name(epoch["best_step"]))
            ray.train.report({name: epoch[name] for name in ("value", "train_s", "validate_s")}, checkpoint=best)
            return True

        own = replace(plan, folder=Path(folder))
        fine_tune(load_model(model), data, own, group=Group(), report=report, tick=lambda *_: None)


def nested(prepared: Prepared, trials: int, places: int, storage: Path) -> Outcome:
    """Run the trials as Ray's guide shows: a Tune function that fits a TorchTrainer."""
    shared = {"plan": RunPlan.of(prepared, Path("unused")), "model": prepared.model, "data": ray.put(prepared.data)}

    def trial(config: dict[str, Any]) -> None:
        ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config=config,
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(
                name=f"trial-{ray.tune.get_context().get_trial_id()}",
                storage_path=str(storage),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()

    books = Books(places)
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    ray.tune.Tuner(
        ray.tune.with_resources(trial, {"CPU": 0, "memory": 1}),  # the driver only waits; the worker has the CPU
        param_space=shared,
        tune_config=ray.tune.TuneConfig(num_samples=trials, max_concurrent_trials=places),
        run_config=ray.tune.RunConfig(storage_path=str(storage), callbacks=[books], verbose=0),
    ).fit()
    if len(books.overheads) < trials:
        raise SystemExit(f"every trial must end well, but {trials - len(books.overheads)} of {trials} failed")
    return Outcome.of(books.overheads, places, books.ended - books.started, sum(books.busy.values()))


def warm(trials: int, folder: Path, cache: Path) -> Outcome:
    """Run the trials through t5ray's command and read what it says of itself."""
    (folder / "space.yaml").write_text(SPACE)
    sets = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    flags = {"search-space": folder / "space.yaml", "num-trials": trials, "confirm-seeds": 0, "tracking-uri": "none"}
    flags |= {"storage": cache.parent, "name": f"warm-{time.monotonic_ns()}"}
    code = tune([*sets, *(word for flag, value in flags.items() for word in (f"--{flag}", str(value)))])
    if code:
        raise SystemExit(code)
    found = json.loads((cache.parent / str(flags["name"]) / "search.json").read_text())
    places = min(int(ray.cluster_resources()["CPU"]), trials)
    overheads = [trial["overhead_s"] for trial in found["trials"]]
    return Outcome.of(overheads, places, found["wall_s"], sum(trial["train_s"] for trial in found["trials"]))


def groups(prepared: Prepared, runs: int, folder: Path) -> None:
    """Time a slot in its caller's process (Ray Train's local mode) and one that is a worker group of one."""
    for in_process in (True, False):
        started = time.monotonic()
        slot = Slot(SlotSpec(prepared.model, ray.put(prepared.data), 1, 1, 0.0, in_process, str(folder)))
        overheads = []
        for run in range(runs):
            busy = follow(slot, RunPlan.of(prepared, folder / f"{in_process}-{run}"))
            overheads.append(time.monotonic() - started - busy)
            started = time.monotonic()
        slot.close()
        name = "local mode" if in_process else "worker group of one"
        print(f"{name:<22} first run {overheads[0]:6.2f} s, later runs {mean(overheads[1:]):6.3f} s of overhead each")


def follow(slot: Slot, plan: RunPlan) -> float:
    """Run one job to its end and return the seconds in which it trained and validated."""
    slot.start(plan)
    busy: float = 0.0
    while True:
        report = slot.next_message().report
        if report is None:
            raise SystemExit("a run failed")
        busy += float(report["train_s"]) + float(report["validate_s"])
        slot.decide(report["epoch"], go_on=True)
        if report["final"]:
            slot.settle()
            return busy


@contextmanager
def own_ray(dashboard: bool) -> Iterator[None]:
    ray.init("local", include_dashboard=dashboard, log_to_driver=False, logging_level="ERROR")
    try:
        yield
        left = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
        print(f"placement groups left: {len(left)}")
    finally:
        ray.shutdown()


def show(name: str, outcome: Outcome) -> None:
    first, later = mean(outcome.first), mean(outcome.later)
    share = 1 - outcome.busy / (outcome.busy + sum(outcome.first) + sum(outcome.later))
    print(
        f"{name:<12} first in its place {first:6.2f} s   later {later:6.2f} s   whole {outcome.whole:6.1f} s   "
        f"trained and validated {outcome.busy:5.1f} s   overhead share {share:.0%}"
    )


def main() -> None:
    """Run what was asked for and print a line for each side."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--only", choices=["nested", "warm", "groups"])
    parser.add_argument("--dashboard", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="turnover-") as name:
        folder = Path(name)
        prepared = prepare(small_settings(), folder / "runs" / "cache")
        if given.only == "groups":
            with own_ray(given.dashboard):
                groups(prepared, 6, folder)
            return
        outcomes = {}
        if given.only in (None, "nested"):
            with own_ray(given.dashboard):
                places = int(ray.cluster_resources()["CPU"])
                outcomes["nested"] = nested(prepared, given.trials, places, folder / "nested")
        if given.only in (None, "warm"):
            with own_ray(given.dashboard):
                outcomes["t5ray"] = warm(given.trials, folder, folder / "runs" / "cache")
    for side, outcome in outcomes.items():
        show(side, outcome)
    if len(outcomes) == 2:
        ratio = mean(outcomes["nested"].later) / mean(outcomes["t5ray"].later)
        print(
            f"overhead of a later trial: {ratio:.0f} times less; whole search: "
            f"{outcomes['nested'].whole / outcomes['t5ray'].whole:.1f} times shorter"
        )


def small_settings() -> RunConfig:
    """Return the demo's settings, cut down."""
    tree: dict[str, Any] = {}
    for name, value in {**demo_settings(), **SETTINGS}.items():
        group, _, leaf = name.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[leaf] = value
    return RunConfig.model_validate(tree)


if __name__ == "__main__":
    main()
