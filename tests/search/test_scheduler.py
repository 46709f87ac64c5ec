"""ASHA's rungs and the median rule, before and after an interruption."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.tune.schedulers

from t5ray.config import SchedulerConfig
from t5ray.search.ledger import Ledger, State, TrialRecord
from t5ray.search.scheduler import Asha, EpochScheduler, build_scheduler, rung_epochs

MEDIAN = SchedulerConfig(name="median")


def test_rung_epochs_example() -> None:
    assert rung_epochs(SchedulerConfig(grace_epochs=1, reduction_factor=3), 10) == [1, 3, 9]
    assert rung_epochs(SchedulerConfig(grace_epochs=2, reduction_factor=2), 8) == [2, 4]
    # 1, 2.5, 6.25 and 15.6: a trial is judged at the first epoch that has reached the mark
    assert rung_epochs(SchedulerConfig(grace_epochs=1, reduction_factor=2.5), 20) == [1, 3, 7, 16]
    # 1, 1.3, 1.69, 2.2, 2.86, 3.7, 4.8
    assert rung_epochs(SchedulerConfig(grace_epochs=1, reduction_factor=1.3), 5) == [1, 2, 3, 4]
    assert rung_epochs(SchedulerConfig(name="none"), 8) == []
    assert rung_epochs(MEDIAN, 8) == []


class Search:
    """A scheduler and the ledger that Tune's other listener fills behind it."""

    def __init__(self, folder: Path, config: SchedulerConfig | None = None, mode: str = "max") -> None:
        self.config = config or SchedulerConfig()
        self.ledger = Ledger(folder / "ledger.json", mode)  # type: ignore[arg-type]
        self.scheduler = build_scheduler(self.config, self.ledger, 9)

    def run(self, number: int, values: list[float], state: State = "COMPLETE") -> list[str]:
        """Report epochs until the scheduler says stop."""
        record = self.ledger.trials.setdefault(number, TrialRecord(number, {}))
        trial = SimpleNamespace(config={"trial": number})
        self.scheduler.on_trial_add(None, trial)
        decisions = []
        for epoch, value in enumerate(values, start=1):
            decisions.append(self.scheduler.on_trial_result(None, trial, {"epoch": epoch, "value": value}))
            record.reports[epoch - 1 :] = [{"value": value}]
            if decisions[-1] == "STOP":
                break
        record.state = "PRUNED" if decisions[-1] == "STOP" else state
        return decisions

    def resumed(self) -> "Search":
        """Begin again with what the ledger holds on disk."""
        self.ledger.save()
        again = Search(self.ledger.path.parent, self.config)
        again.ledger = Ledger.load(self.ledger.path)
        again.scheduler = build_scheduler(self.config, again.ledger, 9)
        return again


def rungs(scheduler: EpochScheduler) -> list[Any]:
    assert isinstance(scheduler.rule, Asha)
    return [(epoch, recorded) for bracket in scheduler.rule._brackets for epoch, recorded in bracket._rungs]


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_a_trial_below_the_best_third_is_stopped_at_the_first_rung(tmp_path: Path, mode: str, sign: int) -> None:
    search = Search(tmp_path, mode=mode)
    for number, value in enumerate((0.5, 0.6, 0.7)):
        search.run(number, [sign * value])
    assert search.run(3, [sign * 0.2, sign * 0.9]) == ["STOP"]
    assert search.run(4, [sign * 0.8, sign * 0.9]) == ["CONTINUE", "CONTINUE"]


def test_a_failed_trial_leaves_no_value_in_the_rungs(tmp_path: Path) -> None:
    search = Search(tmp_path)
    trial = SimpleNamespace(config={"trial": 7})
    search.scheduler.on_trial_complete(None, trial, {"failure": "the loss is nan", "done": True})
    assert all(recorded == {} for _, recorded in rungs(search.scheduler))


def test_confirmation_runs_are_not_judged(tmp_path: Path) -> None:
    search = Search(tmp_path)
    for number, value in enumerate((0.5, 0.6, 0.7)):
        search.run(number, [value])
    before = [(epoch, dict(recorded)) for epoch, recorded in rungs(search.scheduler)]
    trial = SimpleNamespace(config={"trial": 0, "seed": 1})
    assert search.scheduler.on_trial_result(None, trial, {"epoch": 1, "value": 0.0}) == "CONTINUE"
    search.scheduler.on_trial_complete(None, trial, {"epoch": 9, "value": 0.0})
    assert rungs(search.scheduler) == before


@pytest.mark.parametrize("brackets", [1, 3])
def test_rungs_are_filled_again_from_the_ledger(tmp_path: Path, brackets: int) -> None:
    search = Search(tmp_path, SchedulerConfig(brackets=brackets))
    for number in range(8):
        search.run(number, [0.1 * number, 0.5, 0.7 - 0.1 * number])
    assert rungs(search.resumed().scheduler) == rungs(search.scheduler)
    assert sum(len(recorded) for _, recorded in rungs(search.scheduler)) > 8


