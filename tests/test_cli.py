"""What a user types and reads: flags become settings, mistakes become one paragraph and an exit code."""

import inspect
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel
from rich.console import Console

from t5ray import cli, doctor, evaluate, options, predict, terminal, train, tune
from t5ray.config import EvaluateConfig, PredictConfig, RunConfig
from t5ray.demo import dates_data, dates_task, model_files
from t5ray.errors import DataError

HEAVY = ("torch", "ray", "mlflow", "transformers")
ENTRIES = {"tune": tune, "train": train, "predict": predict, "evaluate": evaluate, "doctor": doctor}
REVIEWS = Path(__file__).parent / "texts" / "reviews.csv"
Settings = Callable[..., RunConfig]


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a single flag do, whatever it names."""
    for check in ("source", "task", "space"):
        monkeypatch.setattr(f"t5ray.text.objectives.{check}_problems", lambda _: [])
    monkeypatch.setattr("t5ray.sessions.unnamed_problems", lambda *_: [])


@pytest.fixture
def settings_of(unchecked: None, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return a function that gives the settings of `tune`'s flags, without running it."""
    seen: list[RunConfig] = []

    def keep(settings: RunConfig, **_: object) -> int:
        seen.append(settings)
        return 0

    monkeypatch.setattr(tune, "_tune", keep)

    def resolve(*argv: str) -> RunConfig:
        assert tune.main(argv) == 0
        return seen[-1]

    return resolve


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], int]:
    """Return a function that runs `tune` with another body and gives its exit code."""

    def run(body: Callable[[], object]) -> int:
        monkeypatch.setattr(tune, "_tune", lambda *_, **__: body())
        return tune.main([])

    return run


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the test fail where the command asks for Ray."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the command must not ask for Ray")

    monkeypatch.setattr("t5ray.cluster.connect", refuse)


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was said on stderr, on one line."""
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    return " ".join(shown.err.split())


def setting_at(settings: BaseModel, dotted: str) -> Any:
    value: Any = settings
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def options_of(entry: Any) -> set[str]:
    return set(inspect.signature(entry.command).parameters) - {"ctx", "config", "sets"}


# Flags and settings


@pytest.mark.parametrize(("name", "setting"), options.SETTING_OF.items())
def test_every_option_has_a_setting_that_exists(name: str, setting: str) -> None:
    setting_at(RunConfig(), setting)
    assert name in options_of(tune)


@pytest.mark.parametrize(
    ("entry", "known"),
    [
        (tune, {*options.SETTING_OF, "seed", "preview", "resume", "extend"}),
        (train, {*options.SETTING_OF, "seed", "preview", "resume", "show_augmented"}),
        (doctor, {*options.SETTING_OF, "cluster"}),
        (predict, {*PredictConfig.model_fields}),
        (evaluate, {*EvaluateConfig.model_fields, "tracking_uri", "experiment"}),
    ],
)
def test_no_option_is_ignored(entry: Any, known: set[str]) -> None:
    assert options_of(entry) <= known


@pytest.mark.parametrize(
    ("flags", "setting", "value"),
    [
        ("--data a.csv", "data.path", "a.csv"),
        ("--task classify", "task", "classify"),
        ("--model google/flan-t5-small", "model", "google/flan-t5-small"),
        ("--column text=body --column label=kind=of", "data.columns", {"text": "body", "label": "kind=of"}),
        ("--source-language French", "source_language", "French"),
        ("--target-language Dutch", "target_language", "Dutch"),
        ("--search-space t5_base", "search.space", "t5_base"),
        ("--num-trials 7", "search.num_trials", 7),
        ("--max-epochs 9", "training.max_epochs", 9),
        ("--workers-per-trial 2", "resources.workers_per_trial", 2),
        ("--gpus-per-worker 0.5", "resources.gpus_per_worker", 0.5),
        ("--max-concurrent 3", "search.max_concurrent", 3),
        ("--time-budget 2h", "search.time_budget_s", 7200.0),
        ("--time-budget 90s", "search.time_budget_s", 90.0),
        ("--metric macro_f1", "search.metric", "macro_f1"),
        ("--storage s3://bucket/runs", "storage", "s3://bucket/runs"),
        ("--tracking-uri none", "tracking.uri", "none"),
        ("--experiment topics", "tracking.experiment", "topics"),
        ("--name first", "name", "first"),
        ("--seed 5", "search.seed", 5),
        ("--seed 5", "training.seed", 5),
        ("--skip-bad-rows", "data.skip_bad_rows", True),
        ("--address 10.0.0.5:6379", "address", "10.0.0.5:6379"),
        ("--set training.learning_rate=1e-3", "training.learning_rate", 0.001),
        ("--set decode.num_beams=4 --set data.split_seed=2", "decode.num_beams", 4),
    ],
)
def test_a_flag_gives_its_setting(settings_of: Settings, flags: str, setting: str, value: object) -> None:
    assert setting_at(settings_of(*flags.split()), setting) == value
    assert setting_at(RunConfig(), setting) != value


def test_set_wins_over_flag_over_yaml_over_default(settings_of: Settings, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("task: classify\ntraining: {max_epochs: 5, batch_size: 5, dropout: 0.5}\nsearch: {num_trials: 5}\n")
    flags = ["--config", str(file), "--max-epochs", "6", "--num-trials", "6", "--set", "search.num_trials=7"]
    found = settings_of(*flags)
    assert (found.training.learning_rate, found.training.batch_size) == (3e-4, 5)
    assert (found.training.max_epochs, found.search.num_trials) == (6, 7)


def test_a_run_without_a_name_is_named_after_task_and_time(settings_of: Settings) -> None:
    assert re.fullmatch(r"classify-\d{8}-\d{6}", settings_of("--task", "classify").name or "")
    assert re.fullmatch(r"dates-\d{8}-\d{6}", settings_of().name or "")


def test_the_demo_runs_where_neither_data_nor_task_nor_model_is_named(settings_of: Settings, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("training: {batch_size: 8}")
    for flags in ([], ["--num-trials", "2"], ["--config", str(file)], ["--set", "training.batch_size=8"]):
        found = settings_of(*flags)
        assert found.data.path == str(dates_data())
        assert (found.task, found.model) == (str(dates_task()), str(model_files()))
    assert settings_of("--num-trials", "2").search.num_trials == 2


@pytest.mark.parametrize("flags", ["--data a.csv", "--task classify", "--set model=m", "--set data.path=a.csv"])
def test_naming_one_of_the_three_leaves_the_demo(settings_of: Settings, flags: str) -> None:
    found = settings_of(*flags.split())
    assert str(dates_data()) != found.data.path
    assert found.search.space == "t5_small"


def test_naming_one_of_the_three_asks_for_the_others(no_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--task", "classify", "--data", "a.csv", "--preview"]) == 2
    assert "--data, --task and --model must be given together, but --model is missing beside --data, --task" in refusal(
        capsys
    )


# Refusals: exit code, one paragraph, no traceback


def flags(data: Path, model: Path, storage: Path, *more: str) -> list[str]:
    named = ["--data", data, "--task", "classify", "--column", "text=review", "--model", model, "--storage", storage]
    return [*map(str, named), "--name", "run", "--tracking-uri", "none", *more]


@pytest.mark.parametrize("entry", [tune, train, evaluate])
@pytest.mark.parametrize("uri", ["mlruns", "htp://tracker"])
def test_a_tracking_uri_that_can_never_do_is_told_before_anything_is_read(
    entry: ModuleType, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data", str(REVIEWS), "--task", "classify", "--model", str(tmp_path / "nowhere"), "--tracking-uri", uri]
    assert entry.main([*flags, *(["--output", "out"] if entry is evaluate else [])]) == 5
    assert "tracking.uri: must be" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("column", ["text", "=body", "text="])
def test_a_malformed_column_is_refused(column: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main(["--column", column]) == 2
    message = re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err)
    assert "--column must be name=column, such as text=review_body" in " ".join(message.split())


def test_an_unknown_flag_is_refused_with_its_neighbour(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main(["--num-trails", "3"]) == 2
    assert "No such option: --num-trails (Possible options: --num-trials)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "given", "shown"),
    [
        (train, "--learning-rate", "--learning-rate. It is a setting: --set training.learning_rate=VALUE"),
        (tune, "--confirm-seed", "--confirm-seed (Possible options: --confirm-seeds)"),
        (predict, "--engine-dtype", "--engine-dtype. It is a setting: --set engine_dtype=VALUE"),
        (predict, "--num-beams", "--num-beams. It is a setting: --set decode.num_beams=VALUE"),
        (predict, "--learning-rate", "--learning-rate"),
    ],
)
def test_a_setting_given_as_a_flag_is_answered_with_how_to_set_it(
    command: ModuleType, given: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([given, "1"]) == 2
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
    assert words.endswith(f"No such option: {shown}")


@pytest.mark.parametrize("given", ["--num-trials", "--search-space", "--time-budget", "--extend"])
def test_a_flag_of_searches_is_answered_by_train_with_the_command_that_has_it(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([given, "1"]) == 2
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
    assert words.endswith(f"No such option: {given}. It is one of searches: python -m t5ray.tune")


@pytest.mark.parametrize("given", ["--num-trials", "--training"])
def test_neither_a_setting_of_searches_nor_a_section_is_one_of_train(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([given, "1"]) == 2
    shown = capsys.readouterr().err
    assert f"No such option: {given}" in shown
    assert "It is a setting" not in shown


def test_a_flag_without_its_value_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--max-epochs"]) == 2
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
    assert words.endswith("Option '--max-epochs' requires an argument.")


def test_every_problem_of_the_settings_is_shown_at_once(
    no_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("training: {learning_rat: 1e-3, dropout: 2}\n")
    assert tune.main(["--config", str(file), "--num-trials", "0", "--set", "nam=x"]) == 2
    message = refusal(capsys)
    assert message.startswith("config error: ")
    assert f"{file}: training.learning_rat: no such setting. Did you mean `learning_rate`?" in message
    assert f"{file}: training.dropout: input should be less than 1, but got 2." in message
    assert "--num-trials: input should be greater than or equal to 1, but got 0." in message
    assert "--set nam: no such setting. Did you mean `name`?" in message


@pytest.mark.parametrize("entry", [tune, train])
def test_half_precision_is_refused_with_the_reason(
    entry: Any, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["--set", "training.precision=fp16"]) == 2
    assert (
        "training.precision: T5's activations overflow in fp16 (it was trained in bfloat16). Use bf16 or fp32"
        in refusal(capsys)
    )


def test_a_wrong_search_space_is_refused_before_anything_is_read(
    no_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("parameters:\n  learning_rat: {loguniform: [1e-4, 1e-3]}\n")
    nothing = flags(tmp_path / "none.csv", tmp_path / "none", tmp_path)
    assert tune.main([*nothing, "--search-space", str(file)]) == 2
    message = refusal(capsys)
    assert f"{file}: learning_rat: a parameter must be a training setting. Did you mean `learning_rate`?" in message
    file.write_text("parameters:\n  dropout: {uniform: [0.5, 1.5]}\n")
    assert tune.main([*nothing, "--search-space", str(file)]) == 2
    assert "dropout: training does not allow 1.5: " in refusal(capsys)
    assert tune.main([*nothing, "--search-space", "t5_smal"]) == 2
    assert "Did you mean `t5_small`?" in refusal(capsys)


def test_an_unknown_task_or_metric_is_refused_with_its_neighbour(
    no_ray: None, tmp_path: Path, tiny_t5: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = flags(REVIEWS, tiny_t5, tmp_path, "--preview")
    assert train.main([*given, "--task", "clasify"]) == 2
    assert "task: must be a built-in task or a YAML file, but got 'clasify'. Did you mean `classify`?" in refusal(
        capsys
    )
    assert train.main([*given, "--metric", "acuracy"]) == 2
    assert "--metric: must be a metric of task classify, but got 'acuracy'. Did you mean `accuracy`?" in refusal(capsys)


WRONG_TASK = "name: kinds\ninputs: '{text'\ntargets: '{label}'\nmetrics: [accuracy]\n"
WRONG_SPACE = "parameters:\n  learning_rat: {choice: [0.1]}\n"


@pytest.mark.parametrize(
    ("entry", "more", "expected"),
    [
        (tune, "--data a.csv --search-space space.yaml --set training.dropout=2", ("training.dropout", "learning_rat")),
        (train, "--data a.csv --set training.dropout=2", ("training.dropout",)),
        (predict, "--input a.csv --output out --on-long cut", ("--on-long: ",)),
        (evaluate, "--data a.csv --output out --split tests", ("--split: ",)),
    ],
)
def test_settings_task_and_space_show_their_problems_together(
    entry: Any,
    more: str,
    expected: tuple[str, ...],
    no_ray: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("task.yaml").write_text(WRONG_TASK)
    Path("space.yaml").write_text(WRONG_SPACE)
    assert entry.main(["--task", "task.yaml", "--model", "nobody/none", *more.split()]) == 2
    message = refusal(capsys)
    assert all(problem in message for problem in (*expected, "task.yaml: inputs: "))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["space.yaml", "task.yaml"]


def test_a_metric_and_a_stopping_metric_that_the_task_lacks_stand_beside_a_wrong_space_and_file(
    no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text("training: {early_stopping_metric: chrf, epochs: 3}\n")
    given = ["--task", "classify", "--data", "a.csv", "--metric", "rouge", "--search-space", "t5_smal"]
    assert tune.main([*given, "--config", "run.yaml"]) == 2
    message = refusal(capsys)
    for problem in (
        "training.epochs: no such setting.",
        "--model is missing beside --data, --task",
        "--metric: must be a metric of task classify, but got 'rouge'",
        "run.yaml: training.early_stopping_metric: must be a loss, hit_cap or a metric of task classify, but got 'chr",
        "--search-space: must be a YAML file or a shipped space, but got 't5_smal'. Did you mean `t5_small`?",
    ):
        assert problem in message


def test_a_settings_file_that_cannot_be_read_hides_no_other_problem(
    no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--config", "nowhere.yaml", "--task", "clasify"]) == 2
    message = refusal(capsys)
    assert "nowhere.yaml: the file must exist" in message
    assert "Did you mean `classify`?" in message


def test_a_settings_file_that_cannot_be_read_is_not_taken_for_an_empty_one(
    no_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("task: [")
    assert train.main(["--config", str(file), "--model", "m"]) == 2
    message = refusal(capsys)
    assert message.startswith(f"config error: {file}: must be plain YAML")
    assert "must be given together" not in message


def test_a_time_budget_that_cannot_be_read_is_named_by_its_flag(
    no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main(["--time-budget", "2hours"]) == 2
    assert refusal(capsys) == (
        "config error: --time-budget: must be seconds, or a number and its unit such as 90s, 30m, 2h or 1d, "
        "but got '2hours'."
    )


@pytest.mark.parametrize("entry", [tune, train])
def test_data_that_are_not_there_are_a_data_error(
    entry: Any, no_ray: None, tmp_path: Path, tiny_t5: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n")
    assert entry.main(flags(tmp_path / "row.csv", tiny_t5, tmp_path)) == 3
    message = refusal(capsys)
    assert f"data error: {tmp_path}/row.csv: there must be a file, folder or glob of rows, but nothing" in message
    assert "Did you mean `rows.csv`?" in message


def test_a_missing_column_is_a_data_error_with_its_neighbour(
    no_ray: None, tmp_path: Path, tiny_t5: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = flags(REVIEWS, tiny_t5, tmp_path, "--preview")
    assert train.main([*given, "--column", "text=reviews"]) == 3
    assert (
        "reviews.csv: task classify needs column `reviews`, but no row has it. Did you mean `review`? "
        "Say which column it is with --column text=NAME." in refusal(capsys)
    )
    assert train.main([*given, "--column", "txt=review"]) == 2
    assert "--column txt=review: task classify has no column `txt`. Did you mean `text`?" in refusal(capsys)


def test_a_model_that_is_not_there_is_a_model_error(
    no_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(flags(REVIEWS, tmp_path / "none", tmp_path, "--preview")) == 4
    message = refusal(capsys)
    assert (
        message == f"model error: {tmp_path}/none: the directory of a model must be there, but is not. Check the path."
    )


def test_a_model_that_no_hub_knows_is_a_model_error(
    no_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", "nobody/none", "--data", str(REVIEWS), "--task", "classify", "--column", "text=review"]
    assert train.main([*given, "--storage", str(tmp_path), "--preview"]) == 4
    message = refusal(capsys)
    assert message.startswith("model error: nobody/none: must be a directory or a Hugging Face id that can be reached")
    assert "Check the spelling, the network, and HF_TOKEN" in message


def test_a_model_of_another_kind_is_a_model_error(
    no_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "bert" / "model.safetensors").write_text("")
    assert train.main(flags(REVIEWS, tmp_path / "bert", tmp_path, "--preview")) == 4
    assert refusal(capsys).startswith("model error: ")


def test_a_tracking_server_that_does_not_answer_is_a_tracking_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "part-0.jsonl").write_text('{"text": "a", "label": "b", "prediction": "b"}\n')
    given = ["--predictions", str(tmp_path), "--task", "classify", "--output", str(tmp_path / "out")]
    assert evaluate.main([*given, "--tracking-uri", "http://127.0.0.1:1"]) == 5
    message = refusal(capsys)
    assert message.startswith("tracking error: tracking.uri: MLflow must answer at http://127.0.0.1:1, but it did not")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["tune", "train"])
def test_an_address_without_ray_is_a_cluster_error(
    command: str, tmp_path: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # whatever other tests have running
    assert ENTRIES[command].main(flags(REVIEWS, tiny_t5, tmp_path, "--address", "127.0.0.1:1")) == 6
    message = refusal(capsys)
    assert message.startswith("cluster error: --address 127.0.0.1:1: a Ray must answer there within 10 s, but: ")
    assert "Start one with `ray start --head --port=6379`, or leave --address out" in message


def test_a_message_is_printed_as_it_is(
    raising: Callable[[Callable[[], object]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise DataError("rows[3]: must be [bold]text[/bold], but got [1, 2].")

    assert raising(fail) == 3
    assert capsys.readouterr().err == "data error: rows[3]: must be [bold]text[/bold], but got [1, 2].\n"


def test_a_defect_of_ours_keeps_its_traceback(raising: Callable[[Callable[[], object]], int]) -> None:
    with pytest.raises(ZeroDivisionError):
        raising(lambda: 1 // 0)
    with pytest.raises(FileNotFoundError):
        raising(lambda: Path("/nowhere/at/all").read_text())


def test_a_full_disk_is_no_defect(
    raising: Callable[[Callable[[], object]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(lambda: Path("/dev/full").write_text("a row")) == 6
    assert capsys.readouterr().err == (
        "cluster error: The disk must have room, but: [Errno 28] No space left on device. "
        "Free some, and give the same command again (tune and train: with --resume).\n"
    )


@pytest.mark.parametrize("code", [0, 8])
def test_the_commands_code_is_the_exit_code(raising: Callable[[Callable[[], object]], int], code: int) -> None:
    assert raising(lambda: code) == code


@pytest.fixture
def fresh_sigterm() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


ENDING = """
import atexit, sys, time
from t5ray import cli

