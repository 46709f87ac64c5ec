from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from t5ray.errors import ModelError
from t5ray.scoring import fetching
from t5ray.scoring.engines import EngineSpec
from t5ray.scoring.fetching import fetch_registered, fetch_uri

URI = "memory://bucket/topics/best"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "t5ray" / "models"


@pytest.fixture(autouse=True)
def bucket() -> Iterator[None]:
    put("model.safetensors", b"weights")
    put("config.json", b"{}")
    yield
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def put(name: str, content: bytes) -> None:
    with fsspec.open(f"{URI}/{name}", "wb") as file:
        file.write(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_copied_once_while_it_is_the_same(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fetch_uri(URI)
    assert contents(first) == {"model.safetensors": b"weights", "config.json": b"{}"}
    assert list(cache.iterdir()) == [first]
    assert first.name.startswith("bucket-topics-best-")
    with monkeypatch.context() as changed:
        changed.setattr(fetching, "download_dir", lambda *_: pytest.fail("downloaded again"))
        assert fetch_uri(URI) == first
    put("model.safetensors", b"WEIGHTS")
    second = fetch_uri(URI)
    assert contents(second)["model.safetensors"] == b"WEIGHTS"
    assert contents(first)["model.safetensors"] == b"weights"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("memory://bucket/none", "must be the folder of a model, but holds no config.json"),
        ("nosuch://bucket/best", "must be at an address that can be reached, but: Protocol not known: nosuch"),
    ],
)
def test_an_address_without_a_model_is_refused(uri: str, message: str, cache: Path) -> None:
    with pytest.raises(ModelError, match=f"{uri}: .*{message}"):
        fetch_uri(uri)
    assert not cache.exists()


def test_an_unwritable_cache_is_told_with_its_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"fetched models must be kept there, but: .*set XDG_CACHE_HOME"):
        fetch_uri(URI)


def test_a_registered_model_has_a_folder_per_content(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(uri: str, tracking_uri: str, folder: Path) -> Path:
        asked.append((uri, tracking_uri))
        (folder / "best").mkdir()
        (folder / "best" / "config.json").write_text("aab"[len(asked) - 1])
        return folder / "best"

    monkeypatch.setattr(fetching, "resolve_model", download)
    found = [fetch_registered("models:/topics@champion", "http://host") for _ in range(3)]
    assert found[0] == found[1] != found[2]
    assert [contents(folder) for folder in found[1:]] == [{"config.json": b"a"}, {"config.json": b"b"}]
    assert found[0].name.startswith("topics@champion-")
    assert sorted(cache.iterdir()) == sorted(set(found))
    assert asked[0] == ("models:/topics@champion", "http://host")


@pytest.mark.parametrize("name", ["../../topics", "a/b", "..", "/etc/passwd", "x" * 300])
def test_whatever_its_name_a_registered_model_lies_in_the_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def download(uri: str, tracking_uri: str, folder: Path) -> Path:
        (folder / "config.json").write_text("a")
        return folder

    monkeypatch.setattr(fetching, "resolve_model", download)
    assert fetch_registered(f"models:/{name}@champion", "http://host").resolve().parent == cache.resolve()


def test_a_worker_on_another_node_fetches_the_very_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = fetch_uri(URI)
    spec = EngineSpec(str(here), None, "fp32", 64, URI)
    assert spec._local_source() == str(here)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other node"))
    elsewhere = EngineSpec(str(tmp_path / "gone" / here.name), None, "fp32", 64, URI)
    assert contents(Path(elsewhere._local_source())) == contents(here)
    put("model.safetensors", b"WEIGHTS")
    with pytest.raises(ModelError, match="the model must not change while it scores, but it did"):
        elsewhere._local_source()
    with pytest.raises(ModelError, match=r"/gone/best: the model must lie where every node can read it"):
        EngineSpec(str(tmp_path / "gone" / "best"), None, "fp32", 64)._local_source()
    assert EngineSpec("google/flan-t5-small", None, "fp32", 64)._local_source() == "google/flan-t5-small"


@pytest.mark.parametrize(
    ("engine", "made_by"), [("torch", "engine.Engine"), ("ctranslate2", "ctranslate.CTranslateEngine")]
)
def test_a_worker_computes_on_a_gpu_only_where_it_was_given_one(
    gpu_in_sight: None, monkeypatch: pytest.MonkeyPatch, engine: str, made_by: str
) -> None:
    monkeypatch.setattr(f"t5ray.model.{made_by}", lambda source, **given: given["device"].type)
    spec = EngineSpec("google/flan-t5-small", None, "fp32", 64, engine=engine)
    assert [str(each.load()) for each in (spec, replace(spec, gpus=0.5))] == ["cpu", "cuda"]
