"""Spaces of a few settings: none is run twice, and there are no more trials than settings."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pytest

from t5ray.config import SearchSpace
from t5ray.search.finite import most_trials, short_of
from t5ray.search.journal import open_storage
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.points import first_points
from t5ray.search.searcher import StudySearch
from t5ray.search.space import Params
from tests.search.test_points import prepared

SAMPLERS = ["tpe", "gp", "random"]
RATES, SIZES = [1e-4, 3e-4, 1e-3], [16, 32]
SMALL: dict[str, Any] = {"learning_rate": {"choice": RATES}, "batch_size": {"choice": SIZES}}
CONDITIONAL: dict[str, Any] = {
    "optimizer": {"choice": ["adamw", "sgd"]},
    "momentum": {"fixed": 0.9, "when": {"optimizer": "sgd"}},
    "batch_size": [
        {"int": [8, 10], "when": {"optimizer": "adamw"}},
        {"logint": [16, 17], "when": {"optimizer": "sgd"}},
    ],
}


def space(parameters: dict[str, Any], sampler: str = "tpe") -> SearchSpace:
    startup = {} if sampler == "random" else {"startup_trials": 2}
    return SearchSpace.model_validate({"parameters": parameters, "sampler": {"name": sampler, **startup}})


def drive(
    folder: Path, ledger: Ledger, found: SearchSpace, trials: int, first: Sequence[Params] = ()
) -> Iterator[dict[str, Any]]:
    """Let trials run to their end one by one; the larger a rate, the better, so that a sampler insists on it."""
    storage = open_storage(folder / "journal")
    search = StudySearch(found, ledger, storage=storage, first_points=first, num_trials=99, seed=0)
    for _ in range(trials):
        config = search.suggest("one")
        assert isinstance(config, dict)
        record, value = ledger.trials[config["trial"]], float(config["params"].get("learning_rate", 0))
        record.reports = [{"epoch": 1, "value": value, "best_epoch": 1, "best_value": value}]
        record.state = "COMPLETE"
        search.on_trial_complete("one", {**record.reports[0], "final": True})
        ledger.save()
        yield config["params"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_setting_is_run_once_also_by_a_search_that_was_cut_off(tmp_path: Path, sampler: str) -> None:
    found = space(SMALL, sampler)
    whole = list(drive(tmp_path, Ledger(tmp_path / "l.json"), found, 6))
    settings = sorted((params["learning_rate"], params["batch_size"]) for params in whole)
    assert settings == sorted(product(RATES, SIZES))
    (tmp_path / "cut").mkdir()
    ledger, proposed = Ledger(tmp_path / "cut/l.json"), list[dict[str, Any]]()
    for part in (3, 2, 1):
        proposed += drive(tmp_path / "cut", ledger, found, part)
        ledger = Ledger.load(ledger.path)
    assert proposed == whole
    told = optuna.load_study(study_name="t5ray", storage=open_storage(tmp_path / "cut/journal")).trials
    assert [(trial.params, trial.value) for trial in told] == [(params, params["learning_rate"]) for params in whole]


def test_conditions_hold_in_what_is_left(tmp_path: Path) -> None:
    found = list(drive(tmp_path, Ledger(tmp_path / "l.json"), space(CONDITIONAL), 5))
    assert sorted((p["optimizer"], p["batch_size"], p.get("momentum")) for p in found) == [
        *(("adamw", size, None) for size in (8, 9, 10)),
        *(("sgd", size, 0.9) for size in (16, 17)),
    ]


@pytest.mark.parametrize("kept_lines", range(8))
def test_a_kill_in_the_midst_of_a_proposal_changes_nothing(tmp_path: Path, kept_lines: int) -> None:
    """The journal ends after any of the lines that the last proposal writes, which is none of the sampler's."""
    found = space(SMALL)
    whole = list(drive(tmp_path, Ledger(tmp_path / "l.json"), found, 6))
    (tmp_path / "cut").mkdir()
    ledger, journal = Ledger(tmp_path / "cut/l.json"), tmp_path / "cut/journal"
    proposed = list(drive(tmp_path / "cut", ledger, found, 5))
    before = len(journal.read_bytes().splitlines())
    search = StudySearch(found, ledger, storage=open_storage(journal), first_points=[], num_trials=99, seed=0)
    search.suggest("killed")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: before + kept_lines]))
    ledger = Ledger(ledger.path, trials={number: record for number, record in ledger.trials.items() if number < 5})
    assert [*proposed, *drive(tmp_path / "cut", ledger, found, 1)] == whole


