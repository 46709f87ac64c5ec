"""What runs before the sampler proposes, and what of an earlier search counts."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest

from t5ray.config import RunConfig, SearchSpace
from t5ray.errors import ConfigError
from t5ray.search.journal import open_storage
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.points import differences, earlier_trials, first_points, look_up_warm_start
from t5ray.search.searcher import StudySearch
from t5ray.sessions import search_identity
from t5ray.text.tasks import resolve_task
from t5ray.training.outcome import identity_of
from t5ray.training.prepare import Prepared

DEFAULTS = {"learning_rate": 3e-4, "batch_size": 32}


def space(high: float = 1e-2, **more: Any) -> SearchSpace:
    ranges = {"learning_rate": {"loguniform": [1e-5, high]}, "batch_size": {"choice": [16, 32]}}
    return SearchSpace.model_validate({"parameters": ranges, **more})


def prepared(
    storage: Path,
    name: str,
    *,
    warm_start: str | None = None,
    data: str = "words",
    files: str = "5f2a",
    longest: int = 16,
    task: str = "answer",
    decode: Mapping[str, Any] | None = None,
    back_translation: Mapping[str, Any] | None = None,
    **training: Any,
) -> Prepared:
    """What these functions look at."""
    given = {"storage": str(storage), "name": name, "model": "tiny", "search": {"warm_start": warm_start}}
    groups = {"training": training, "decode": decode or {}, "back_translation": back_translation or {}}
    config = RunConfig.model_validate({**given, **groups})
    found = SimpleNamespace(
        config=config,
        objective="exact_match",
        mode="max",
        model_files=files,
        task=resolve_task(task),
        splits=SimpleNamespace(fingerprint=data),
        data=SimpleNamespace(max_input_tokens=longest, max_target_tokens=8),
        decode=config.decode,
    )
    return cast(Prepared, found)


def open_search(folder: Path, ledger: Ledger, wanted: SearchSpace, earlier: Any = (), points: Any = ()) -> StudySearch:
    storage = open_storage(folder / "state/optuna.journal")
    first = [DEFAULTS, *points]
    return StudySearch(wanted, ledger, storage=storage, first_points=first, num_trials=9, seed=0, history=earlier)


ENDS = [("COMPLETE", [0.3, 0.5]), ("COMPLETE", [0.9, 0.8]), ("PRUNED", [0.1]), ("FAIL", []), ("COMPLETE", [0.6, 0.7])]
"""How the trials of the earlier search ended. From the best: 1, 4, 0, 2; trial 3 has no value."""


@pytest.fixture
def earlier(tmp_path: Path) -> Ledger:
    """A search called `before` in the same storage."""
    folder = tmp_path / "before"
    (folder / "state").mkdir(parents=True)
    ledger = Ledger(folder / "state/ledger.json")
    there = prepared(tmp_path, "before")
    ledger.identity = {**identity_of(there), "search space": space().model_dump_json()}
    search = open_search(folder, ledger, space())
    for number, (state, values) in enumerate(ENDS):
        search.suggest(str(number))
        record, best = ledger.trials[number], max(values, default=None)
        reports: list[dict[str, Any]] = [
            {"epoch": e, "value": v, "best_value": best, "best_epoch": 1} for e, v in enumerate(values, start=1)
        ]
        record.reports, record.state = reports, state  # type: ignore[assignment]
        for report in reports[:-1]:
            search.on_trial_result(str(number), report)
        last = {**reports[-1], "final": state == "COMPLETE"} if reports else {"failure": "the loss is nan"}
        search.on_trial_complete(str(number), last)
    ledger.save()
    return ledger


def test_the_best_points_run_right_after_the_defaults_and_the_files_points(tmp_path: Path, earlier: Ledger) -> None:
    here, wanted = prepared(tmp_path, "after", warm_start="before"), space(start_from=[{"batch_size": 16}])
    ledger = Ledger(tmp_path / "ledger.json")
    (said,) = look_up_warm_start(ledger, here, wanted)
    assert said == "warm start   3 best points of before within this space, and all its trials' history"
    best = [earlier.trials[number].params for number in (1, 4, 2)]  # trial 0's run as the defaults
    assert ledger.warm_points == best
    assert first_points(wanted, here, ledger)[:2] == [DEFAULTS, {**DEFAULTS, "batch_size": 16}]
    assert first_points(wanted, here, ledger)[2:] == best


REPEATED = [
    {"batch_size": "16"},
    {"batch_size": 16},
    {"learning_rate": 0.5},
    {"batch_size": 32},
    {"learning_rate": 0.5},
]
"""A point, itself, one outside the space, the defaults, and the one outside."""
HALF = {**DEFAULTS, "batch_size": 16}
OUTSIDE = {**DEFAULTS, "learning_rate": 0.5}


def test_points_that_equal_others_run_once(tmp_path: Path) -> None:
    here, ledger = prepared(tmp_path, "a"), Ledger(tmp_path / "l.json")
    assert first_points(space(start_from=REPEATED), here, ledger) == [DEFAULTS, HALF, OUTSIDE]


def test_points_that_differ_only_where_no_condition_holds_run_once(tmp_path: Path) -> None:
    ranges = {
        "optimizer": {"choice": ["adamw", "sgd"]},
        "momentum": {"uniform": [0.1, 0.95], "when": {"optimizer": "sgd"}},
    }
    starts = [{"momentum": 0.5}, {"momentum": 0.5, "optimizer": "sgd"}]
    wanted = SearchSpace.model_validate({"parameters": ranges, "start_from": starts})
    found = first_points(wanted, prepared(tmp_path, "a"), Ledger(tmp_path / "l.json"))
    assert found == [{"optimizer": "adamw", "momentum": 0.9}, {"optimizer": "sgd", "momentum": 0.5}]


FIXED: dict[str, Any] = {
    "learning_rate": {"loguniform": [1e-5, 1e-2]},
    "label_smoothing": {"fixed": 0.1},
    "dropout": {"choice": [0.0]},
}


def test_what_a_point_leaves_out_takes_the_one_value_there_is(tmp_path: Path) -> None:
    starts = [{"learning_rate": 0.005}, {"learning_rate": 0.001, "dropout": 0.2}]
    wanted = SearchSpace.model_validate({"parameters": FIXED, "start_from": starts})
    assert first_points(wanted, prepared(tmp_path, "a"), Ledger(tmp_path / "l.json")) == [
        {"learning_rate": 3e-4, "label_smoothing": 0.0, "dropout": 0.1},  # the defaults, as they are
        {"learning_rate": 0.005, "label_smoothing": 0.1, "dropout": 0.0},
        {"learning_rate": 0.001, "label_smoothing": 0.1, "dropout": 0.2},  # what it names stays
    ]


def test_the_best_points_take_what_a_new_space_fixes(tmp_path: Path, earlier: Ledger) -> None:
    wanted = SearchSpace.model_validate({"parameters": FIXED})
    here, ledger = prepared(tmp_path, "after", warm_start="before"), Ledger(tmp_path / "ledger.json")
    (said,) = look_up_warm_start(ledger, here, wanted)
    assert "3 best points of before within this space" in said
    rates = [earlier.trials[number].params["learning_rate"] for number in (1, 4, 0)]  # the defaults are outside now
    assert ledger.warm_points == [{"learning_rate": rate, "label_smoothing": 0.1, "dropout": 0.0} for rate in rates]


def test_a_grid_has_each_combination_once(tmp_path: Path) -> None:
    ranges = {"batch_size": {"choice": [32, 16]}, "dropout": {"choice": [0.0, 0.1]}}
    starts = [{"batch_size": 16}, {"batch_size": 32}, {"batch_size": 16}]
    given = {"parameters": ranges, "start_from": starts, "sampler": {"name": "grid"}}
    wanted, here, ledger = SearchSpace.model_validate(given), prepared(tmp_path, "a"), Ledger(tmp_path / "l.json")
    found = [(p["batch_size"], p["dropout"]) for p in first_points(wanted, here, ledger)]
    assert found[:2] == [(32, 0.1), (16, 0.1)]
    assert sorted(found) == [(16, 0.0), (16, 0.1), (32, 0.0), (32, 0.1)]


@pytest.mark.parametrize(
    ("begun", "to_come"),
    [
        ([DEFAULTS], [HALF, OUTSIDE]),
        ([DEFAULTS, HALF, HALF], [OUTSIDE]),  # of a search that ran such points twice
        ([DEFAULTS, HALF, HALF, OUTSIDE], []),
        ([DEFAULTS, HALF, OUTSIDE, {"learning_rate": 1e-4, "batch_size": 16}], []),
    ],
)
def test_a_search_that_goes_on_keeps_its_numbers_and_runs_what_has_not_run(
    tmp_path: Path, begun: list[dict[str, Any]], to_come: list[dict[str, Any]]
) -> None:
    ledger = Ledger(tmp_path / "l.json")
    ledger.trials = {number: TrialRecord(number, params) for number, params in enumerate(begun)}
    ledger.save()
    found = first_points(space(start_from=REPEATED), prepared(tmp_path, "a"), Ledger.load(ledger.path))
    assert found == [*begun, *to_come]


def test_points_outside_the_new_space_are_left_out_and_parameters_it_lacks_too(tmp_path: Path, earlier: Ledger) -> None:
    rates = sorted(record.params["learning_rate"] for record in earlier.trials.values())
    narrow = space(high=rates[2])
    ledger = Ledger(tmp_path / "ledger.json")
    (said,) = look_up_warm_start(ledger, prepared(tmp_path, "after", warm_start="before"), narrow)
    assert "not its history: search space differ" in said
    fitting = [n for n in (1, 4, 2) if earlier.trials[n].params["learning_rate"] <= rates[2]]
    assert ledger.warm_points == [earlier.trials[number].params for number in fitting][:3]

    only_rate = SearchSpace.model_validate({"parameters": {"learning_rate": {"loguniform": [1e-5, 1e-2]}}})
    look_up_warm_start(found := Ledger(tmp_path / "l.json"), prepared(tmp_path, "b", warm_start="before"), only_rate)
    assert found.warm_points == [{"learning_rate": earlier.trials[n].params["learning_rate"]} for n in (1, 4, 2)]


def test_the_sampler_learns_from_every_trial_that_has_a_value(tmp_path: Path, earlier: Ledger) -> None:
    here = prepared(tmp_path, "after", warm_start="before")
    (tmp_path / "after/state").mkdir(parents=True)
    history = earlier_trials(Ledger(tmp_path / "x.json"), here, space())
    told = [(t.state.name, t.value, t.intermediate_values, t.params) for t in history]
    assert told == [
        (
            state,
            max(values) if state == "COMPLETE" else values[-1],
            dict(enumerate(values, 1)),
            earlier.trials[n].params,
        )
        for n, (state, values) in enumerate(ENDS)
        if state != "FAIL"
    ]

    ledger = Ledger(tmp_path / "after/state/ledger.json")
    search = open_search(tmp_path / "after", ledger, space(), history)
    config = search.suggest("a")
    assert isinstance(config, dict)
    assert (config["trial"], config["params"]) == (0, DEFAULTS)  # our numbers begin at 0, whatever the study holds
    search.on_trial_complete("a", {"epoch": 1, "value": 0.4, "best_value": 0.4, "final": True})
    ledger.trials[0].state = "COMPLETE"
    ledger.save()
    again = open_search(tmp_path / "after", Ledger.load(ledger.path), space())  # --resume needs the earlier one no more
    config = again.suggest("b")
    assert isinstance(config, dict)
    assert config["trial"] == 1
    study = optuna.load_study(study_name="t5ray", storage=open_storage(tmp_path / "after/state/optuna.journal"))
    assert [t.value for t in study.trials] == [0.5, 0.9, 0.1, 0.7, 0.4, None]


@pytest.mark.parametrize("what", ["data", "search space"])
def test_the_history_of_another_problem_is_not_learned_from(tmp_path: Path, earlier: Ledger, what: str) -> None:
    here = prepared(tmp_path, "after", warm_start="before", data="others" if what == "data" else "words")
    wanted = space(high=1e-3 if what == "search space" else 1e-2)
    assert earlier_trials(Ledger(tmp_path / "x.json"), here, wanted) == ()
    (said,) = look_up_warm_start(Ledger(tmp_path / "x.json"), here, wanted)
    assert f"not its history: {what} differ" in said


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"decode": {"answers": ["yes", "no"]}}, "decode settings"),
        ({"decode": {"num_beams": 4}}, "decode settings"),
        ({"back_translation": {"forward": "google/flan-t5-small"}}, "back translation"),
        ({"files": "77c0"}, "model files"),
        ({"longest": 8}, "lengths"),
        ({"task": "summarize"}, "task"),
    ],
)
def test_the_history_of_a_search_that_is_not_comparable_is_not_learned_from(
    tmp_path: Path, earlier: Ledger, other: dict[str, Any], what: str
) -> None:
    here = prepared(tmp_path, "after", warm_start="before", **other)
    assert earlier_trials(Ledger(tmp_path / "x.json"), here, space()) == ()
    (said,) = look_up_warm_start(Ledger(tmp_path / "x.json"), here, space())
    assert said.endswith(f"not its history: {what} differ")


@pytest.mark.parametrize(
    ("parameters", "given"),
    [
        ({"preset": {"choice": ["t5-adamw", "t5-adafactor"]}}, {"learning_rate": 3e-4}),  # which is the default
        (
            {"lora_rank": {"choice": [0, 8]}, "dropout": {"uniform": [0, 0.3], "when": {"lora_rank": 8}}},
            {"dropout": 0.2},
        ),
    ],
)
def test_nor_is_one_whose_trials_had_other_settings_beside_the_same_values(
    tmp_path: Path, earlier: Ledger, parameters: dict[str, Any], given: dict[str, Any]
) -> None:
    wanted = SearchSpace.model_validate({"parameters": parameters})
    there = prepared(tmp_path, "before")
    earlier.identity = {**identity_of(there), **search_identity(wanted, there.config)}
    here = partial(prepared, tmp_path, "after", warm_start="before")
    assert differences(earlier, here(), wanted) == []
    assert differences(earlier, here(**given), wanted) != []


@pytest.mark.parametrize(
    ("training", "learns"),
    [
        ({"max_epochs": 9}, False),
        ({"validation_rows": 7}, False),
        ({"dropout": 0.3}, False),
        ({"learning_rate": 1e-5}, True),  # it is searched
        ({"seed": 3, "micro_batch_tokens": 64, "log_every_steps": 1}, True),
    ],
)
def test_values_of_other_training_are_not_learned_from(
    tmp_path: Path, earlier: Ledger, training: dict[str, Any], learns: bool
) -> None:
    here = prepared(tmp_path, "after", warm_start="before", **training)
    (said,) = look_up_warm_start(Ledger(tmp_path / "x.json"), here, space())
    assert ("not its history: training settings differ" in said) != learns
    assert bool(earlier_trials(Ledger(tmp_path / "x.json"), here, space())) == learns


def test_what_an_older_search_did_not_write_down_is_said_to_be_unknown(tmp_path: Path, earlier: Ledger) -> None:
    for part in ("model files", "task", "lengths"):
        earlier.identity.pop(part)
    earlier.save()
    here = partial(prepared, tmp_path, "after", warm_start="before")
    (said,) = look_up_warm_start(Ledger(tmp_path / "x.json"), here(), space())
    assert said.endswith(", not its history: not known of it: model files, task, lengths")
    (said,) = look_up_warm_start(Ledger(tmp_path / "x.json"), here(data="others"), space())
    assert said.endswith(", not its history: data differ; not known of it: model files, task, lengths")


def test_the_earlier_search_is_looked_up_once(tmp_path: Path, earlier: Ledger) -> None:
    """What it becomes later must not change the search that began from it."""
    here, ledger = prepared(tmp_path, "after", warm_start="before"), Ledger(tmp_path / "ledger.json")
    look_up_warm_start(ledger, here, space())
    ledger.save()
    earlier.path.unlink()
    resumed = Ledger.load(ledger.path)
    assert look_up_warm_start(resumed, here, space()) == []
    assert first_points(space(), here, resumed)[1:] == ledger.warm_points


def test_a_search_that_cannot_be_started_from_is_named(tmp_path: Path) -> None:
    here = prepared(tmp_path, "after", warm_start="nowhere")
    with pytest.raises(ConfigError, match=r"--warm-start: must name a search in .* but 'nowhere' does not exist"):
        look_up_warm_start(Ledger(tmp_path / "l.json"), here, space())
    (tmp_path / "empty/state").mkdir(parents=True)
    empty = Ledger(tmp_path / "empty/state/ledger.json")
    empty.trials = {0: TrialRecord(0, {}, "FAIL")}
    empty.save()
    with pytest.raises(ConfigError, match="'empty' has none"):
        look_up_warm_start(Ledger(tmp_path / "l.json"), prepared(tmp_path, "x", warm_start="empty"), space())
