"""A bundle as MLflow serves it. Expected predictions are those of the engine behind `python -m t5ray.predict`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from t5ray.config import DecodeConfig, TaskConfig, TrackingConfig
from t5ray.model.bundle import publish
from t5ray.model.card import BundleCard
from t5ray.model.engine import Engine
from t5ray.model.loading import load_model
from t5ray.text.tasks import BUILT_IN, render_input
from t5ray.tracking import open_tracker, resolve_model
from tests.tiny import make_tiny_t5

REVIEWS = ["a small dog", "what is it, a text of many more than thirty tokens", " 42 ", "x"]
COLUMNS = {"text": "review"}


def make_bundle(
    folder: Path, model: Path, task: TaskConfig = BUILT_IN["classify"], num_beams: int = 2, **decoding: Any
) -> Path:
    decode = DecodeConfig(max_new_tokens=8, num_beams=num_beams, **decoding)
    publish(load_model(str(model)), BundleCard(task=task, decode=decode, max_input_tokens=30), folder)
    return folder


def engine_texts(bundle: Path, texts: Sequence[str]) -> list[str]:
    inputs = [render_input(BUILT_IN["classify"], {"text": text}) for text in texts]
    return [prediction.text.strip() for prediction in Engine(str(bundle)).predict(inputs)]


@pytest.fixture(scope="module")
def talkative_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5 that hardly ever ends a text before the cap, so that texts differ."""
    folder = make_tiny_t5(tmp_path_factory.mktemp("talkative"), tied=False)
    loaded = load_model(str(folder))
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight[:3] = 0.0  # padding, end and unknown
    loaded.model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(talkative_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("run") / "best", talkative_t5)


@pytest.fixture(scope="module")
def registered(bundle: Path, sqlite_uri: str) -> str:
    """Log the bundle twice, as when an answer got lost, and return the run."""
    tracker = open_tracker(TrackingConfig(uri=sqlite_uri, experiment="registry"))
    run = tracker.start_run("trial 7")
    for _ in range(2):
        tracker.log_model(run, bundle, columns=COLUMNS, register="reviews")
    tracker.end_run(run, "FINISHED")
    assert tracker.close() == []
    return run


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def test_a_model_that_is_sent_twice_is_there_once(registered: str, sqlite_uri: str, bundle: Path) -> None:
    assert len(client(sqlite_uri).search_model_versions("name = 'reviews'")) == 1
    assert client(sqlite_uri).get_model_version_by_alias("reviews", "champion").run_id == registered
    assert len(client(sqlite_uri).get_run(registered).outputs.model_outputs) == 1
    assert [path.name for path in bundle.parent.iterdir()] == ["best"]  # no copy is left behind


@pytest.mark.parametrize("uri", ["models:/reviews@champion", "runs:/{run}/model"])
def test_pyfunc_predicts_as_predict_does(uri: str, registered: str, sqlite_uri: str, bundle: Path) -> None:
    import mlflow
    import pandas as pd

    mlflow.set_tracking_uri(sqlite_uri)
    model = mlflow.pyfunc.load_model(uri.format(run=registered))
    rows = pd.DataFrame({"review": [*REVIEWS, " "], "other": 1}, index=range(10, 15))
    found = model.predict(rows)
    assert len(set(found["prediction"])) > 3
    assert found["prediction"].tolist() == [*engine_texts(bundle, REVIEWS), None]
    assert found["error"].tolist() == [*[None] * 4, "`review` must hold text, but is missing or empty"]
    assert list(found.index) == list(range(10, 15))
    assert model.predict(model.input_example).shape == (1, 2)
    with pytest.raises(mlflow.exceptions.MlflowException, match="missing inputs"):
        model.predict(pd.DataFrame({"text": ["a"]}))


def test_what_is_logged_is_pinned_and_pickles_nothing(registered: str, sqlite_uri: str, tmp_path: Path) -> None:
    folder = Path(client(sqlite_uri).download_artifacts(registered, "model", str(tmp_path)))
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"served_model.py", "model.safetensors", "t5ray.json", "input_example.json"} <= names
    assert not {name for name in names if name.endswith((".pkl", ".pt", ".bin"))}
    pins = (folder / "requirements.txt").read_text().splitlines()
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    assert pins
    assert set(pins) <= set(constraints)


def test_predict_and_evaluate_find_the_bundle_inside(
    registered: str, sqlite_uri: str, bundle: Path, tmp_path: Path
) -> None:
    found = resolve_model("models:/reviews@champion", sqlite_uri, tmp_path)
    assert json.loads((found / "t5ray.json").read_text()) == json.loads((bundle / "t5ray.json").read_text())
    assert engine_texts(found, REVIEWS) == engine_texts(bundle, REVIEWS)


