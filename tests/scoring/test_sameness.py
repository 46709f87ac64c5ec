"""Which jobs go on in a folder, and which are refused there."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.zip import ZipFileSystem

from t5ray.cluster import Cluster
from t5ray.config import DecodeConfig, PredictConfig
from t5ray.errors import ConfigError, ModelError
from t5ray.scoring.job import run
from t5ray.scoring.ledger import Entry
from t5ray.scoring.plan import FinishedJob, prepare, settled
from tests.scoring.plans import begin, changed, planned


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "csv"}, r"format \('parquet' there, 'csv' here\)"),
        ({"scores": True}, r"scores \(False there, True here\)"),
        ({"on_long": "error"}, r"on_long \('truncate' there, 'error' here\)"),
        ({"shard_rows": 2}, r"shard_rows \(1 there, 2 here\)"),
        ({"task": "summarize"}, r"task\.inputs \('classify: \{text\}' there, 'summarize: \{text\}' here\)"),
        ({"decode": {"num_beams": 4}}, r"decode\.num_beams \(1 there, 4 here\)"),
        ({"precision": "bf16"}, r"precision \('fp32' there, 'bf16' here\)"),
        ({"columns": {"text": "label"}}, r"columns\.text \(None there, 'label' here\)"),
    ],
)
def test_another_job_in_the_same_folder_is_refused(
    settings: PredictConfig, change: dict[str, Any], message: str
) -> None:
    begin(settings)
    with pytest.raises(
        ConfigError, match=rf"out: holds the results of another job, which differs in .*{message}.*Choose"
    ):
        prepare(changed(settings, **change))


def test_another_model_or_input_in_the_same_folder_is_refused(settings: PredictConfig, tmp_path: Path) -> None:
    from tests.tiny import make_tiny_t5

    begin(settings)
    with pytest.raises(ConfigError, match=r"differs in model \(weights, tokenizer or card: "):
        prepare(changed(settings, model=str(make_tiny_t5(tmp_path / "other", seed=1))))
    Path(settings.input).write_text('{"text": "a"}\n{"text": "b"}\n{"text": "d"}\n')
    with pytest.raises(ConfigError, match=r"differs in input \(content of rows\.jsonl\)"):
        prepare(settings)


CARD = {
    "task": {"name": "shout", "inputs": "shout: {text}", "targets": "{loud}", "metrics": ["exact_match"]},
    "decode": {"num_beams": 2, "max_new_tokens": 5},
    "max_input_tokens": 25,
}


@pytest.mark.parametrize(
    ("there", "here", "told"),
    [
        (None, None, ""),
        (None, {"max_new_tokens": 7}, r"; decode\.max_new_tokens \(128 there, 7 here\)"),
        ({"num_beams": 4}, None, r"; decode\.num_beams \(4 there, 2 here\)"),
    ],
)
def test_what_comes_with_another_model_is_not_told_beside_it(
    settings: PredictConfig, tmp_path: Path, there: dict[str, Any] | None, here: dict[str, Any] | None, told: str
) -> None:
    begin(changed(settings, decode=there))
    bundle = shutil.copytree(settings.model, tmp_path / "bundle")
    (bundle / "t5ray.json").write_text(json.dumps(CARD))
    model = r"model \(weights, tokenizer or card: \w{12} there, \w{12} here\)"
    with pytest.raises(
        ConfigError, match=rf"which differs in {model}{told}\. The input was not compared\. Choose another"
    ):
        prepare(changed(settings, model=str(bundle), task=None, decode=here))


def test_only_the_decode_settings_that_were_given_are_told(settings: PredictConfig) -> None:
    begin(settings)
    with pytest.raises(
        ConfigError,
        match=r"differs in decode\.num_beams \(1 there, 4 here\)\. The input was not compared\. Choose another",
    ):
        prepare(changed(settings, decode=DecodeConfig(num_beams=4)))


@pytest.mark.parametrize("noted", [{}, {"num_beams": 2, "max_new_tokens": 128}])
def test_a_job_whose_record_notes_only_settings_that_were_asked_for_goes_on(
    settings: PredictConfig, noted: dict[str, Any]
) -> None:
    config = changed(settings, decode=noted or None)
    job = begin(config)
    record = Path(settings.output, "_job.json")
    fingerprint = {**job.fingerprint, "decode": noted}
    record.write_text(json.dumps({**json.loads(record.read_text()), "fingerprint": fingerprint}))
    assert len(planned(config).pending) == 2
    beams = int(noted.get("num_beams", 1))
    with pytest.raises(
        ConfigError,
        match=rf"differs in decode\.num_beams \({beams} there, 5 here\)\. The input was not compared\. Choose another",
    ):
        prepare(changed(settings, decode={**noted, "num_beams": 5}))


def test_automatic_precision_is_settled_once_for_all_workers_and_all_runs(
    settings: PredictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = changed(settings, precision="auto")
    monkeypatch.setattr("t5ray.scoring.plan.auto_precision", lambda gpus: "bf16")
    job = begin(auto)
    assert (job.fingerprint["precision"], job.spec.engine.precision, job.config.precision) == ("bf16",) * 3
    monkeypatch.setattr("t5ray.scoring.plan.auto_precision", lambda gpus: "fp32")  # as on another machine
    again = planned(auto)
    assert (again.spec.engine.precision, len(again.pending)) == ("bf16", 2)
    assert settled(again, 0.0) == again
    with pytest.raises(ConfigError, match=r"precision \('bf16' there, 'fp32' here\)"):
        prepare(settings)


def test_a_folder_that_another_job_took_meanwhile_is_refused_under_the_lock(settings: PredictConfig) -> None:
    late = planned(settings)
    begin(changed(settings, format="jsonl"))
    with pytest.raises(ConfigError, match=r"holds the results of another job, which differs in format \('jsonl' there"):
        run(late, Cluster(1, 2, 0, 1 << 30, None, started_here=True), lambda done, note="": None)


@pytest.fixture
def hub(tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What lets the hub id `some/model` stand for a commit, which is in the cache."""
    repo = tmp_path / "hub" / "models--some--model"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(repo.parent))

    def move(commit: str) -> None:
        shutil.copytree(tiny_t5, repo / "snapshots" / commit)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / "main").write_text(commit)

    return move


