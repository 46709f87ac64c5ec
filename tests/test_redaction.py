"""What messages, settings written down, MLflow and folders' names may show of an address. Addresses are made up."""

import pytest

from t5ray import cli, terminal
from t5ray.config import RunConfig
from t5ray.errors import ClusterError, ConfigError, DataError
from t5ray.redaction import hide_secrets
from t5ray.scoring import fetching
from t5ray.training.outcome import public


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ftp://me:pw@host/x", "ftp://***@host/x"),
        ("sftp://me:p@w@host/x", "sftp://***@host/x"),
        ("https://ghp_abc@host/x", "https://***@host/x"),
        ("filecache::ftp://me:pw@host/x and s3://b/k", "filecache::ftp://***@host/x and s3://b/k"),
        ("https://h/x?sig=a%2Bb&sv=2", "https://h/x?sig=***&sv=2"),
        ("https://h/x?sv=2&X-Amz-Signature=abc: no", "https://h/x?sv=2&X-Amz-Signature=***: no"),
        ("'https://h/x?access_token=abc'.", "'https://h/x?access_token=***'."),
        ("abfs://container@account.dfs/x", "abfs://container@account.dfs/x"),
        ("hf://datasets/org/name@main/x", "hf://datasets/org/name@main/x"),
        ("models:/topics@champion", "models:/topics@champion"),
        ("https://h/x?design=1&page=2", "https://h/x?design=1&page=2"),
        ("mail me@host, 10:30", "mail me@host, 10:30"),
        (f"401 for hf_{'AbCdEfGhIjKlMnOpQ' * 2}, again", "401 for ***, again"),
        ("hf_checkpoints and hf_predictions", "hf_checkpoints and hf_predictions"),
        ("key AKIAIOSFODNN7EXAMPLE is unknown", "key *** is unknown"),
        ("HF_TOKEN=abc AWS_SECRET_ACCESS_KEY='x'", "HF_TOKEN=*** AWS_SECRET_ACCESS_KEY='***'"),
        ("{'Authorization': 'Bearer eyJhbGciOi.x-y'}", "{'Authorization': 'Bearer ***'}"),
        ("the bearer of news; max_new_tokens=32 KEY = 3", "the bearer of news; max_new_tokens=32 KEY = 3"),
    ],
)
def test_credentials_go_and_the_rest_stays(text: str, expected: str) -> None:
    assert hide_secrets(text) == expected
    assert hide_secrets(expected) == expected


@pytest.mark.parametrize("kind", [DataError, ClusterError, ConfigError])
def test_no_error_holds_a_password(kind: type[Exception]) -> None:
    error = kind("ftp://me:hunter2@host/x: cannot be read")

    assert str(error) == "ftp://***@host/x: cannot be read"
    assert "hunter2" not in repr(error) + str(vars(error))


def test_settings_are_written_down_without_credentials() -> None:
    config = RunConfig.model_validate(
        {
            "data": {"path": "https://host/rows.csv?token=hunter2", "columns": {"text": "body"}},
            "model": "ftp://me:hunter2@host/model",
            "storage": "sftp://me:hunter2@host/runs",
            "tracking": {"uri": "postgresql://me:hunter2@db/x?sslpassword=hunter2"},
        }
    )

    written = public(config)

    assert "hunter2" in config.model_dump_json()
    assert "hunter2" not in written.model_dump_json()
    assert written.data.path == "https://host/rows.csv?token=***"
    assert written.data.columns == {"text": "body"}
    assert written.training == config.training


def test_the_cache_of_models_is_not_named_after_a_password() -> None:
    assert "hunter2" not in fetching._slug("ftp://me:hunter2@host/model")


def test_the_console_shows_no_password(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_ARGV", ["--storage", "sftp://me:hunter2@host/runs"])

    terminal.say("saved at sftp://me:hunter2@host/runs")
    terminal.close("Saved at sftp://me:hunter2@host/runs", {"again": cli.again("train", resume=True)})

    shown = "".join(capsys.readouterr())
    assert "hunter2" not in shown
    assert "***@host/runs" in shown