def end():
    print("a library ends", flush=True)
    time.sleep(20)

def command() -> int:
    atexit.register(end)  # as ray and mlflow do when a command imports them
    return 0

raise SystemExit(cli.run(command, "command", []))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_once_the_command_is_over_prints_nothing(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", ENDING], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"a library ends\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=15)
    assert (process.returncode, errors) == (-number, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_with_code_130(
    number: signal.Signals,
    raising: Callable[[Callable[[], object]], int],
    fresh_sigterm: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert raising(lambda: os.kill(os.getpid(), number)) == 130
    assert capsys.readouterr().err == "Interrupted. Give the same command to start again.\n"


# What is printed


@pytest.mark.parametrize(
    ("typed", "extra", "again"),
    [
        (
            ["--data", "a.csv", "--task", "classify"],
            {"resume": True},
            "python -m t5ray.tune --data a.csv --task classify --resume",
        ),
        (["--resume", "--name", "x"], {"resume": True}, "python -m t5ray.tune --name x --resume"),
        (
            ["--name", "old", "--seed", "1"],
            {"name": "new", "extend": 4},
            "python -m t5ray.tune --seed 1 --name new --extend 4",
        ),
        (["--resume", "--seed", "1"], {"resume": False, "extend": 4}, "python -m t5ray.tune --seed 1 --extend 4"),
        (["--name=old"], {"name": "new"}, "python -m t5ray.tune --name new"),
        (["--data", "my rows.csv"], {}, "python -m t5ray.tune --data 'my rows.csv'"),
        ([], {"retry_errors": True}, "python -m t5ray.tune --retry-errors"),
    ],
)
def test_the_command_to_go_on_with_can_be_typed(
    unchecked: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: list[str],
    extra: dict[str, object],
    again: str,
) -> None:
    def say_again(*_: object, **__: object) -> int:
        terminal.say(cli.again("tune", **extra))
        return 0

    monkeypatch.setattr(tune, "_tune", say_again)
    assert tune.main(typed) == 0
    assert capsys.readouterr().out == f"{again}\n"


def test_a_command_is_printed_as_this_shell_can_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("python", "mlflow"):
        (programs / name).touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(programs / "python"))
    monkeypatch.setenv("PATH", str(programs))
    assert terminal.typed("python -m t5ray.tune") == "python -m t5ray.tune"
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    assert terminal.typed("python -m t5ray.tune") == ".venv/bin/python -m t5ray.tune"
    assert terminal.typed("mlflow ui") == ".venv/bin/mlflow ui"
    assert terminal.typed("http://host:5000") == "http://host:5000"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert terminal.typed("mlflow ui") == f"{programs}/mlflow ui"


def test_progress_is_one_line_per_tenth_when_piped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0, 0, 100, 110, 120, 140, 150])  # 100 s pass until anything is done
    monkeypatch.setattr("t5ray.terminal.time.monotonic", lambda: next(clock))
    with terminal.progress("scoring", 200) as advance:
        for done in (0, 0, 5, 20, 39, 40, 160, 200):
            advance(done, "fast" if done == 40 else "")
    assert capsys.readouterr().out.splitlines() == [
        "scoring: 0 of 200",
        "scoring: 20 of 200, 0:01:30 left",
        "scoring: 40 of 200 fast, 0:01:20 left",
        "scoring: 160 of 200, 0:00:10 left",
        "scoring: 200 of 200",
    ]


