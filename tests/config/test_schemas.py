"""The schemas by which editors check run files and search spaces, judged by jsonschema on files as users write them."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError

from t5ray.config import RunConfig, SearchSpace, parse_yaml, shipped_spaces

FOLDER = Path(__file__).parents[2] / "search_spaces/schema"
MODELS: dict[str, type[BaseModel]] = {"space.json": SearchSpace, "run.json": RunConfig}
SPACE = """
parameters:
  optimizer: {choice: [adamw, adafactor]}
  learning_rate:
    - {loguniform: [1.0e-5, 1.0e-3], when: {optimizer: adamw}, points: 3}
    - {loguniform: [1.0e-3, 1.0e-1], when: {optimizer: [adafactor]}}
  batch_size: {logint: [8, 64]}
  warmup_steps: {int: [0, 100]}
  dropout: {uniform: [0.0, 0.2]}
  label_smoothing: {fixed: 0.1}
  max_grad_norm: {choice: [null, 1.0]}
  early_stopping_patience: {fixed: null}
start_from:
  - {learning_rate: 3.0e-4}
sampler: {name: tpe, startup_trials: 8, multivariate: true, constant_liar: false}
scheduler: {name: asha, grace_epochs: 1, reduction_factor: 3, brackets: 2}
"""
RUN = """
name: topics
data: {path: rows.csv, split_seed: 1}
task: classify
model: google/flan-t5-small
search: {space: t5_small, num_trials: 20, time_budget_s: 2h, confirm_seeds: 0}
training: {max_epochs: 3, learning_rate: 1.0e-3, optimizer: adafactor}
resources: {gpus_per_worker: 0.5}
tracking: {uri: "sqlite:///mlflow.db"}
"""


def problems(name: str, content: Any) -> list[str]:
    """Return the places at which a file breaks its schema."""
    schema = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return [error.json_path for error in Draft202012Validator(schema).iter_errors(content)]


@pytest.mark.parametrize("path", shipped_spaces().values(), ids=lambda path: path.stem)
def test_shipped_spaces_are_fine(path: Path) -> None:
    assert problems("space.json", parse_yaml(path.read_text(encoding="utf-8"), str(path))) == []


@pytest.mark.parametrize(("name", "text"), [("space.json", SPACE), ("run.json", RUN)])
def test_a_good_file_is_fine(name: str, text: str) -> None:
    content = parse_yaml(text, name)
    MODELS[name].model_validate(content)
    assert problems(name, content) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "place"),
    [
        ("space.json", "{uniform: [0.0, 0.2]}", "{uniformly: [0.0, 0.2]}", "$.parameters.dropout"),
        ("space.json", "{uniform: [0.0, 0.2]}", "{uniform: [0.0, high]}", "$.parameters.dropout"),
        ("space.json", "{uniform: [0.0, 0.2]}", "{uniform: [0.0, 0.1, 0.2]}", "$.parameters.dropout"),
        ("space.json", "{fixed: 0.1}", "0.1", "$.parameters.label_smoothing"),
        ("space.json", "{fixed: 0.1}", "[]", "$.parameters.label_smoothing"),
        ("space.json", "when: {optimizer: adamw}", "when: adamw", "$.parameters.learning_rate"),
        ("space.json", "name: tpe", "name: tpee", "$.sampler.name"),
        ("space.json", "grace_epochs: 1", "grace_epochs: 0", "$.scheduler.grace_epochs"),
        ("space.json", "start_from:", "start_form:", "$"),
        ("run.json", "num_trials: 20", "num_trails: 20", "$.search"),
        ("run.json", "num_trials: 20", "num_trials: 0", "$.search.num_trials"),
        ("run.json", "2h", "2hours", "$.search.time_budget_s"),
        ("run.json", "adafactor", "adafaktor", "$.training.optimizer"),
        ("run.json", "max_epochs: 3", "max_epochs: three", "$.training.max_epochs"),
    ],
)
def test_what_is_wrong_is_found_at_its_place(name: str, old: str, new: str, place: str) -> None:
    text = {"space.json": SPACE, "run.json": RUN}[name]
    assert text.count(old) == 1
    content = parse_yaml(text.replace(old, new), name)
    with pytest.raises(ValidationError):
        MODELS[name].model_validate(content)
    assert problems(name, content) == [place]
