"""What Optuna is told, trial by trial, without a Ray."""

from pathlib import Path

import optuna
import pytest

from t5ray.config import SearchSpace
from t5ray.search.journal import open_storage
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.searcher import StudySearch, verdict
from t5ray.search.space import Params

SPACE = SearchSpace.model_validate(
    {"parameters": {"learning_rate": {"loguniform": [1e-5, 1e-2]}, "batch_size": {"choice": [16, 32]}}}
)
DEFAULTS: Params = {"learning_rate": 3e-4, "batch_size": 32}


def searcher(folder: Path, ledger: Ledger, seed: int = 0) -> StudySearch:
    storage = open_storage(str(folder / "journal"))
    return StudySearch(SPACE, ledger, storage=storage, first_points=[DEFAULTS], num_trials=9, seed=seed)


def told(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return list(optuna.load_study(study_name="t5ray", storage=open_storage(str(folder / "journal"))).trials)


@pytest.mark.parametrize(
    ("result", "error", "expected"),
    [
        ({"epoch": 3, "value": 0.4, "final": True}, False, "COMPLETE"),
        ({"epoch": 1, "value": 0.4, "final": False}, False, "PRUNED"),
        ({"failure": "the loss is nan"}, False, "FAIL"),
        ({"epoch": 1, "value": 0.4, "final": False}, True, "FAIL"),
        (None, False, "FAIL"),
    ],
)
def test_verdict(result: dict[str, object] | None, error: bool, expected: str) -> None:
    assert verdict(result, error) == expected


def test_the_truth_is_told(tmp_path: Path) -> None:
    search = searcher(tmp_path, Ledger(tmp_path / "l.json", "max"))
    for name in ("done", "stopped", "broken"):
        search.suggest(name)
    search.on_trial_result("done", {"epoch": 1, "value": 0.6})
    search.on_trial_complete("done", {"epoch": 2, "value": 0.5, "best_value": 0.6, "final": True})
    search.on_trial_complete("stopped", {"epoch": 1, "value": 0.1, "best_value": 0.1, "final": False})
    search.on_trial_complete("broken", {"failure": "the loss is nan"})
    done, stopped, broken = told(tmp_path)
    assert (done.state.name, done.value, done.intermediate_values) == ("COMPLETE", 0.6, {1: 0.6, 2: 0.5})
    assert (stopped.state.name, stopped.intermediate_values) == ("PRUNED", {1: 0.1})
    assert (broken.state.name, broken.value, broken.intermediate_values) == ("FAIL", None, {})


def test_of_a_process_that_died_for_good_the_cause_is_told(tmp_path: Path) -> None:
    search = searcher(tmp_path, ledger := Ledger(tmp_path / "l.json", "max"))
    search.suggest("dead")
    search.on_trial_result("dead", {"epoch": 1, "value": 0.6})
    search.on_trial_complete("dead", error=True)  # Tune says no more
    ledger.trials[0].state, ledger.trials[0].reason = "FAIL", "the worker was killed"
    search.tell_end(ledger.trials[0])
    (dead,) = told(tmp_path)
    assert (dead.state.name, dead.user_attrs["cause"], dead.intermediate_values) == (
        "FAIL",
        "the worker was killed",
        {1: 0.6},
    )
    search.suggest("next")
    search.on_trial_complete("next", {"epoch": 1, "value": 0.5, "best_value": 0.5, "final": True})
    assert [t.state.name for t in told(tmp_path)] == ["FAIL", "COMPLETE"]


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_the_clock_cut_off_is_not_told_as_pruned(tmp_path: Path, is_killed: bool) -> None:
    search = searcher(tmp_path, ledger := Ledger(tmp_path / "l.json", "max"))
    for name in ("stopped", "cut off"):
        search.suggest(name)
        search.on_trial_result(name, {"epoch": 1, "value": 0.1})
    stopped, cut = ledger.trials[0], ledger.trials[1]
    stopped.state, stopped.stopped_epoch = "PRUNED", 1
    cut.state, cut.reason = "PRUNED", "cut off after epoch 1 of 9: the time budget was used up"
    if is_killed:  # before the study had heard anything: it does when the search goes on
        searcher(tmp_path, ledger)
    else:
        search.on_trial_complete("stopped", {"epoch": 1, "value": 0.1, "best_value": 0.1, "final": False})
        search.tell_end(cut)
    assert [t.state.name for t in told(tmp_path)] == ["PRUNED", "FAIL"]
    assert told(tmp_path)[1].user_attrs["cause"] == cut.reason


def test_the_first_trial_runs_the_defaults(tmp_path: Path) -> None:
    search = searcher(tmp_path, Ledger(tmp_path / "l.json", "max"))
    assert search.suggest("a") == {"trial": 0, "key": search.ledger.trials[0].key, "params": DEFAULTS}
    assert told(tmp_path)[0].params == DEFAULTS


def test_defaults_outside_the_space_are_run_but_teach_the_sampler_nothing(tmp_path: Path) -> None:
    outside = {**DEFAULTS, "batch_size": 64}
    storage = open_storage(str(tmp_path / "journal"))
    ledger = Ledger(tmp_path / "l.json", "max")
    search = StudySearch(SPACE, ledger, storage=storage, first_points=[outside], num_trials=9, seed=0)
    assert search.suggest("a") == {"trial": 0, "key": ledger.trials[0].key, "params": outside}
    search.on_trial_complete("a", {"epoch": 1, "value": 0.9, "best_value": 0.9, "final": True})
    assert [(t.state.name, t.params) for t in told(tmp_path)] == [("FAIL", {})]


def test_searches_with_seeds_that_follow_each_other_propose_other_trials(tmp_path: Path) -> None:
    rates = list[float]()
    for seed in (0, 1, 2):
        (tmp_path / str(seed)).mkdir()
        search = searcher(tmp_path / str(seed), Ledger(tmp_path / f"{seed}/l.json", "max"), seed)
        for number in range(4):
            config = search.suggest(str(number))
            assert isinstance(config, dict)
            if number > 0:  # the defaults
                rates.append(config["params"]["learning_rate"])
    assert len(set(rates)) == 9


def test_a_resumed_search_gives_out_interrupted_trials_first_and_then_proposes_what_it_would_have(
    tmp_path: Path,
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    result = {"epoch": 1, "value": 0.3, "best_value": 0.3, "final": True}

    undisturbed = searcher(tmp_path / "whole", Ledger(tmp_path / "whole/l.json", "max"))
    expected = []
    for name in "abcd":
        expected.append(undisturbed.suggest(name))
        undisturbed.on_trial_complete(name, result)

    ledger = Ledger(tmp_path / "cut/l.json", "max")
    first = searcher(tmp_path / "cut", ledger)
    found = [first.suggest("a")]
    first.on_trial_complete("a", result)
    first.suggest("b")  # interrupted while running
    after = Ledger(ledger.path, "max")
    after.trials = {0: TrialRecord(0, DEFAULTS, "COMPLETE"), 1: TrialRecord(1, ledger.trials[1].params)}
    second = searcher(tmp_path / "cut", after)
    for name in "xyz":
        found.append(second.suggest(name))
        second.on_trial_complete(name, result)
    assert found == expected
    assert [t.state.name for t in told(tmp_path / "cut")] == ["COMPLETE"] * 4


def test_a_trial_that_has_reported_goes_on_in_the_folder_it_has(tmp_path: Path) -> None:
    """Also one of a search that began before folders had names of their own."""
    first = searcher(tmp_path, begun := Ledger(tmp_path / "l.json", "max"))
    first.suggest("a")
    begun.trials[0].mark, begun.trials[0].reports = "", [{"value": 0.5}]
    begun.save()
    given = searcher(tmp_path, Ledger.load(tmp_path / "l.json")).suggest("b")
    assert isinstance(given, dict)
    assert given["key"] == "0"
