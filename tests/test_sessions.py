"""What a run that goes on may not change, told before anything is read: no Ray, no data, no model."""

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from t5ray import train, tune
from t5ray.config import DecodeConfig, RunConfig, load_space
from t5ray.errors import ConfigError
from t5ray.sessions import RUN_BOOK, SEARCH_BOOK, identity_of, require_same, search_identity

NAMED = ["--data", "absent.csv", "--task", "classify", "--model", "absent/model", "--name", "first"]
BEGUN = RunConfig.model_validate(
    {"data": {"path": "absent.csv"}, "task": "classify", "model": "absent/model", "name": "first"}
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be read or started")

    for reached in ("t5ray.cluster.connect", "t5ray.training.prepare.prepare"):
        monkeypatch.setattr(reached, refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keep(book: str, name: str = "first", **more: object) -> None:
    """Write what an earlier session of `BEGUN` leaves."""
    identity = identity_of(BEGUN, "accuracy (max)", DecodeConfig(max_new_tokens=9)) | {"data": "digest"}
    if book == SEARCH_BOOK:
        identity |= search_identity(load_space("t5_small"), BEGUN)
    path = Path("t5ray_runs", name, book)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"identity": identity, **more}))


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--set", "training.batch_size=4"], "these differ: training.batch_size: was 32, now 4. Give the same"),
        (
            ["--set", "training.max_grad_norm=null", "--seed", "3", "--metric", "macro_f1"],
            "objective: was accuracy (max), now macro_f1 (max); training.max_grad_norm: was 1.0, now not set; "
            "training.seed: was 0, now 3",
        ),
        (["--set", "decode.max_new_tokens=8"], "these differ: decode.max_new_tokens: was 9, now 8."),
        (["--model", "other/model"], "these differ: model: was absent/model, now other/model."),
        (
            ["--set", "back_translation.forward=m"],
            "these differ: back_translation.forward: was not set, now m.",
        ),
    ],
)
@pytest.mark.parametrize(("entry", "book"), [(train, RUN_BOOK), (tune, SEARCH_BOOK)])
def test_other_settings_are_refused_with_both_values(
    entry: Any, book: str, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(book)
    assert entry.main([*NAMED, "--resume", *more]) == 2
    message = refusal(capsys)
    assert message.startswith("config error: t5ray_runs/first: a run must go on with what it began with")
    assert told in message


def test_another_space_or_search_seed_is_refused_with_both_values(capsys: pytest.CaptureFixture[str]) -> None:
    keep(SEARCH_BOOK)
    Path("mine.yaml").write_text("parameters: {learning_rate: {loguniform: [1e-4, 1e-3]}}\n")
    assert tune.main([*NAMED, "--resume", "--search-space", "mine.yaml", "--set", "search.seed=7"]) == 2
    message = refusal(capsys)
    assert (
        'search space.parameters.learning_rate: was [{"loguniform": [5e-05, 0.002]}], '
        'now [{"loguniform": [0.0001, 0.001]}]' in message
    )
    assert 'search space.parameters.dropout: was [{"uniform": [0.0, 0.2]}], now not set' in message
    assert "search.seed: was 0, now 7" in message


def test_settings_that_would_win_over_a_searched_preset_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("presets.yaml").write_text("parameters: {preset: {choice: [t5-adamw, t5-adafactor]}}\n")
    over_presets = ["--search-space", "presets.yaml"]
    identity = search_identity(load_space("presets.yaml"), BEGUN)
    keep(SEARCH_BOOK)
    book = Path("t5ray_runs/first", SEARCH_BOOK)
    saved = json.loads(book.read_text())
    book.write_text(json.dumps({"identity": saved["identity"] | identity}))
    assert tune.main([*NAMED, "--resume", *over_presets, "--set", "training.learning_rate=3e-4"]) == 2
    assert (
        "these differ: settings that were not given and are left to the preset: was learning_rate, max_grad_norm, "
        "optimizer, schedule, warmup_share, weight_decay, now max_grad_norm, optimizer, schedule, warmup_share, "
        "weight_decay." in refusal(capsys)
    )


def test_a_value_that_is_given_though_it_is_the_default_changes_no_search_without_presets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep(SEARCH_BOOK)
    monkeypatch.setattr(tune, "_tune", lambda *_, **__: 0)
    assert tune.main([*NAMED, "--resume", "--set", "training.learning_rate=3e-4"]) == 0


def test_the_runs_of_a_search_stay_in_one_experiment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(SEARCH_BOOK)
    keep(SEARCH_BOOK, "done", finished=True)
    monkeypatch.setattr(tune, "_tune", lambda *_, **__: 0)
    for name in ("first", "done"):
        other = [*NAMED, "--name", name, "--resume", "--experiment", "other"]
        assert tune.main(other) == 2
        assert f"t5ray_runs/{name}: a run must go on with what it began with" in (told := refusal(capsys))
        assert "these differ: tracking.experiment: was t5ray, now other." in told
        assert tune.main([*other, "--tracking-uri", "none"]) == 0, "nothing is sent"


def test_what_a_search_writes_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    from t5ray.search.ledger import Ledger, TrialRecord

    identity = identity_of(BEGUN, "accuracy (max)", DecodeConfig(max_new_tokens=9))
    ledger = Ledger(Path("t5ray_runs/first", SEARCH_BOOK).absolute(), identity=identity)
    ledger.trials = {0: TrialRecord(0, {"learning_rate": 0.1})}
    ledger.path.parent.mkdir(parents=True)
    ledger.save()
    assert tune.main([*NAMED, "--resume", "--set", "training.dropout=0.3"]) == 2
    assert "these differ: training.dropout: was 0.1, now 0.3." in refusal(capsys)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"identity": {}}'])
