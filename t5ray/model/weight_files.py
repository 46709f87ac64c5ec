"""What a checkpoint's weight files say that they hold, without reading a tensor; `loading.check_weights` opens them."""

import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from transformers import PreTrainedConfig

from t5ray.errors import ModelError

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")


def lacking_where_untied(source: str) -> set[str]:
    """Return which of head and embeddings are missing where a checkpoint says that they differ.

    transformers 5 ties them for every T5 whose files have but one of them.
    """
    settings, _ = PreTrainedConfig.get_config_dict(source)
    names = _tensor_names(source)
    if settings.get("tie_word_embeddings", True) or not names:
        return set()
    modules = {name.split(".")[-2] for name in names if "." in name}
    head = set() if "lm_head" in modules else {"lm_head.weight"}
    return head if modules & {"shared", "embed_tokens"} else head | {"shared.weight"}


def _tensor_names(source: str) -> set[str]:
    """Return the names of all tensors in the weight files of a directory or a downloaded model; none if not known."""
    single, index = (_file_of(source, name) for name in WEIGHT_FILES)
    if single is not None:
        with safe_open(single, framework="pt") as file:
            return set(file.keys())
    return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"]) if index is not None else set()


def _file_of(source: str, name: str) -> Path | None:
    folder = Path(source)
    if folder.exists():
        return folder / name if (folder / name).is_file() else None
    found = try_to_load_from_cache(source, name)
    return Path(found) if isinstance(found, str) else None


def check_index(folder: Path) -> None:
    """Refuse an index of weights that names files elsewhere: transformers would read them.

    Raises:
        ModelError: the index is broken, or leads out of the folder.
    """
    index = folder / WEIGHT_FILES[1]
    if not index.is_file():
        return
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as exc:
        raise ModelError(f"{index}: must be an index of weights, but could not be read: {exc}.") from exc
    if outside := sorted(str(name) for name in names if Path(str(name)).name != name):
        raise ModelError(f"{index}: all weight files must lie in the model's folder, but one is {outside[0]!r}.")
