"""What docs/security.md promises of everything that is read: nothing in it is executed, and it stays in its folder."""

import ast
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from t5ray.errors import ModelError
from t5ray.model.loading import load_config, load_model, load_tokenizer
from t5ray.scoring.fetching import fetch_uri
from t5ray.training.checkpoint import LAST, load_last
from tests.tiny import make_tiny_t5

PACKAGE = Path(__file__).parents[1] / "t5ray"
UNPICKLING = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
UNPACKING = {"tarfile", "patoolib"}
SECRET_VARIABLES = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "ACCESS_KEY")


def calls() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield place, dotted name and constant keywords of every call in the package."""
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords if k.arg}
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", ast.unparse(node.func), keywords


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


# --- Of the code: what it does not call ---------------------------------------------------------------------------


def test_nothing_is_unpickled_or_unpacked() -> None:
    """Of pickle only the name of an exception is used, which torch raises."""
    found = set[str]()
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names} - {"pickle"}
            elif isinstance(node, ast.ImportFrom):
                names = {node.module or ""}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pickle":
                names = {"pickle"} if node.attr != "UnpicklingError" else set()
            else:
                continue
            found |= {f"{path}: {name}" for name in names if name.split(".")[0] in UNPICKLING | UNPACKING}
    assert found == set()


def test_what_can_execute_a_file_is_called_in_its_safe_form() -> None:
    safe = {"load": "weights_only", "from_pretrained": "trust_remote_code", "np.load": "allow_pickle"}
    wanted = {"torch.load": (safe["load"], True), "np.load": (safe["np.load"], False)}
    seen, faults = set[str](), []
    for place, name, keywords in calls():
        key = "from_pretrained" if name.endswith(".from_pretrained") else name
        keyword, value = {**wanted, "from_pretrained": (safe["from_pretrained"], False)}.get(key, ("", None))
        if keyword:
            seen.add(key)
            faults += [f"{place}: {keyword}={keywords.get(keyword)}"] * (keywords.get(keyword) is not value)
        if "AutoModel" in name and key == "from_pretrained":
            faults += [f"{place}: use_safetensors"] * (keywords.get("use_safetensors") is not True)
        if name in {"eval", "exec", "os.system"} or name.endswith((".extractall", ".unpack_archive")):
            faults.append(f"{place}: {name}")
        faults += [f"{place}: through a shell"] * (keywords.get("shell") is True)
    assert faults == []
    assert seen == {"torch.load", "np.load", "from_pretrained"}


def test_no_token_is_read_from_the_environment() -> None:
    """The libraries that need one read it themselves; what this package does not hold it cannot show."""
    names = set[str]()
    for _, tree in trees():
        for node in ast.walk(tree):
            is_environment = isinstance(node, ast.Call | ast.Subscript) and "environ" in ast.unparse(node)
            if is_environment:
                names |= {str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant)}
    assert "RAY_ADDRESS" in names
    assert not {name for name in names if name.isupper() and any(word in name for word in SECRET_VARIABLES)}


# --- Of files: what they may not do -------------------------------------------------------------------------------


class Bomb:
    """What a pickle runs when it is read: it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_saved_state_executes_nothing(tmp_path: Path) -> None:
    torch.save({"model": Bomb(tmp_path / "mark")}, tmp_path / LAST)

    assert load_last(tmp_path) is None
    assert not (tmp_path / "mark").exists()


@pytest.fixture
def with_code(tmp_path: Path) -> Path:
    """A model that brings code, which makes a file when it is imported."""
    folder = make_tiny_t5(tmp_path / "model")
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'mark')!r})\nclass Evil: ...\n")
    own = {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", None], "AutoModelForSeq2SeqLM": "evil.Evil"}
    for name in ("config.json", "tokenizer_config.json"):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**found, "auto_map": own}))
    return folder


@pytest.mark.parametrize("model_type", ["t5", "evil"])
def test_code_that_a_model_brings_is_not_run(with_code: Path, model_type: str, tmp_path: Path) -> None:
    config = json.loads((with_code / "config.json").read_text())
    (with_code / "config.json").write_text(json.dumps({**config, "model_type": model_type}))

    for load in (load_config, load_tokenizer, load_model):
        with contextlib.suppress(ModelError):  # `t5` is transformers' own class, whatever the folder brings
            load(str(with_code))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/outside.safetensors", "a/../../outside.safetensors"])
def test_weights_outside_of_the_model_are_not_read(tmp_path: Path, shard: str) -> None:
    folder = make_tiny_t5(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"shared.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(ModelError, match=r"weight files must lie in the model's folder, but .*outside\.safetensors"):
        load_model(str(folder))


def test_a_listing_that_leads_out_of_the_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = fsspec.filesystem("memory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    listing = {"/m/config.json": {"size": 2}, "/m/../../escaped": {"size": 1}}
    monkeypatch.setattr(type(files), "find", lambda *_, **__: listing)

    with pytest.raises(ModelError, match=r"files must lie in the model's folder, but .*\.\./\.\./escaped"):
        fetch_uri("memory://m")
    assert not (tmp_path / "cache").exists() or not any((tmp_path / "cache").rglob("*escaped*"))
