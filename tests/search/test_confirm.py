"""Which trials are trained again, on which seeds, what is kept, and who wins."""

from pathlib import Path

import numpy as np
import pytest

from t5ray.search.confirm import (
    Confirmation,
    candidates,
    compare,
    means,
    num_expected,
    num_missing,
    standing,
    why_unconfirmed,
)
from t5ray.search.ledger import Ledger, State, TrialRecord
from t5ray.text.statistics import MeanStatistic

SEEDS = [1, 2]


def trial(number: int, value: float | None, state: State = "COMPLETE", seed: int | None = None) -> TrialRecord:
    reports = [] if value is None else [{"value": value, "best_epoch": 1, "best_value": value}]
    return TrialRecord(number, {"learning_rate": 0.1 * number}, state, reports=reports, seed=seed)


def ledger(*values: float | None, mode: str = "max") -> Ledger:
    found = Ledger(Path("ledger.json"), mode, confirm_seeds=SEEDS)  # type: ignore[arg-type]
    found.trials = {n: trial(n, value, "FAIL" if value is None else "COMPLETE") for n, value in enumerate(values)}
    return found


def finish(run: TrialRecord, value: float | None) -> None:
    run.reports = [] if value is None else [{"value": value, "best_epoch": 1, "best_value": value}]
    run.state = "FAIL" if value is None else "COMPLETE"


@pytest.mark.parametrize(
    ("values", "mode", "expected"),
    [
        ((0.1, 0.5, 0.9, 0.7, 0.6), "max", [2, 3, 4, 0]),  # the best three and the default
        ((0.8, 0.5, 0.9, 0.7, 0.6), "max", [2, 0, 3]),  # the default is among them
        ((0.1, 0.5, 0.9, 0.7, 0.6), "min", [0, 1, 4]),
        ((None, 0.5, 0.9), "max", [2, 1]),  # the default failed
        ((0.1, None), "max", [0]),
    ],
)
def test_the_best_three_and_the_default_are_candidates(
    values: tuple[float | None, ...], mode: str, expected: list[int]
) -> None:
    assert candidates(ledger(*values, mode=mode)) == expected


def test_equal_settings_are_confirmed_once() -> None:
    found = ledger(0.5, 0.5, 0.4)
    found.trials[1].params = found.trials[0].params
    assert candidates(found) == [0, 2]


def test_the_default_is_confirmed_as_such_though_its_settings_ran_again() -> None:
    """The time budget had cut trial 0 off."""
    found = ledger(0.2, 0.9, 0.8, 0.7, 0.3, 0.85)
    found.trials[0].state = "PRUNED"
    for again, expected in ((4, [1, 5, 2, 0]), (5, [1, 0, 2])):
        found.trials[again].params = found.trials[0].params
        assert candidates(found) == expected
    found.confirm_runs = [trial(0, 0.5, seed=1)]
    assert candidates(found) == [1, 0, 2]


def test_who_is_being_confirmed_is_not_replaced_by_a_later_trial_with_its_settings() -> None:
    """Else the winner of the runs that have ended would be no candidate."""
    found = ledger(0.4, 0.5)
    for run in iter(Confirmation(found).next_run, None):
        finish(run, 0.6 if run.trial == 1 else 0.3)
    found.trials[2] = trial(2, 0.9)
    found.trials[2].params = found.trials[1].params
    assert (candidates(found), standing(found).leader) == ([1, 0], 1)
    row = [MeanStatistic(("exact_match",), np.array([[0.5], [0.5]]))]
    outcome = compare(found, {(n, seed): row for n in (0, 1) for seed in SEEDS}, "exact_match", 2)
    assert outcome is not None
    assert outcome["winner"] == 1


def test_runs_come_seed_by_seed_and_the_best_first() -> None:
    confirmation = Confirmation(found := ledger(0.1, 0.9))
    runs = []
    while (run := confirmation.next_run()) is not None:
        finish(run, 0.5)
        runs.append(run.key)
    assert runs == ["1-seed1", "0-seed1", "1-seed2", "0-seed2"]
    assert num_missing(found) == 0


