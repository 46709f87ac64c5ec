"""Nothing that a trial is handed holds a test row, so no search can be on the test split."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray import cloudpickle

from t5ray.config import RunConfig
from t5ray.errors import ConfigError
from t5ray.model.loading import load_tokenizer
from t5ray.search.study import trial_spec
from t5ray.search.workspace import Workspace
from t5ray.training.prepare import Prepared, prepare

PLANTED = {"train": "jackal", "validation": "quokka", "test": "wombat"}
"""Text of one row of each split; its label holds it, too."""


def planted(folder: Path, model: Path) -> Prepared:
    rows = [{"text": f"{split} {n}", "label": "common", "split": split} for n in range(8) for split in PLANTED]
    rows += [{"text": word, "label": f"label of {word}", "split": split} for split, word in PLANTED.items()]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text(
        "name: plain\ninputs: 'say: {text}'\ntargets: '{label}'\nmetrics: [exact_match]\n"
    )
    settings: dict[str, Any] = {"model": str(model), "task": str(folder / "task.yaml"), "storage": str(folder)}
    settings |= {"data": {"path": str(folder / "rows.jsonl")}, "training": {"augment_swap_rate": 0.1}, "name": "words"}
    return prepare(RunConfig.model_validate(settings), folder / "cache")


def test_no_trial_is_handed_a_test_row(tmp_path: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, put = planted(tmp_path, tiny_t5), list[object]()
    monkeypatch.setattr(ray, "put", put.append)
    spec = trial_spec(found, Workspace.of(found.config), str(tmp_path))
    handed = cloudpickle.dumps((spec, [spec.plan_for("0-seed3", {}, seed=3)], put))
    assert len(put) == 2  # tokens, and texts to augment
    tokenizer = load_tokenizer(str(tiny_t5))
    for split, word in PLANTED.items():
        texts = (f"say: {word}", f"label of {word}")
        tokens = [np.array(tokenizer(text).input_ids, np.int32).tobytes() for text in texts]
        seen = [ids in handed for ids in tokens]
        assert seen == [split != "test"] * 2, split
        assert (f"label of {word}".encode() in handed) == (split != "test"), split


def test_the_objective_is_never_of_the_test_split(tmp_path: Path, tiny_t5: Path) -> None:
    config = planted(tmp_path, tiny_t5).config
    for metric in ("test", "test_exact_match", "test_loss"):
        search = config.search.model_copy(update={"metric": metric})
        with pytest.raises(ConfigError, match="must be a metric of task plain"):
            prepare(config.model_copy(update={"search": search}), tmp_path / "cache")
