"""What search.json and report.html hold: no secret that an address was given with, and no error of an estimate."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from t5ray.config import RunConfig
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.result import summary, write_summary
from t5ray.training.prepare import Prepared
from tests.search.events import epoch


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
