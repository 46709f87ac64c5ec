import subprocess
import sys
from pathlib import Path

import pytest

from t5ray.errors import TrackingError
from t5ray.tracking.uri import check_uri, redact, runs_url, shown, sqlite_path, ui_command


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///mlflow.db",
        "sqlite+pysqlite:///mlflow.db",
        "postgresql+psycopg2://me:secret@db/mlflow",
        "mysql://db/x",
        "http://127.0.0.1:5000",
        "https://h",
        "databricks",
        "databricks://profile",
    ],
)
def test_known_schemes_are_taken(uri: str) -> None:
    check_uri(uri)


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("./mlruns", "./mlruns"),
        ("", "mlruns"),
        ("file:///data/my%20runs", "'/data/my runs'"),
        ("/data/runs", "/data/runs"),
    ],
)
def test_a_folder_is_refused_with_the_command_that_moves_it(uri: str, source: str) -> None:
    with pytest.raises(TrackingError) as caught:
        check_uri(uri)
    assert f"must be a database or a server, but got {uri!r}" in str(caught.value)
    assert f"`mlflow migrate-filestore --source {source} --target sqlite:///mlflow.db`" in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("sqlite:///:memory:", "each process would have in a memory of its own"),
        ("sqlite:///file::memory:?cache=shared&uri=true", "each process would have in a memory of its own"),
        ("sqlite:///file:x?mode=memory&uri=true", "each process would have in a memory of its own"),
        ("sqlite://", "each process would have in a memory of its own"),
        ("sqlite+pysqlite:///:memory:", "each process would have in a memory of its own"),
        ("sqlite:///", "is a folder"),
        ("sqlite:////tmp", "is a folder"),
        ("sqlite://mlflow.db", "has a host, mlflow.db"),
        ("sqlite+pysqlcipher:///x.db", "has another driver than SQLite's own"),
    ],
)
def test_sqlite_without_a_file_is_refused(uri: str, found: str) -> None:
    with pytest.raises(
        TrackingError, match=r"tracking.uri: must be a file, such as sqlite:///mlflow.db, but got "
    ) as caught:
        check_uri(uri)
    assert f"which {found}. Name a file, or use `none`." in str(caught.value)


def test_an_unknown_scheme_is_refused_with_the_nearest() -> None:
    with pytest.raises(TrackingError, match=r"'sqllite:///x.db'. Did you mean `sqlite`\?"):
        check_uri("sqllite:///x.db")


def test_an_unknown_scheme_is_refused_without_its_password() -> None:
    with pytest.raises(TrackingError, match=r"'postgres://\*\*\*@db/x'. Did you mean `postgresql`\?"):
        check_uri("postgres://me:secret@db/x")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://me:secret@host:5000/x?token=t", "https://***@host:5000/x"),
        ("https://me:sec@ret@host/x", "https://***@host/x"),
        ("http://host/a@b", "http://host/a@b"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_shown_hides_user_password_and_query(uri: str, expected: str) -> None:
    assert shown(uri) == expected


def test_redact_finds_the_password_in_every_form() -> None:
    uri = "postgresql://me:s%40cret@db/x?sslpassword=other"
    text = "auth of me:s%40cret failed, password 's@cret', options sslpassword=other"
    assert redact(text, uri) == "auth of *** failed, password '***', options ***"


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        ("sqlite:///mlflow.db", "mlflow ui --backend-store-uri sqlite:///mlflow.db"),
        ("sqlite:////data/my runs/x.db", "mlflow ui --backend-store-uri 'sqlite:////data/my runs/x.db'"),
        ("postgresql://me:secret@db/x", "mlflow ui --backend-store-uri 'postgresql://***@db/x'"),
        ("http://host:5000", "http://host:5000"),
        ("https://me:secret@host", "https://host"),
        ("none", ""),
    ],
)
def test_ui_command(uri: str, command: str) -> None:
    assert ui_command(uri) == command


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("sqlite:///mlflow.db", "http://127.0.0.1:5000/#/experiments/7/runs/"),
        ("postgresql://me:secret@db/x", "http://127.0.0.1:5000/#/experiments/7/runs/"),
        ("https://me:secret@host/mlflow/", "https://host/mlflow/#/experiments/7/runs/"),
        ("databricks", ""),
    ],
)
def test_runs_have_pages(uri: str, url: str) -> None:
    assert runs_url(uri, "7") == url


def test_sqlite_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sqlite_path("sqlite:///mlflow.db") == tmp_path / "mlflow.db"
    assert sqlite_path("sqlite:////data/x.db?timeout=3") == Path("/data/x.db")
    assert sqlite_path("sqlite+pysqlite:///mlflow.db") == tmp_path / "mlflow.db"
    assert sqlite_path("sqlite+pysqlite:////data/x.db") == Path("/data/x.db")


def test_importing_tracking_imports_no_mlflow() -> None:
    code = "import sys, t5ray.tracking; print('mlflow' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
