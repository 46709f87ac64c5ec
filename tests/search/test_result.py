"""search.json holds no secret that an address was given with."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from t5ray.config import RunConfig
from t5ray.search.ledger import Ledger
from t5ray.search.result import summary
from t5ray.training.prepare import Prepared


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