def test_a_hub_model_that_was_moved_is_another_model(settings: PredictConfig, hub: Callable[[str], None]) -> None:
    from_hub = changed(settings, model="some/model")
    hub("a" * 40)
    job = begin(from_hub)
    engine = job.spec.engine.load()
    assert engine.score(engine.prepare(["a"]))
    hub("b" * 40)
    with pytest.raises(
        ModelError, match="some/model: the model must not change while it scores, but its commit was aaaa"
    ):
        job.spec.engine.load()
    with pytest.raises(ConfigError, match=r"differs in model \(weights, tokenizer or card: "):
        prepare(from_hub)


def test_what_does_not_decide_the_output_may_change(settings: PredictConfig) -> None:
    strict = changed(settings, on_long="error")
    begin(strict)
    os.utime(settings.input, (1, 1))
    assert len(planned(changed(strict, workers=7, batch_tokens=64)).pending) == 2
    assert len(planned(changed(strict, on_long="truncate", retry_errors=True)).pending) == 3


def test_rows_that_were_cut_do_not_become_errors_by_another_try(settings: PredictConfig) -> None:
    begin(settings)
    with pytest.raises(ConfigError, match=r"differs in on_long \('truncate' there, 'error' here\)"):
        planned(changed(settings, on_long="error", retry_errors=True))


COUNTS = {"rows_out": 2, "rows_with_error": 0, "rows_per_s": 9.0, "padding_share": 0.1, "capped_share": 0.0}


@pytest.mark.parametrize("has_version", [True, False])
def test_an_input_is_known_again_without_a_time_by_its_content(
    settings: PredictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_version: bool
) -> None:
    def pack(first: str) -> None:
        with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
            archive.writestr("rows.jsonl", json.dumps({"text": first}) + '\n{"text": "b"}\n')
        ZipFileSystem.clear_instance_cache()  # as in another process

    def without_version(files: ZipFileSystem, path: str) -> dict[str, Any]:
        info: dict[str, Any] = fsspec.archive.AbstractArchiveFileSystem.info(files, path)
        return {name: info[name] for name in ("name", "size", "type")}

    if not has_version:
        monkeypatch.setattr(ZipFileSystem, "info", without_version)
    pack("a")
    config = changed(settings, input=f"zip://rows.jsonl::{tmp_path}/rows.zip")
    job = begin(config, state="done", num_shards=2, **COUNTS)
    job.spec.ledger.commit(1, b"part", Entry(rows=1))
    if has_version:
        assert isinstance(prepare(config), FinishedJob)
    else:
        assert planned(config).pending == ()
    pack("z")
    with pytest.raises(ConfigError, match=r"differs in input \(content of rows\.jsonl\)"):
        prepare(config)
    job.spec.ledger.part(1).unlink()
    with pytest.raises(ConfigError, match=r"differs in input \(content of rows\.jsonl\)"):
        prepare(config)
