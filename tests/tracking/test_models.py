from pathlib import Path

import pytest

from t5ray.config import TrackingConfig
from t5ray.errors import ModelError, TrackingError
from t5ray.tracking import open_tracker, resolve_model


@pytest.fixture(scope="module")
def run_id(sqlite_uri: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with a bundle of one file, registered as `topics`, version 1 and alias `champion`."""
    from mlflow import MlflowClient

    bundle = tmp_path_factory.mktemp("bundle")
    (bundle / "config.json").write_text('{"d_model": 64}')
    tracker = open_tracker(TrackingConfig(uri=sqlite_uri, experiment="models"))
    run = tracker.start_run("study")
    tracker.log_files(run, bundle, "best")
    assert tracker.close() == []
    client = MlflowClient(sqlite_uri)
    client.create_registered_model("topics")
    client.create_model_version("topics", f"{client.get_run(run).info.artifact_uri}/best", run)
    client.set_registered_model_alias("topics", "champion", "1")
    return run


@pytest.mark.parametrize("form", ["models:/topics@champion", "models:/topics/1", "runs:/{run}/best"])
def test_every_form_finds_the_bundle(form: str, run_id: str, sqlite_uri: str, tmp_path: Path) -> None:
    path = resolve_model(form.format(run=run_id), sqlite_uri, tmp_path / "downloads")
    assert (path / "config.json").read_text() == '{"d_model": 64}'
    assert path.is_relative_to(tmp_path / "downloads")


def test_without_a_folder_it_is_found_too(run_id: str, sqlite_uri: str) -> None:
    assert (resolve_model(f"runs:/{run_id}/best", sqlite_uri) / "config.json").exists()


@pytest.mark.parametrize(
    "uri",
    ["models:/topics@nobody", "models:/topics/9", "models:/other@champion", "runs:/0123/best", "runs:/{run}/gone"],
)
def test_what_is_not_there_is_a_model_error(uri: str, run_id: str, sqlite_uri: str) -> None:
    with pytest.raises(ModelError, match=r"must be in MLflow at sqlite:///.*, but is not: "):
        resolve_model(uri.format(run=run_id), sqlite_uri)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("models:/topics@nobody", r"There are models:/topics@champion, models:/topics/1\."),
        ("models:/topics/9", r"There are models:/topics@champion, models:/topics/1\."),
        ("models:/topic@champion", r"Did you mean `topics`\?"),
        ("models:/other@champion", r"Known names: .*topics\."),
        ("runs:/0123/best", r"but is not: [^.]*\."),
    ],
)
def test_what_is_not_there_is_told_with_what_is(uri: str, told: str, run_id: str, sqlite_uri: str) -> None:
    mend = r" Name another MLflow with --tracking-uri, or register a model: --register NAME of tune and train\.$"
    with pytest.raises(ModelError, match=told + mend):
        resolve_model(uri, sqlite_uri)


def test_an_empty_registry_is_told(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert open_tracker(TrackingConfig(uri=uri, experiment="models")).close() == []
    with pytest.raises(ModelError, match=r"No model is registered there\. Name another MLflow with --tracking-uri"):
        resolve_model("models:/topics@champion", uri)


def test_other_forms_are_refused(sqlite_uri: str) -> None:
    with pytest.raises(ModelError, match=r"must be models:/NAME@ALIAS, .*, but got 'models:/'"):
        resolve_model("models:/", sqlite_uri)


def test_a_missing_database_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="must exist to find models:/topics@champion"):
        resolve_model("models:/topics@champion", f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_the_registered_bundle_is_kept_once_in_the_cache(
    run_id: str, sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t5ray.scoring.fetching import fetch_registered

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = fetch_registered("models:/topics@champion", sqlite_uri)
    assert (first / "config.json").read_text() == '{"d_model": 64}'
    assert fetch_registered("models:/topics@champion", sqlite_uri) == first
    assert list(first.parent.iterdir()) == [first]