def test_brackets_get_the_shares_that_ray_gives_them(tmp_path: Path) -> None:
    rule = Search(tmp_path, SchedulerConfig(brackets=3)).scheduler.rule
    assert isinstance(rule, Asha)
    drawn = [rule._brackets.index(rule.bracket_of(number)) for number in range(3000)]
    # 3, 2 and 1 rungs within 9 epochs: e^0, e^-1 and e^-2, in parts of their sum
    assert [drawn.count(i) / 3000 for i in range(3)] == [pytest.approx(p, abs=0.03) for p in (0.665, 0.245, 0.090)]


def test_an_interrupted_trial_is_not_judged_again_on_epochs_it_had_passed(tmp_path: Path) -> None:
    search = Search(tmp_path)
    for number, values in {0: [0.2, 0.3, 0.9], 1: [0.8], 2: [0.85], 3: [0.9]}.items():
        record = TrialRecord(number, {}, "RUNNING" if number == 0 else "PRUNED", reports=[{"value": v} for v in values])
        search.ledger.trials[number] = record
    again = search.resumed()
    assert again.run(0, [0.2, 0.3, 0.9, 0.91]) == ["CONTINUE"] * 4
    assert again.run(9, [0.2]) == ["STOP"]  # a new trial is judged


@pytest.mark.parametrize("config", [SchedulerConfig(), MEDIAN])
def test_a_stop_that_an_interruption_cut_short_is_said_again(tmp_path: Path, config: SchedulerConfig) -> None:
    search = Search(tmp_path, config)
    for number, value in enumerate((0.5, 0.6, 0.7)):
        search.run(number, [value, value])
    assert search.run(3, [0.2]) == ["STOP"]
    search.ledger.trials[3].state = "RUNNING"  # killed after the epoch was saved, before the trial was closed
    assert search.resumed().run(3, [0.2, 0.9]) == ["STOP"]


def median_rule_of_ray(histories: list[list[float]]) -> list[int]:
    """Return after how many epochs Ray's own rule lets each trial stop, trial after trial."""
    rule = ray.tune.schedulers.MedianStoppingRule("epoch", "value", "max", grace_period=1, min_samples_required=3)
    controller = SimpleNamespace(get_live_trials=list)
    lengths = []
    for number, values in enumerate(histories):
        for epoch, value in enumerate(values, start=1):
            decision = rule.on_trial_result(controller, Key(str(number)), {"epoch": epoch, "value": value})
            if decision == "STOP":
                break
        lengths.append(epoch)
    return lengths


class Key(str):
    """What Ray's rule needs of a trial: to be told apart, and a name."""

    @property
    def trial_id(self) -> str:
        return str(self)


HISTORIES = [[0.5, 0.6, 0.7], [0.3, 0.4, 0.9], [0.6, 0.5, 0.4], [0.2, 0.9, 0.9], [0.55, 0.5, 0.4], [0.7, 0.1, 0.1]]


def test_the_median_rule_stops_what_ray_s_stops(tmp_path: Path) -> None:
    search = Search(tmp_path, MEDIAN)
    lengths = [len(search.run(number, values)) for number, values in enumerate(HISTORIES)]
    assert lengths == median_rule_of_ray(HISTORIES)
    assert min(lengths) < 3 < sum(lengths)


def test_the_median_rule_remembers_over_an_interruption(tmp_path: Path) -> None:
    undisturbed, cut = Search(tmp_path / "a", MEDIAN), Search(tmp_path / "b", MEDIAN)
    (tmp_path / "b").mkdir()
    expected = [undisturbed.run(number, values) for number, values in enumerate(HISTORIES)]
    found = []
    for number, values in enumerate(HISTORIES):
        cut = cut.resumed()
        found.append(cut.run(number, values))
    assert found == expected


def test_failed_trials_do_not_count_for_the_median(tmp_path: Path) -> None:
    search = Search(tmp_path, MEDIAN)
    for number, value in enumerate((0.5, 0.6, 0.7)):
        search.run(number, [value], "FAIL" if number == 2 else "COMPLETE")
    assert search.run(3, [0.1]) == ["CONTINUE"]  # two are too few


@pytest.mark.parametrize("config", [SchedulerConfig(), MEDIAN])
def test_epochs_told_again_after_a_crash_get_the_answers_they_got(tmp_path: Path, config: SchedulerConfig) -> None:
    """Others have come by since, and are so good that the first epoch would be stopped now."""
    search = Search(tmp_path, config)
    trial = SimpleNamespace(config={"trial": 0})
    search.ledger.trials[0] = TrialRecord(0, {}, reports=[{"value": 0.2}, {"value": 0.3}])
    assert search.scheduler.on_trial_result(None, trial, {"epoch": 1, "value": 0.2}) == "CONTINUE"
    assert search.scheduler.on_trial_result(None, trial, {"epoch": 2, "value": 0.3}) == "CONTINUE"
    for number, value in enumerate((0.7, 0.8, 0.9), start=1):
        search.run(number, [value, value])
    assert search.run(4, [0.2]) == ["STOP"]
    assert search.scheduler.on_trial_result(None, trial, {"epoch": 1, "value": 0.2}) == "CONTINUE"
