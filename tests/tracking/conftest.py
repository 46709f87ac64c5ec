from collections.abc import Callable, Iterator

import pytest

from t5ray.config import TrackingConfig


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests, as making one takes seconds; each test has its own experiment in it."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/store/mlflow.db"


@pytest.fixture
def config(sqlite_uri: str, request: pytest.FixtureRequest) -> Callable[[], TrackingConfig]:
    return lambda: TrackingConfig(uri=sqlite_uri, experiment=request.node.name)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder of its own, which must stay empty: MLflow likes to leave ./mlruns and ./mlflow.db behind."""
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []
