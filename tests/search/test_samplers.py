"""Every sampler over a space with choices and conditions: it proposes within the space, and goes on where it was."""

import itertools
import math
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest

from t5ray.config import SearchSpace
from t5ray.search.journal import open_storage
from t5ray.search.ledger import Ledger
from t5ray.search.samplers import build_sampler, drawn_at_random, notes
from t5ray.search.searcher import StudySearch
from t5ray.search.space import Params, grid, suggest

PARAMETERS: dict[str, Any] = {
    "optimizer": {"choice": ["adamw", "adafactor"]},
    "learning_rate": [
        {"loguniform": [1e-5, 1e-3], "when": {"optimizer": "adamw"}, "points": 2},
        {"loguniform": [1e-3, 1e-1], "when": {"optimizer": "adafactor"}, "points": 3},
    ],
    "dropout": {"uniform": [0.0, 0.2], "points": 2},
    "weight_decay": {"uniform": [0.0, 0.1], "points": 2},
}
FLAT = {name: ranges for name, ranges in PARAMETERS.items() if name in ("dropout", "weight_decay")}
FIRST: Params = {"optimizer": "adamw", "learning_rate": 3e-4, "dropout": 0.1, "weight_decay": 0.01}


def space(sampler: dict[str, Any], parameters: dict[str, Any] | None = None) -> SearchSpace:
    return SearchSpace.model_validate({"parameters": parameters or PARAMETERS, "sampler": sampler})


def value_of(params: Params) -> float:
    """An objective whose best is at dropout 0.05 and weight decay 0.02."""
    return 1 - abs(float(params["dropout"]) - 0.05) - abs(float(params["weight_decay"]) - 0.02)


def open_search(folder: Path, ledger: Ledger, found: SearchSpace, num_trials: int = 12) -> StudySearch:
    return StudySearch(
        found,
        ledger,
        storage=open_storage(folder / "journal"),
        first_points=[FIRST],
        num_trials=num_trials,
        seed=0,
    )


def drive(search: StudySearch, trials: int) -> list[Params]:
    """Let trials run to their end one by one."""
    found = []
    for _ in range(trials):
        name = f"tune-{len(search.ledger.trials)}"
        config = search.suggest(name)
        assert isinstance(config, dict)
        record, value = search.ledger.trials[config["trial"]], value_of(config["params"])
        record.reports = [{"epoch": 1, "value": value, "best_epoch": 1, "best_value": value}]
        record.state = "COMPLETE"
        search.on_trial_complete(name, {**record.reports[0], "final": True})
        search.ledger.save()
        found.append(config["params"])
    return found


SAMPLERS = [{"name": name} for name in ("tpe", "gp", "cmaes", "random")]


@pytest.mark.parametrize("parameters", [PARAMETERS, FLAT], ids=["conditional", "flat"])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler["name"])
def test_a_resumed_search_proposes_what_it_would_have(
    tmp_path: Path, sampler: dict[str, Any], parameters: dict[str, Any]
) -> None:
    found = space(sampler, parameters)
    expected = drive(open_search(tmp_path, Ledger(tmp_path / "l.json"), found), 10)
    (tmp_path / "cut").mkdir()
    ledger, proposed = Ledger(tmp_path / "cut/l.json"), []
    for part in (3, 4, 3):
        proposed += drive(open_search(tmp_path / "cut", ledger, found), part)
        ledger = Ledger.load(ledger.path)
    assert proposed == expected
    assert len({str(params) for params in proposed}) == 10
    for params in proposed[1:]:
        low, high = (1e-5, 1e-3) if params.get("optimizer", "adamw") == "adamw" else (1e-3, 1e-1)
        assert low <= params.get("learning_rate", low) <= high
        assert 0 <= params["dropout"] <= 0.2


@pytest.mark.parametrize("kept_lines", range(2, 9))
@pytest.mark.parametrize("sampler", SAMPLERS[:1] + SAMPLERS[2:], ids=lambda sampler: sampler["name"])
def test_a_kill_in_the_midst_of_a_proposal_changes_nothing(
    tmp_path: Path, sampler: dict[str, Any], kept_lines: int
) -> None:
    """The journal ends after any of the lines that a proposal writes, and in the midst of the next."""
    found = space(sampler)
    expected = drive(open_search(tmp_path, Ledger(tmp_path / "l.json"), found), 8)
    (tmp_path / "cut").mkdir()
    ledger = Ledger(tmp_path / "cut/l.json")
    search = open_search(tmp_path / "cut", ledger, found)
    proposed = drive(search, 6)
    journal = tmp_path / "cut/journal"
    before = len(journal.read_bytes().splitlines())
    search.suggest("killed")
    lines = journal.read_bytes().splitlines(keepends=True)
    cut = min(before + kept_lines - 2, len(lines))
    journal.write_bytes(b"".join(lines[:cut]) + (lines[cut][:7] if cut < len(lines) else b""))
    ledger = Ledger(ledger.path, trials={n: r for n, r in ledger.trials.items() if n < 6})
    proposed += drive(open_search(tmp_path / "cut", ledger, found), 2)
    assert proposed == expected
    study = optuna.load_study(study_name="t5ray", storage=open_storage(journal))
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 8