def test_while_trials_run_as_many_runs_are_expected_as_there_can_be() -> None:
    found = ledger(0.1, 0.9, 0.5)
    assert num_expected(found, 9) == 4 * len(SEEDS)
    assert num_expected(found, 3) == 3 * len(SEEDS)  # all have ended: the three trials are the candidates
    found.confirm_runs = [trial(0, 0.5, seed=1)]
    assert num_expected(found, 9) == 4 * len(SEEDS) - 1
    assert num_expected(ledger(0.5), 1) == 0  # nothing to compare
    found = ledger(0.1, 0.9, 0.8, 0.7, 0.6)
    found.confirm_runs = [trial(n, 0.5, seed=seed) for n in range(4) for seed in (*SEEDS, 8, 9)]
    assert num_expected(found, 9) == 0  # of earlier rounds; never less than none


def test_only_the_default_fills_idle_slots_while_trials_run() -> None:
    found = ledger(0.1, 0.9, 0.5)
    found.trials[3] = trial(3, 0.2, "RUNNING")
    confirmation = Confirmation(found)
    first = confirmation.next_run()
    assert first is not None
    assert first.key == "0-seed1"
    assert confirmation.next_run() is None  # its last run, whose weights are kept, waits
    found.trials[3].state = "COMPLETE"
    second = confirmation.next_run()
    assert second is not None
    assert second.key == "1-seed1"


def test_interrupted_runs_go_first_and_none_is_begun_twice() -> None:
    found = ledger(0.1, 0.9)
    cut = trial(1, None, "RUNNING", seed=1)
    found.confirm_runs = [cut]
    confirmation = Confirmation(found)
    keys = [run.key for run in iter(confirmation.next_run, None)]
    assert keys == ["1-seed1", "0-seed1", "1-seed2", "0-seed2"]
    assert len(found.confirm_runs) == 4


def test_one_candidate_needs_no_confirmation() -> None:
    found = ledger(0.5, None)
    assert Confirmation(found).next_run() is None
    assert num_missing(found) == 0


def test_a_failed_run_takes_its_candidate_out() -> None:
    found = ledger(0.1, 0.9)
    for run in iter(Confirmation(found).next_run, None):
        finish(run, None if run.key == "1-seed1" else 0.5)
    assert standing(found).leader == 0
    assert [run.key for run in found.confirm_runs] == ["1-seed1", "0-seed1", "0-seed2"]  # it could not win any more
    assert (num_missing(found), num_expected(found, 2)) == (0, 0)


def test_no_more_is_kept_than_one_checkpoint_besides_the_running_ones() -> None:
    found = ledger(0.1, 0.9, 0.8, 0.7)
    assert standing(found).kept == {"1"}
    values = {"1": (0.5, 0.5), "2": (0.6, 0.7), "3": (0.6, 0.6), "0": (0.1, 0.1)}
    seen = []
    for run in iter(Confirmation(found).next_run, None):
        finish(run, values[str(run.trial)][SEEDS.index(run.seed or 0)])
        seen.append(standing(found).kept)
    assert seen == [{"1"}] * 4 + [{"1-seed2"}] + [{"2-seed2"}] * 3
    assert standing(found).leader == 2


def test_who_is_faster_than_the_best_trial_does_not_win_before_it_has_run() -> None:
    """Two slots: the second-best ends its last run while the best is in its own."""
    found = ledger(0.1, 0.9, 0.8)
    confirmation = Confirmation(found)
    runs = {run.key: run for run in (confirmation.next_run() for _ in range(5)) if run is not None}
    assert list(runs) == ["1-seed1", "2-seed1", "0-seed1", "1-seed2", "2-seed2"]
    for key in ("1-seed1", "2-seed1", "0-seed1", "2-seed2"):
        finish(runs[key], 0.7)
    assert means(found) == {2: 0.7}
    assert standing(found).leader is None
    assert standing(found).source is found.trials[1]  # what is published if the time is up now
    assert standing(found).kept == {"1", "1-seed2", "2-seed2"}
    # one more run would be one more checkpoint than there may be: a slot waits
    assert confirmation.next_run() is None
    assert confirmation.is_waiting
    finish(runs["1-seed2"], 0.6)
    assert standing(found).leader == 2
    assert standing(found).kept == {"2-seed2"}
    last = confirmation.next_run()
    assert last is not None
    assert last.key == "0-seed2"
    assert not confirmation.is_waiting