def test_progress_learns_its_total_on_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress("training", None) as advance:
        for step in range(1, 31):
            advance(step, f"loss {1 / step:.3f}", 30)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert (lines[0], lines[-1]) == ("training: 1 of 30 loss 1.000", "training: 30 of 30 loss 0.033")


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=screen, force_terminal=True, width=100))
    with terminal.progress("scoring", 200) as advance:
        advance(50, "12 rows/s")
        advance(200, "13 rows/s")
    assert "200/200" in screen.getvalue()
    assert "13 rows/s" in screen.getvalue()


def test_the_end_names_the_result_and_what_to_run_next(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.close("accuracy 0.9 on [all] rows", {"judge": "python -m x [y]", "read the report": "report.html"})
    assert capsys.readouterr().out.splitlines() == [
        "",
        "accuracy 0.9 on [all] rows",
        "Next:",
        "  judge            python -m x [y]",
        "  read the report  report.html",
    ]


@pytest.mark.parametrize("name", ENTRIES)
def test_help_shows_every_option_without_the_big_libraries(name: str) -> None:
    code = (
        f"import sys; from t5ray.{name} import main; code = main(['--help']); "
        f"print(sorted(set({HEAVY}) & set(sys.modules))); raise SystemExit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ, "COLUMNS": "160"}
    )
    *shown, heavy = run.stdout.splitlines()
    assert heavy == "[]"
    named = {"columns": "column", "sets": "set"}
    flags = {f"--{named.get(option, option).replace('_', '-')}" for option in {*options_of(ENTRIES[name]), "sets"}}
    assert flags <= set(re.findall(r"--[a-z-]+", "\n".join(shown)))
