import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import t5ray.config
from t5ray.config import (
    DecodeConfig,
    EvaluateConfig,
    PredictConfig,
    RunConfig,
    SearchConfig,
    Settings,
    TrainingConfig,
)
from t5ray.training.place import Place

MODELS = [
    m for _, m in inspect.getmembers(t5ray.config, inspect.isclass) if issubclass(m, Settings) and m is not Settings
]


def test_a_location_may_begin_at_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    run = RunConfig.model_validate({"model": "~/t5", "storage": "~/runs", "data": {"path": "~/rows/*.csv"}})
    assert (run.model, run.storage, run.data.path) == ("/home/me/t5", "/home/me/runs", "/home/me/rows/*.csv")
    scoring = PredictConfig(model="google/t5~small", input="s3://b/~x", output="~/scored")
    assert (scoring.model, scoring.input, scoring.output) == ("google/t5~small", "s3://b/~x", "/home/me/scored")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5h", 5400), ("1d", 86400), (45, 45), ("45", 45)]
)
def test_time_budget_reads_units(text: object, seconds: float) -> None:
    assert SearchConfig.model_validate({"time_budget_s": text}).time_budget_s == seconds


@pytest.mark.parametrize("text", ["soon", "2 weeks", "1.2.3h", "-1h", 0, float("inf")])
def test_time_budget_must_be_a_positive_time(text: object) -> None:
    with pytest.raises(ValidationError, match="time_budget_s"):
        SearchConfig.model_validate({"time_budget_s": text})


@pytest.mark.parametrize(("given", "workers"), [("4", 4), (4, 4), ("2,8", (2, 8)), ("2, 2", (2, 2)), ([1, 3], (1, 3))])
def test_workers_are_a_number_or_the_fewest_and_the_most(given: object, workers: object) -> None:
    required = {"model": "m", "input": "i", "output": "o"}
    assert PredictConfig.model_validate({**required, "workers": given}).workers == workers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("many", "must be a number, such as 4, or the fewest and the most, such as 2,8, but got 'many'"),
        ("1,2,3", "must be a number, such as 4"),
        ("8,2", "the fewest must come before the most, but got 8,2"),
        (0, "greater than or equal to 1"),
        ("0,2", "greater than or equal to 1"),
    ],
)
def test_workers_that_make_no_pool_are_refused(given: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EvaluateConfig.model_validate({"output": "o", "workers": given})


@pytest.mark.parametrize("precision", ["fp16", "FP16", "float16", "half"])
@pytest.mark.parametrize(
    ("model", "required"),
    [
        (TrainingConfig, {}),
        (PredictConfig, {"model": "m", "input": "i", "output": "o"}),
        (EvaluateConfig, {"output": "o"}),
    ],
)
def test_fp16_is_refused_with_the_reason(model: type[Settings], required: dict[str, str], precision: str) -> None:
    with pytest.raises(ValidationError, match=r"T5's activations overflow in fp16.*Use bf16 or fp32"):
        model.model_validate({**required, "precision": precision})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("batch_size", 0),
        ("batch_size", 1.5),
        ("dropout", 1.0),
        ("weight_decay", -0.1),
        ("beta2", 1),
        ("warmup_share", 1.1),
        ("optimizer", "lbfgs"),
        ("schedule", "cyclic"),
        ("epsilon", float("inf")),
    ],
)
def test_training_refuses_what_cannot_train(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        TrainingConfig.model_validate({name: value})


@pytest.mark.parametrize("name", ["a/b", "a:b", "it's", "", "two words"])
def test_a_registered_name_must_be_one_that_a_models_uri_can_hold(name: str) -> None:
    with pytest.raises(ValidationError, match="register_as"):
        RunConfig(register_as=name)


def test_a_model_can_be_registered_only_where_mlflow_is() -> None:
    with pytest.raises(ValidationError, match=r"MLflow must be there to register a model, but tracking.uri is `none`"):
        RunConfig.model_validate({"register_as": "topics", "tracking": {"uri": "none"}})
    assert RunConfig(register_as="main.topics.t5-small_2").register_as == "main.topics.t5-small_2"


def test_infinite_numbers_are_refused_where_there_is_no_other_bound() -> None:
    with pytest.raises(ValidationError, match="finite number"):
        DecodeConfig(length_penalty=float("inf"))


def test_searchable_settings_leave_out_what_a_trial_must_not_change() -> None:
    names = TrainingConfig.searchable()
    assert {"learning_rate", "batch_size", "dropout", "weight_decay", "optimizer"} <= names
    assert not {"max_epochs", "validation_rows", "seed"} & names


def test_a_run_does_not_share_the_folder_of_the_token_cache() -> None:
    cache = Place.of(RunConfig(name="first", storage="runs")).cache
    with pytest.raises(ValidationError, match="must not be 'cache', the folder of the storage that holds the tokens"):
        RunConfig(name=cache.name)


@pytest.mark.parametrize("name", ["a/b", "", ".", ".."])
def test_run_name_must_be_one_folder(name: str) -> None:
    with pytest.raises(ValidationError, match="must be a plain folder name"):
        RunConfig(name=name)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_refuses_unknown_names(model: type[Settings]) -> None:
    with pytest.raises(ValidationError, match="no_such_setting\n  Extra inputs are not permitted"):
        model.model_validate({"no_such_setting": 1})


def test_the_schemas_for_editors_are_those_of_the_settings(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "scripts/make_schemas.py", str(tmp_path)], cwd=root, check=True)
    for name in ("run.json", "space.json"):
        kept = (root / "search_spaces" / "schema" / name).read_text(encoding="utf-8")
        assert kept == (tmp_path / name).read_text(encoding="utf-8"), "run python scripts/make_schemas.py"


def test_the_page_of_all_settings_is_that_of_the_settings(tmp_path: Path) -> None:
    root, written = Path(__file__).parents[2], tmp_path / "settings.md"
    subprocess.run([sys.executable, "scripts/make_settings_page.py", str(written)], cwd=root, check=True)
    kept = (root / "docs" / "settings.md").read_text(encoding="utf-8")
    assert kept == written.read_text(encoding="utf-8"), "run python scripts/make_settings_page.py"
    named = {line.split("`")[1] for line in kept.splitlines() if line.startswith("| `")}
    assert {
        "training.learning_rate",
        "decode.num_beams",
        "search.num_trials",
        "shard_rows",
        "bootstrap_samples",
    } <= named
    assert {"loguniform", "points", "when", "startup_trials", "sigma", "brackets", "min_trials"} <= named  # of spaces
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in kept.splitlines() if line.startswith("| `")]
    assert ["`search.time_budget_s`", "`--time-budget`"] in rows
    assert ["`data.columns`", "`--column`"] in rows
    assert ["`search.seed`", "`--seed`"] in rows
    assert ["`training.seed`", "`--seed`"] in rows
    assert ["`seed`", "`--seed`"] in rows  # of evaluate
    assert ["`data.split_seed`", ""] in rows


def test_the_page_of_all_settings_lists_what_presets_set() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    presets = page.partition("## Presets")[2].partition("\n## ")[0]
    assert "| setting | `t5-adamw` | `t5-adafactor` |" in presets
    assert "| `training.learning_rate` | `0.0003` | `0.001` |" in presets  # transformers' advice; the paper's constant
    assert "| `training.schedule` | `linear` | `constant` |" in presets