def test_when_the_best_trial_fails_again_the_next_best_is_waited_for() -> None:
    found = ledger(0.1, 0.9, 0.8)
    runs = {run.key: run for run in iter(Confirmation(found).next_run, None)}
    for key, value in {"1-seed1": None, "2-seed1": 0.7, "0-seed1": 0.2, "0-seed2": 0.2}.items():
        finish(runs[key], value)
    assert standing(found).leader is None
    finish(runs["2-seed2"], 0.6)
    assert standing(found).leader == 2


def test_what_an_earlier_session_confirmed_stands_until_a_new_best_trial_is_confirmed() -> None:
    found = ledger(0.1, 0.9)
    for run in iter(Confirmation(found).next_run, None):
        finish(run, 0.5)
    found.has_leader = True  # as the books of that session say
    found.trials[2] = trial(2, 0.95)
    assert (standing(found).leader, set(standing(found).kept)) == (1, {"1-seed2"})
    for run in iter(Confirmation(found).next_run, None):
        finish(run, 0.6)
    assert (standing(found).leader, set(standing(found).kept)) == (2, {"2-seed2"})


def confirmed(rows: dict[int, list[list[float]]], mode: str = "max") -> dict[str, object]:
    """Confirm candidates by given row values, [seed][row]."""
    found = ledger(*([0.5] * len(rows)), mode=mode)
    for run in iter(Confirmation(found).next_run, None):
        finish(run, float(np.mean(rows[run.trial][SEEDS.index(run.seed or 0)])))
    statistics = {
        (number, seed): [MeanStatistic(("exact_match",), np.array(values)[:, None])]
        for number, by_seed in rows.items()
        for seed, values in zip(SEEDS, by_seed, strict=True)
    }
    outcome = compare(found, statistics, "exact_match", len(rows[0][0]))
    assert outcome is not None
    return outcome


def test_the_interval_is_that_of_the_binomial_and_a_clear_winner_has_no_tie() -> None:
    generator = np.random.default_rng(0)
    high, low = (generator.permutation(np.repeat([1.0, 0.0], [n, 400 - n])).tolist() for n in (320, 200))
    outcome = confirmed({0: [low, low], 1: [high, high]})
    assert (outcome["winner"], outcome["tie_with"], outcome["seeds"], outcome["rows"]) == (1, [], SEEDS, 400)
    by_trial = {c["trial"]: c for c in outcome["candidates"]}  # type: ignore[attr-defined]
    assert by_trial[1]["values"] == [0.8, 0.8]
    assert by_trial[1]["mean"] == 0.8
    # normal approximation of a share of 0.8 over 400 rows: 0.8 +- 1.96 * sqrt(0.8 * 0.2 / 400)
    assert by_trial[1]["interval"] == pytest.approx([0.7608, 0.8392], abs=0.005)


def test_an_interval_holds_no_value_that_the_metric_cannot_have() -> None:
    """Two seeds far apart: Student's t with one degree of freedom reaches 12.7 standard errors."""
    outcome = confirmed({0: [[0.0] * 90 + [1.0] * 10, [0.0] * 100], 1: [[1.0] * 100, [1.0] * 60 + [0.0] * 40]})
    low, high = sorted(c["interval"] for c in outcome["candidates"])  # type: ignore[attr-defined]
    assert (low[0], high) == (0.0, [0.0, 1.0])
    assert low[0] < low[1] < 1.0


def test_rows_are_compared_in_pairs() -> None:
    """One is right wherever the other is, and on 12 of 400 rows more: sure in pairs, though the intervals overlap."""
    low = np.repeat([1.0, 0.0], [200, 200])
    high = np.repeat([1.0, 0.0], [212, 188])
    outcome = confirmed({0: [low.tolist()] * 2, 1: [high.tolist()] * 2})
    (one, two) = sorted(c["interval"] for c in outcome["candidates"])  # type: ignore[attr-defined]
    assert one[1] > two[0]
    assert (outcome["winner"], outcome["tie_with"]) == (1, [])


