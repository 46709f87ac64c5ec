"""A node's own look at itself, in this process: what does not work is a sentence."""

import importlib.metadata
import json
import os
import platform
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from t5ray.config import TrackingConfig
from t5ray.health.node import FROM_DRIVER, Questions, code_digest, examine, software
from t5ray.storage import remove_dir, upload_dir


@pytest.fixture
def questions(tmp_path: Path, words: Path, tiny_t5: Path) -> Questions:
    """Questions that this machine can answer well."""
    folder = tmp_path / "storage" / ".doctor"
    folder.mkdir(parents=True)
    (folder / FROM_DRIVER).write_text("nonce")
    return Questions("here", "id0", str(tmp_path), str(folder), "nonce", data=str(words), model=str(tiny_t5))


def test_a_good_node_has_no_problem_and_answers_the_driver(questions: Questions, tmp_path: Path) -> None:
    report = examine(questions)
    assert (report.storage, report.tracking, report.data, report.model) == ("", "", "", "")
    assert Path(questions.storage_folder, "id0").read_text() == "nonce"
    assert report.software == software()
    assert report.disk_bytes == shutil.disk_usage(tmp_path).total
    assert (report.node, report.node_id) == ("here", "id0")


def test_bf16_is_what_the_device_of_training_has(questions: Questions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t5ray.model.numeric.default_device", lambda: torch.device("cuda"))
    monkeypatch.setattr("t5ray.model.numeric.has_fast_bf16", lambda device_type: device_type == "cuda")
    found = [examine(replace(questions, gpus=gpus)).has_fast_bf16 for gpus in (0.0, 0.5)]
    assert found == [False, True]


def test_software_is_what_is_installed() -> None:
    found = software()
    assert list(found) == ["Python", "t5ray", "ray", "torch", "transformers"]
    assert found["Python"] == platform.python_version()
    assert all(found[name] == importlib.metadata.version(name) for name in ("ray", "torch", "transformers"))


def test_code_of_one_version_that_differs_is_told_apart(tmp_path: Path) -> None:
    for name, code in (("one", "x = 1\n"), ("same", "x = 1\n"), ("other", "x = 2\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text(code)
    one, same, other = (code_digest(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same != other


def test_every_problem_is_told(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    server = TrackingConfig(uri="http://127.0.0.1:1")
    report = examine(Questions("n", "id1", str(tmp_path), f"{missing}/.doctor", "nonce", server, missing, missing))
    assert report.storage == "what the driver writes there is not there"
    assert "MLflow must answer at http://127.0.0.1:1" in report.tracking
    assert "there must be a file, folder or glob of rows, but nothing is there" in report.data
    assert "the directory of a model must be there, but is not" in report.model
    assert not (tmp_path / "missing").exists()


def test_a_model_at_a_uri_is_fetched(
    questions: Questions, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upload_dir(tiny_t5, "memory://doctor/best")
    try:
        assert examine(replace(questions, model="memory://doctor/best")).model == ""
        assert "holds no config.json" in examine(replace(questions, model="memory://doctor/other")).model
    finally:
        remove_dir("memory://doctor")


def test_weights_that_are_cut_off_or_gone_are_told(questions: Questions, tiny_t5: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_t5, tmp_path / "model")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert "its weights model.safetensors could not be read" in examine(replace(questions, model=str(folder))).model
    weights.rename(folder / "model-1.safetensors")
    assert "its weights model.safetensors could not be read" in examine(replace(questions, model=str(folder))).model
    (folder / "model-1.safetensors").write_bytes(whole)
    places = dict.fromkeys(load_file(folder / "model-1.safetensors"), "model-1.safetensors")
    index = {"metadata": {}, "weight_map": {**places, "shared.weight": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "its weights model-2.safetensors could not be read" in examine(replace(questions, model=str(folder))).model
    (folder / "model-2.safetensors").write_bytes(whole)
    assert examine(replace(questions, model=str(folder))).model == ""


def test_the_last_of_many_files_is_opened_too(questions: Questions, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in range(100):
        (folder / f"{number:03}.jsonl").write_text('{"text": "a"}\n')
    assert examine(replace(questions, data=str(folder))).data == ""
    (folder / "099.jsonl").unlink()
    (folder / "099.jsonl").symlink_to(tmp_path / "gone")
    assert examine(replace(questions, data=f"{folder}/*.jsonl")).data.startswith("099.jsonl: ")


class Refused(Exception):
    """What a driver of a storage may raise: neither an OSError nor a ValueError."""


def test_whatever_a_driver_of_a_storage_raises_is_a_sentence(
    questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise Refused("Unable to locate credentials")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    assert "Unable to locate credentials" in examine(questions).storage


def test_another_storage_at_the_same_path_is_told(questions: Questions) -> None:
    Path(questions.storage_folder, FROM_DRIVER).write_text("another")
    report = examine(questions)
    assert report.storage == "what the driver writes there reads differently"
    assert not Path(questions.storage_folder, "id0").exists()


@pytest.mark.parametrize(("given", "left"), [("", None), ("1", "1"), (None, None)])
def test_gpus_that_ray_hides_from_who_asked_for_none_are_looked_for_and_a_users_choice_stands(
    questions: Questions, monkeypatch: pytest.MonkeyPatch, given: str | None, left: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given or "")
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    examine(questions)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == left
