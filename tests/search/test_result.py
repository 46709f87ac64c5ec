"""What search.json and report.html hold: no secret that an address was given with, and no error of an estimate.

And the sentence that says what a search found.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from t5ray.config import RunConfig
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.result import outcome, summary, write_summary
from t5ray.training.prepare import Prepared
from tests.search.events import epoch

CONTENT = {
    "metric": "accuracy",
    "best": {"trial": 3, "value": 0.9, "epoch": 2},
    "default": {"value": 0.8},
    "confirm": None,
    "unconfirmed": None,
    "test": {"accuracy": 0.85},
}


def test_no_password_or_token_of_an_address_reaches_search_json(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "data": {"path": "https://me:pw-one@host/rows.csv?token=token-two"},
            "model": "https://me:pw-three@host/model",
            "search": {"space": "demo"},
        }
    )
    task = SimpleNamespace(name="words")
    prepared = cast(Prepared, SimpleNamespace(config=config, task=task, objective="exact_match", mode="max"))
    shown = str(summary(prepared, Ledger(tmp_path / "ledger.json"), None))
    assert "host/rows.csv" in shown
    assert not any(secret in shown for secret in ("pw-one", "token-two", "pw-three"))


def test_a_search_ends_whose_trees_have_nothing_to_part(tmp_path: Path) -> None:
    """epsilon's range is narrower than scikit-learn's trees tell apart, and nothing else differs."""
    space = tmp_path / "space.yaml"
    space.write_text(
        "parameters:\n  epsilon: {loguniform: [1.0e-10, 1.0e-8]}\n  optimizer: {choice: [adamw]}\n"
        "sampler: {name: random}\nscheduler: {name: none}\n"
    )
    config = RunConfig.model_validate({"data": {"path": "d"}, "model": "m", "search": {"space": str(space)}})
    prepared = cast(
        Prepared, SimpleNamespace(config=config, task=SimpleNamespace(name="words"), objective="accuracy", mode="max")
    )
    ledger = Ledger(tmp_path / "ledger.json")
    for number in range(12):
        params = {"epsilon": 10 ** -(8 + number / 6), "optimizer": "adamw"}
        ledger.trials[number] = TrialRecord(
            number, params, state="COMPLETE", reports=[epoch(1, number % 2 / 4, final=True)]
        )
    content = summary(prepared, ledger, {"accuracy": 0.25, "loss": 1.0})
    write_summary(tmp_path, content)
    assert json.loads((tmp_path / "search.json").read_text())["importances"] is None
    assert "Not known: fewer than two parameters differ between the trials." in (tmp_path / "report.html").read_text()


def test_without_confirmation_the_best_trial_is_named_with_its_epoch() -> None:
    assert outcome(CONTENT) == (
        "Best: trial 3, epoch 2, validation accuracy 0.9000 against 0.8000 with the default settings; on test 0.8500."
    )


@pytest.mark.parametrize(
    ("state", "said"),
    [("PRUNED", "which were stopped early"), ("FAIL", "which failed"), ("RUNNING", "which were cut off")],
)
def test_a_default_that_did_not_reach_the_end_is_told_as_such(state: str, said: str) -> None:
    assert f"against 0.8000 with the default settings, {said}; on test" in outcome(
        {**CONTENT, "default": {"value": 0.8, "state": state}}
    )


def test_a_confirmation_that_was_asked_for_and_not_made_is_said() -> None:
    assert outcome({**CONTENT, "unconfirmed": "the time was up"}).endswith(" Nothing was confirmed: the time was up.")


def test_a_winner_is_named_with_its_interval_and_its_ties() -> None:
    candidates = [
        {"trial": 3, "values": [0.9, 0.88], "mean": 0.89, "interval": [0.86, 0.92]},
        {"trial": 0, "values": [0.8, 0.82], "mean": 0.81, "interval": [0.77, 0.85]},
    ]
    confirm = {"seeds": [1, 2], "rows": 100, "candidates": candidates, "winner": 3, "tie_with": [5]}
    assert outcome({**CONTENT, "confirm": confirm}) == (
        "Winner: trial 3, validation accuracy 0.8900 (0.8600 to 0.9200) over 2 fresh seeds against 0.8100 "
        "(0.7700 to 0.8500) with the default settings; a tie with trial 5; on test 0.8500. "
        "Two seeds say little of how much seeds differ: the intervals are widened for that, and rough still."
    )
    confirm["seeds"] = [1, 2, 3]
    loss = outcome(
        {**CONTENT, "metric": "validation_loss", "test": {"accuracy": 0.5, "loss": 0.25}, "confirm": confirm}
    )
    assert "validation loss 0.8900" in loss
    assert "; on test 0.2500." in loss
    several = outcome({**CONTENT, "confirm": {**confirm, "tie_with": [7, 5, 0]}})
    assert "; a tie with trials 0, 5 and 7; on test" in several
    failed = outcome(
        {**CONTENT, "confirm": {**confirm, "failed": [{"trial": 2, "seed": 7, "reason": "the loss is nan"}]}}
    )
    assert failed.endswith("on test 0.8500. Out of the comparison: trial 2 failed on seed 7: the loss is nan.")
    same = outcome({**CONTENT, "confirm": {**confirm, "only_prediction": "odd"}})
    assert same.endswith(
        "0.8500. Every one of the 100 validation rows was given 'odd': the metrics tell of that label's share alone."
    )
    one = outcome({**CONTENT, "confirm": {**confirm, "seeds": [1]}})
    assert one.endswith(
        "on test 0.8500. One seed says nothing of how much seeds differ: the intervals are of the rows alone."
    )
