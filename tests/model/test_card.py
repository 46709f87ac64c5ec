"""Whether the name of a model means a directory here or a model of the hub, and what is said where it is not there."""

import hashlib
from pathlib import Path

import pytest

from t5ray.errors import ModelError
from t5ray.model.card import CARD, fingerprint, is_path, loaded_fingerprint, require_model
from tests.tiny import make_tiny_t5


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "topics" / "best").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    "source", ["./t5-small", "../t5", ".", "/models/t5", "~/t5", "runs/topics/bset", "runs/topic", "a/b/c"]
)
def test_a_path_is_told(source: str) -> None:
    assert is_path(source)


@pytest.mark.parametrize(
    "source", ["t5-small", "google/flan-t5-small", "models:/topics@champion", "runs:/1234/bundle", "s3://bucket/a/b"]
)
def test_a_name_that_lies_elsewhere_is_no_path(source: str) -> None:
    assert not is_path(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("runs/topics/bset", r"^runs/topics/bset: .* must be there, but is not\. Did you mean `best`\?$"),
        ("runs/other/best", r"^runs/other/best: .* must be there, but is not\. Check the path\.$"),
        ("runs/file", r"^runs/file: .* must be there, but it is a file\."),
    ],
)
def test_a_path_where_nothing_is_gets_the_nearest_name(folder: Path, source: str, message: str) -> None:
    (folder / "runs" / "file").write_text("")
    with pytest.raises(ModelError, match=message):
        require_model(source)


@pytest.mark.parametrize("source", ["runs/topics", "./runs/topics", "topics"])
def test_the_folder_of_a_run_gets_its_bundle(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "runs/topics/best/config.json").write_text("{}")
    monkeypatch.chdir(folder / "runs" if source == "topics" else folder)
    bundle = Path(source) / "best"
    told = rf"^{source}: must hold a model, but holds a run, whose bundle is {bundle}\. Use {bundle}\.$"
    with pytest.raises(ModelError, match=told):
        require_model(source)
    require_model(str(bundle))


def test_names_of_mlflow_are_for_scoring() -> None:
    with pytest.raises(ModelError, match=r"^models:/topics@champion: .* only predict and evaluate take MLflow's names"):
        require_model("models:/topics@champion")


def test_what_is_there_or_may_be_elsewhere_passes() -> None:
    for source in ("runs/topics/best", "t5-small", "google/flan-t5-small"):
        require_model(source)


@pytest.mark.parametrize(
    ("name", "is_loaded"),
    [
        ("config.json", True),
        ("generation_config.json", True),
        ("model.safetensors", True),
        ("model-00002-of-00003.safetensors", True),
        ("model.safetensors.index.json", True),
        ("tokenizer.json", True),
        ("tokenizer_config.json", True),
        ("special_tokens_map.json", True),
        ("added_tokens.json", True),
        ("adapter_config.json", True),  # transformers puts the adapter of such a folder upon the weights
        ("spiece.model", True),
        ("vocab.json", True),
        ("merges.txt", True),
        ("notes.txt", False),
        ("all_results.json", False),
        ("trainer_state.json", False),
        ("t5ray.json", False),  # what scoring knows of a bundle is not trained on
    ],
)
def test_only_what_is_loaded_makes_another_model(tmp_path: Path, name: str, is_loaded: bool) -> None:
    model = tmp_path / "t5"
    model.mkdir()
    (model / "config.json").write_text("{}")
    before, whole = loaded_fingerprint(str(model)), fingerprint(model)
    (model / name).write_text("other")
    assert (loaded_fingerprint(str(model)) != before) == is_loaded
    assert (fingerprint(model) != whole) == (is_loaded or name == CARD)  # of scoring


def test_a_folder_of_a_model_alone_has_the_digest_that_jobs_begun_before_have(tmp_path: Path) -> None:
    model = make_tiny_t5(tmp_path / "t5")
    (model / CARD).write_text("{}")
    wanted = hashlib.sha256()
    for path in sorted(model.iterdir()):
        wanted.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    (model / "seen.npy").write_bytes(b"what training saw changes no prediction")
    assert fingerprint(model) == wanted.hexdigest()