def test_another_bundle_becomes_the_champion(talkative_t5: Path, sqlite_uri: str, tmp_path: Path) -> None:
    tracker = open_tracker(TrackingConfig(uri=sqlite_uri, experiment="registry"))
    for beams in (1, 3):
        run = tracker.start_run(f"{beams} beams")
        tracker.log_model(run, make_bundle(tmp_path / str(beams), talkative_t5, num_beams=beams), register="beams")
        tracker.end_run(run, "FINISHED")
    assert tracker.close() == []
    assert client(sqlite_uri).get_model_version_by_alias("beams", "champion").run_id == run
    assert len(client(sqlite_uri).search_model_versions("name = 'beams'")) == 2
    card = json.loads(
        (resolve_model("models:/beams@champion", sqlite_uri, tmp_path / "down") / "t5ray.json").read_text()
    )
    assert card["decode"]["num_beams"] == 3


def test_languages_are_the_tasks_unless_a_row_has_its_own(talkative_t5: Path, tmp_path: Path) -> None:
    import mlflow
    import pandas as pd

    from t5ray.tracking.registry import save_model

    task = BUILT_IN["translate"]
    bundle = make_bundle(tmp_path / "best", talkative_t5, task, num_beams=1)
    save_model(bundle, tmp_path / "model", {})
    rows = [{"source": "a dog"}, {"source": "a dog", "target_language": "French"}]
    expected = [p.text.strip() for p in Engine(str(bundle)).predict([render_input(task, row) for row in rows])]
    found = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(pd.DataFrame(rows))
    assert found["prediction"].tolist() == expected
    assert expected[0] != expected[1]


def served(bundle: Path, folder: Path, texts: Sequence[str]) -> list[str | None]:
    """Predict with what MLflow serves, without a server."""
    import mlflow
    import pandas as pd

    from t5ray.tracking.registry import save_model

    save_model(bundle, folder, {})
    model = mlflow.pyfunc.load_model(str(folder))
    return list(model.predict(pd.DataFrame({"text": list(texts)}))["prediction"])


LABELS = ("cats", "cats!", "cart", "dogs", "zoo.", "9876", "cats")
"""One begins another, and one comes twice."""
WORDS = [f"{a} {b}" for a in ("dog", "42", "zz top", "a tale") for b in ("x", "of two cities", "9", "runs", "!")]


def test_a_served_classifier_gives_the_engines_labels(talkative_t5: Path, tmp_path: Path) -> None:
    closed = BUILT_IN["classify"].model_copy(update={"labels": LABELS})
    bundle = make_bundle(tmp_path / "best", talkative_t5, closed)
    expected = engine_texts(bundle, WORDS)
    assert len(set(expected)) > 1
    assert served(bundle, tmp_path / "model", WORDS) == expected


def test_served_answers_are_those_of_the_decode_settings(talkative_t5: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "best", talkative_t5, answers=("up", "down", "left"))
    expected = engine_texts(bundle, WORDS)
    assert set(expected) <= {"up", "down", "left"}
    assert served(bundle, tmp_path / "model", WORDS) == expected


def test_of_several_texts_the_first_is_served(talkative_t5: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "best", talkative_t5, num_return_sequences=2)
    assert served(bundle, tmp_path / "model", REVIEWS) == engine_texts(bundle, REVIEWS)


def test_a_served_model_reads_no_weights_from_elsewhere(talkative_t5: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "best", talkative_t5)
    (bundle / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"shared.weight": str(tmp_path / "outside.safetensors")}}
    (bundle / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Exception, match=r"weight files must lie in the model's folder, but .*outside\.safetensors"):
        served(bundle, tmp_path / "model", REVIEWS)


def test_a_bundle_that_is_gone_is_told(sqlite_uri: str) -> None:
    tracker = open_tracker(TrackingConfig(uri=sqlite_uri, experiment="registry"))
    run = tracker.start_run("trial 3")
    tracker.log_model(run, Path("/nowhere/best"), register="gone")
    tracker.end_run(run, "FINISHED")
    assert tracker.close() == ["MLflow refused trial 3 (model /nowhere/best): /nowhere/best is gone"]


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.long
@pytest.mark.integration
@pytest.mark.timeout(240)
def test_mlflow_models_serve_answers(registered: str, sqlite_uri: str, bundle: Path, port: int) -> None:
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/reviews@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": sqlite_uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # as in an activated environment
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        _wait_for(f"http://127.0.0.1:{port}/ping", server)
        rows = json.dumps({"dataframe_records": [{"review": text} for text in REVIEWS]}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", rows, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.loads(answer.read())["predictions"]
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    assert [row["prediction"] for row in found] == engine_texts(bundle, REVIEWS)
    assert len(set(engine_texts(bundle, REVIEWS))) > 1


def _wait_for(address: str, server: "subprocess.Popen[bytes]") -> None:
    deadline_s = time.monotonic() + 180
    while time.monotonic() < deadline_s:
        assert server.poll() is None, "mlflow models serve ended"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError("mlflow models serve did not start")