def test_an_end_that_was_noted_but_not_told_is_told_on_resume(tmp_path: Path) -> None:
    found = space({"name": "tpe"})
    ledger = Ledger(tmp_path / "l.json")
    search = open_search(tmp_path, ledger, found)
    drive(search, 1)
    search.suggest("killed")
    record = ledger.trials[1]
    record.state, record.reason = "FAIL", "the loss is nan"
    record.reports = [{"epoch": 1, "value": 0.4, "best_epoch": 1, "best_value": 0.4}]
    open_search(tmp_path, ledger, found)
    told = optuna.load_study(study_name="t5ray", storage=open_storage(tmp_path / "journal")).trials[1]
    assert (told.state.name, told.intermediate_values, told.user_attrs["cause"]) == (
        "FAIL",
        {1: 0.4},
        "the loss is nan",
    )


def test_a_grid_holds_every_combination_once_and_its_conditions() -> None:
    found = space({"name": "grid"})
    points = grid(found, seed=0)
    # adamw with 2 learning rates, adafactor with 3, each with 2 dropouts and 2 weight decays
    assert len(points) == (2 + 3) * 2 * 2 == len({str(sorted(point.items())) for point in points})
    rates = sorted({point["learning_rate"] for point in points if point["optimizer"] == "adafactor"})
    assert rates == pytest.approx([1e-3, 1e-2, 1e-1])
    assert points != grid(found, seed=1)
    whole = SearchSpace.model_validate({"parameters": {"batch_size": {"int": [2, 4]}}, "sampler": {"name": "grid"}})
    assert sorted(point["batch_size"] for point in grid(whole, 0)) == [2, 3, 4]
    logarithmic = {"parameters": {"batch_size": {"logint": [1, 64], "points": 4}}, "sampler": {"name": "grid"}}
    assert sorted(p["batch_size"] for p in grid(SearchSpace.model_validate(logarithmic), 0)) == [1, 4, 16, 64]


def test_a_search_over_enough_trials_says_it_is_over(tmp_path: Path) -> None:
    search = open_search(tmp_path, Ledger(tmp_path / "l.json"), space({"name": "random"}), num_trials=2)
    drive(search, 2)
    assert search.suggest("more") == "FINISHED"


def test_what_a_sampler_cannot_learn_is_said() -> None:
    assert drawn_at_random(space({"name": "tpe"})) == []
    assert drawn_at_random(space({"name": "gp"})) == ["learning_rate"]
    assert notes(space({"name": "cmaes"})) == [
        "sampler cmaes learns nothing about parameters under a `when:` and choices: optimizer, learning_rate are drawn "
        "at random. Use tpe to learn about all of them."
    ]
    assert notes(space({"name": "cmaes"}, FLAT)) == []


def proposal(sampler: optuna.samplers.BaseSampler) -> str:
    """What a sampler proposes, four times, after twelve trials that have ended, while six run."""
    found = space({"name": "tpe"}, FLAT)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(18):
        trial = study.ask()
        params = suggest(trial, found)
        if number < 12:
            study.tell(trial, value_of(params))
    study.sampler = sampler
    return str([suggest(study.ask(), found) for _ in range(4)])


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_tpe_is_optunas_with_the_flags_of_the_file() -> None:
    proposals = {}
    for multivariate, liar in itertools.product((True, False), repeat=2):
        config = {"name": "tpe", "startup_trials": 5, "multivariate": multivariate, "constant_liar": liar}
        found = space(config, FLAT)
        expected = optuna.samplers.TPESampler(seed=3, n_startup_trials=5, multivariate=multivariate, constant_liar=liar)
        proposals[multivariate, liar] = proposal(build_sampler(found.sampler, found, 3))
        assert proposals[multivariate, liar] == proposal(expected)
    assert len(set(proposals.values())) == 4  # each flag is seen in what is proposed
    plain = space({"name": "tpe", "startup_trials": 5}, FLAT)
    assert proposal(build_sampler(plain.sampler, plain, 3)) == proposals[True, True]  # both are on by default


@pytest.mark.parametrize("sampler", [{"name": "gp"}, {"name": "cmaes"}, {"name": "tpe"}], ids=lambda s: s["name"])
def test_a_sampler_learns(tmp_path: Path, sampler: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        params = drive(open_search(tmp_path, Ledger(tmp_path / "l.json"), space(sampler, FLAT), 24), 24)
    late = [value_of(p) for p in params[-6:]]
    # a point drawn at random is 0.0625 + 0.034 away on average: 0.90
    assert math.fsum(late) / len(late) > 0.93