@pytest.mark.parametrize(
    ("parameters", "training", "most"),
    [
        (SMALL, {}, 6),  # the defaults, 3e-4 and 32, are one of them
        (SMALL, {"batch_size": 64}, 7),  # they are outside, and run besides
        (CONDITIONAL, {"batch_size": 9}, 5),
        ({"batch_size": {"fixed": 32}}, {}, 1),
        ({"dropout": {"uniform": [0, 0.1]}, "batch_size": {"choice": SIZES}}, {}, None),
        ({"warmup_steps": {"int": [0, 20_000]}}, {}, None),  # more than any search has trials
    ],
)
def test_there_are_no_more_trials_than_settings(
    tmp_path: Path, parameters: dict[str, Any], training: dict[str, Any], most: int | None
) -> None:
    found, ledger = space(parameters), Ledger(tmp_path / "l.json")
    there = prepared(tmp_path, "words", **training)
    assert most_trials(found, there, ledger) == most
    assert ledger.settle_target(20, most) == (most or 20)
    said = short_of(found, 20, ledger)
    assert said == ([] if most is None else [said[0]])
    assert not said or f"no 20 trials: the search space, with what runs first, has {most} different setting" in said[0]


def ended(*settings: tuple[float, int]) -> dict[int, TrialRecord]:
    return {
        number: TrialRecord(number, {"learning_rate": rate, "batch_size": size}, "COMPLETE")
        for number, (rate, size) in enumerate(settings)
    }


@pytest.mark.parametrize("sampler", [*SAMPLERS, "grid"])
def test_settings_that_the_time_budget_cut_off_run_again(tmp_path: Path, sampler: str) -> None:
    found = SearchSpace.model_validate({"parameters": SMALL, "sampler": {"name": sampler}})
    there, ledger = prepared(tmp_path, "words"), Ledger(tmp_path / "l.json")
    ledger.settle_target(20, most_trials(found, there, ledger))
    whole = list(drive(tmp_path, ledger, found, 6, first_points(found, there, ledger)))
    for number in (0, 3):
        ledger.trials[number].state = "PRUNED"
    ledger.trials[1].state, ledger.trials[1].stopped_epoch = "PRUNED", 1  # its scheduler stopped it: it has run
    assert not ledger.is_exhausted
    assert ledger.settle_target(20, most_trials(found, there, ledger)) == 8
    assert short_of(found, 20, ledger)[0].endswith("has 6 points" if sampler == "grid" else "has 6 different settings")
    again = list(drive(tmp_path, ledger, found, 2, first_points(found, there, ledger)))
    assert sorted(map(str, again)) == sorted(map(str, (whole[0], whole[3])))
    assert ledger.is_exhausted


def test_an_older_search_that_ran_some_twice_has_the_rest_left(tmp_path: Path) -> None:
    found, there, ledger = space(SMALL), prepared(tmp_path, "words"), Ledger(tmp_path / "l.json", target=6)
    ledger.trials = ended((3e-4, 32), (1e-3, 16), (1e-3, 16), (1e-3, 32), (1e-3, 16), (1e-4, 32))
    wanted = ledger.wanted(20, 5)
    assert wanted == 11
    assert ledger.settle_target(wanted, most_trials(found, there, ledger)) == 8  # (1e-4, 16) and (3e-4, 16) are left


def test_who_extends_by_more_than_is_left_hears_how_many_trials_that_would_be(tmp_path: Path) -> None:
    found, there, ledger = space(SMALL), prepared(tmp_path, "words"), Ledger(tmp_path / "l.json", target=4)
    ledger.trials = ended(*list(product(RATES, SIZES))[:4])
    for extend, said in ((2, []), (3, ["there are no 7 trials: the search space, with what runs first, has 6"])):
        wanted = ledger.wanted(20, extend)
        ledger.settle_target(wanted, most_trials(found, there, ledger))
        assert [line.removesuffix(" different settings") for line in short_of(found, wanted, ledger)] == said
        ledger.target = 4


class Stubborn(optuna.samplers.RandomSampler):  # type: ignore[misc]
    """Proposes the same whatever is known."""

    asked = 0

    def sample_relative(self, *given: Any) -> dict[str, Any]:
        self.asked += 1
        return {}

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        return distribution.choices[0]


def test_a_sampler_that_says_the_same_twice_is_not_asked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draw of GP fits its model."""
    sampler = Stubborn()
    monkeypatch.setattr(StudySearch, "_sampler", lambda search, number: sampler)
    proposals = drive(tmp_path, Ledger(tmp_path / "l.json"), space(SMALL, "gp"), 2)
    first = next(proposals)
    assert (first["learning_rate"], first["batch_size"]) == (RATES[0], SIZES[0])
    sampler.asked = 0
    assert next(proposals) != first
    assert sampler.asked == 2