def test_a_book_that_tells_nothing_is_left_to_its_owner(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("t5ray_runs/first", SEARCH_BOOK)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    monkeypatch.setattr(tune, "_tune", lambda *_, **__: 0)
    assert tune.main([*NAMED, "--resume", "--set", "training.batch_size=4"]) == 0


def test_a_finished_search_is_held_to_its_settings_where_trials_are_added(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(SEARCH_BOOK, finished=True)
    monkeypatch.setattr(tune, "_tune", lambda *_, **__: 0)
    other = ["--set", "training.batch_size=4"]
    assert tune.main([*NAMED, *other, "--resume"]) == 0, "it only says that it is finished"
    assert tune.main([*NAMED, *other, "--extend", "2"]) == 2
    assert "training.batch_size: was 32, now 4" in refusal(capsys)
    assert tune.main([*NAMED, "--extend", "2"]) == 0


@pytest.mark.parametrize(("entry", "book"), [(train, RUN_BOOK), (tune, SEARCH_BOOK)])
def test_resume_without_a_name_lists_what_can_go_on(entry: Any, book: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["--resume"]) == 2
    asked = "config error: --resume: must stand beside --name, which says what is to go on: "
    assert refusal(capsys) == f"{asked}there is none in t5ray_runs."
    keep(book, "second")
    keep(book, "first")
    keep(book, "third", finished=True)
    Path("t5ray_runs/fourth").mkdir()
    before = sorted(Path("t5ray_runs").iterdir())
    assert entry.main(["--resume"]) == 2
    assert refusal(capsys) == f"{asked}t5ray_runs has first, second."
    assert sorted(Path("t5ray_runs").iterdir()) == before
    assert entry.main(["--resume", "--storage", "s3://bucket/none", "--set", "training.dropout=2"]) == 2
    message = refusal(capsys)
    assert "--set training.dropout: input should be less than 1, but got 2." in message
    assert "--resume: must stand beside --name" in message


@pytest.mark.parametrize(("entry", "book"), [(train, RUN_BOOK), (tune, SEARCH_BOOK)])
def test_resume_with_an_unknown_name_lists_what_can_go_on(
    entry: Any, book: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("second", "third"):
        keep(book, name)
    assert entry.main([*NAMED, "--resume"]) == 2
    assert "to go on with, but holds none, while t5ray_runs has second, third. Correct --name, or" in refusal(capsys)


def test_extend_without_a_name_lists_finished_searches_too(capsys: pytest.CaptureFixture[str]) -> None:
    keep(SEARCH_BOOK, "third", finished=True)
    assert tune.main(["--extend", "3"]) == 2
    assert "--extend: must stand beside --name, which says what is to go on: t5ray_runs has third." in refusal(capsys)


def test_other_rows_are_told_in_words() -> None:
    with pytest.raises(ConfigError, match=r"these differ: data: the rows or their splits are others\. Give the same"):
        require_same({"data": "abc", "model": "m"}, {"data": "def", "model": "m"}, "runs/x")
    require_same({"data": "abc"}, {"data": "abc", "added by a later version": "1"}, "runs/x")


@pytest.mark.parametrize(
    ("entry", "book", "flag"),
    [(tune, SEARCH_BOOK, "--resume"), (tune, SEARCH_BOOK, "--extend 2"), (train, RUN_BOOK, "--resume")],
)
def test_who_names_no_data_is_told_that_the_demo_is_not_what_goes_on(
    entry: Any, book: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(book)
    assert entry.main(["--name", "first", *flag.split()]) == 2
    told = refusal(capsys)
    assert "must stand beside the flags that it began with, but --data, --task and --model are missing" in told
    assert "the model was absent/model" in told
    assert "--config t5ray_runs/first/config.yaml" in told
    assert "these differ" not in told


@pytest.mark.parametrize(
    ("entry", "files", "what"),
    [
        (train, [SEARCH_BOOK, "search.json", "best/config.json"], "holds a search"),
        (train, ["search.json"], "holds a search"),
        (tune, ["train.json", "best/config.json"], "holds a run of train"),
        (tune, [RUN_BOOK], "holds a run of train"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_search_and_a_single_run_never_share_a_folder(
    entry: Any, files: list[str], what: str, more: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in files:
        path = here / "t5ray_runs/first" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert entry.main([*NAMED, *more]) == 2
    assert (
        f"t5ray_runs/first: must hold nothing, or a {'search' if entry is tune else 'run of train'}, but {what}"
        in refusal(capsys)
    )
    assert all((here / "t5ray_runs/first" / name).read_text() == "{}" for name in files)


@pytest.mark.parametrize(
    ("entry", "file", "what"),
    [
        (train, "saved/ledger.json", "holds a search"),
        (train, "search.json", "holds a search"),
        (tune, "train.json", "holds a run of train"),
        (tune, RUN_BOOK, "holds a run of train"),
    ],
)
def test_nor_do_they_at_a_uri_where_nothing_lies_here(
    entry: Any, file: str, what: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = f"memory://{here.name}/runs"
    fsspec.filesystem("memory").pipe(f"/{here.name}/runs/first/{file}", b"{}")
    assert entry.main([*NAMED, "--storage", storage]) == 2
    assert f"{storage}/first: must hold nothing, or a" in refusal(capsys)
    assert fsspec.filesystem("memory").exists(f"/{here.name}/runs/first/{file}")