def test_a_difference_within_chance_is_a_tie() -> None:
    one = np.repeat([1.0, 0.0], [201, 199])
    outcome = confirmed({0: [one[::-1].tolist()] * 2, 1: [np.repeat([1.0, 0.0], [202, 198]).tolist()] * 2})
    assert (outcome["winner"], outcome["tie_with"]) == (1, [0])


def test_seeds_that_disagree_make_a_tie() -> None:
    """Each row is sure, but one seed of the winner is below the other candidate's."""
    base = np.repeat([1.0, 0.0], [300, 100])
    better, worse = np.repeat([1.0, 0.0], [360, 40]), np.repeat([1.0, 0.0], [260, 140])
    outcome = confirmed({0: [base.tolist()] * 2, 1: [better.tolist(), worse.tolist()]})
    assert (outcome["winner"], outcome["tie_with"]) == (1, [0])


def test_a_smaller_loss_wins() -> None:
    outcome = confirmed({0: [[0.5] * 50] * 2, 1: [[0.2] * 50] * 2}, mode="min")
    assert (outcome["winner"], outcome["tie_with"]) == (1, [])


def test_the_gain_over_the_default_has_an_interval_of_its_own() -> None:
    """12 of 400 rows more, each the other's otherwise: a share of 0.03 of rows that differ."""
    low, high = np.repeat([1.0, 0.0], [200, 200]).tolist(), np.repeat([1.0, 0.0], [212, 188]).tolist()
    outcome = confirmed({0: [low] * 2, 1: [high] * 2})
    assert outcome["gain"] == pytest.approx(0.03)
    # normal approximation of that share: 0.03 +- 1.96 * sqrt(0.03 * 0.97 / 400)
    assert outcome["gain_interval"] == pytest.approx([0.0133, 0.0467], abs=0.003)
    assert confirmed({0: [high] * 2, 1: [low] * 2})["gain"] == 0  # the default won
    smaller = confirmed({0: [[0.5] * 50] * 2, 1: [[0.2] * 50] * 2}, mode="min")
    assert smaller["gain"] == pytest.approx(0.3)
    assert smaller["gain_interval"] == pytest.approx([0.3, 0.3])
    far = confirmed({0: [[0.0] * 90 + [1.0] * 10, [0.0] * 100], 1: [[1.0] * 100, [1.0] * 60 + [0.0] * 40]})
    assert far["gain_interval"][1] == 1.0  # type: ignore[index]  # two seeds far apart, but no share can differ by more


def test_a_default_that_is_out_is_no_measure_of_the_gain() -> None:
    found = ledger(0.1, 0.9, 0.8)
    for run in iter(Confirmation(found).next_run, None):
        finish(run, None if run.trial == 0 else 0.5)
    row = [MeanStatistic(("exact_match",), np.array([[0.5], [0.5]]))]
    outcome = compare(found, {(n, seed): row for n in (1, 2) for seed in SEEDS}, "exact_match", 2)
    assert outcome is not None
    assert (outcome["gain"], outcome["gain_interval"]) == (None, None)


def test_why_nothing_was_confirmed_is_said() -> None:
    found = ledger(0.1, 0.9)
    runs = Confirmation(found)
    first = runs.next_run()
    assert first is not None
    finish(first, 0.5)
    runs.next_run()  # cut off while it ran
    ended = "the search ended before its best trial and another had run on 2 fresh seeds; --resume runs the rest"
    assert why_unconfirmed(found) == ended
    assert num_missing(found) == 3
    for run in iter(Confirmation(found).next_run, None):
        finish(run, None)
        run.reason = f"the loss must be finite, but is nan at step {run.trial}."
    assert why_unconfirmed(found) == (
        "fewer than two candidates reached the end on every fresh seed: the loss must be finite, but is nan at step 0 "
        "(trial 0 on seed 1); the loss must be finite, but is nan at step 1 (trial 1 on seed 2)"
    )
    assert why_unconfirmed(ledger(0.5, None)) == "fewer than two different trials have a value"
    found.confirm = {"winner": 0}
    assert why_unconfirmed(found) is None
    found.confirm, found.confirm_seeds = None, []
    assert why_unconfirmed(found) is None
