"""A T5 and its tokenizer from a hub id or a directory, checked before anything is spent on them."""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from t5ray.errors import ModelError, one_line
from t5ray.model.card import require_model

T5_FAMILY = ("t5", "mt5", "umt5")
SPECIAL_TOKENS = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    """Where it came from: hub id or directory."""
    fits: dict[tuple[object, ...], int] = field(default_factory=dict, compare=False)
    """What its runs have learned of the memory here: see `training/micro_batch.py`."""


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Raises:
        ModelError: there is none, or it marks no end of sequence, which T5 needs.
    """
    require_model(source)
    _require_hub(source, "tokenizer")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as exc:
        raise ModelError(_unloadable(source, "tokenizer", exc)) from exc
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise ModelError(f"{source}: a T5 tokenizer must have an end-of-sequence and a padding token, but lacks one.")
    return tokenizer


def load_config(source: str) -> Any:
    """Load a model's configuration and check that it is a T5.

    Raises:
        ModelError: there is none, or it belongs to another kind of model.
    """
    require_model(source)
    _require_hub(source, "config.json")
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as exc:
        raise ModelError(_unloadable(source, "config.json", exc)) from exc
    if config.model_type not in T5_FAMILY:
        family = ", ".join(T5_FAMILY)
        raise ModelError(
            f"{source}: model_type must be one of {family}, but got {config.model_type!r}. Name a T5 model."
        )
    return config


def num_parameters(source: str) -> int:
    """Return how many numbers a model's weights are, by its configuration: nothing but that is read or downloaded.

    A head of its own counts, though transformers 5 ties it where it builds from a configuration.

    Raises:
        ModelError: there is no configuration, or it belongs to another kind of model.
    """
    config = load_config(source)
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(config)
    has_own_head = config.model_type != "t5" or not config.scale_decoder_outputs
    head = int(config.vocab_size * config.d_model) if has_own_head else 0
    numbers: int = head + sum(parameter.numel() for parameter in model.parameters())
    return numbers


def commit_of(source: str) -> str:
    """Return the commit of a hub id that loads now; empty for a directory, which has its content.

    Raises:
        ModelError: no T5 is there.
    """
    load_config(source)
    if Path(source).exists():
        return ""
    found = try_to_load_from_cache(source, "config.json")  # .../snapshots/COMMIT/config.json
    return Path(found).parent.name if isinstance(found, str) else ""


def load_model(source: str, *, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Load a T5 for training or scoring.

    Weights come from safetensors only, and code from transformers only: nothing of the checkpoint is executed.

    Raises:
        ModelError: nothing is there, it is no T5, its files are broken, weights or special tokens are missing, or its
            tokenizer is another model's.
    """
    load_config(source)
    tokenizer = load_tokenizer(source)
    _check_weight_files(Path(source))
    model = _whole_model(source, tokenizer, dtype=dtype)
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(f"{source}: the model must have a row for each token, but has {rows} for {len(tokenizer)}.")
    return LoadedModel(model.eval(), tokenizer, source)


def _whole_model(source: str, tokenizer: PreTrainedTokenizerBase, **how: object) -> Any:
    """Load a model all of whose weights are in its files: transformers gives random numbers to those that are not.

    Raises:
        ModelError: the files are broken, weights are missing or have another shape, or a special token is missing or
            not the tokenizer's.
    """
    try:
        model, found = AutoModelForSeq2SeqLM.from_pretrained(
            source,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below
            **how,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as exc:
        raise ModelError(_unloadable(source, "weights", exc)) from exc
    lacking = [f"{name} is missing" for name in sorted(found["missing_keys"] | _untied(source))]
    lacking += [
        f"{name} is {list(there)}, not {list(wanted)}" for name, there, wanted in sorted(found["mismatched_keys"])
    ]
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise ModelError(
            f"{source}: the weight files must hold all that config.json describes, but {', '.join(lacking[:3])}{more}. "
            "Name a whole T5: an encoder alone, or what a copy cut off, is none."
        )
    _settle_special_tokens(source, model)
    _require_own_tokenizer(source, model.config, tokenizer)
    return model


def _settle_special_tokens(source: str, model: PreTrainedModel) -> None:
    """Have a model's config hold what generation_config.json says, or config.json where that is silent.

    Predict falls back so token by token. `generate` goes by config.json only where there is no generation_config.json:
    one that names no end makes it decode without, and one that names no start makes it fail.

    Raises:
        ModelError: a token is stated nowhere, or there are several.
    """
    for name in SPECIAL_TOKENS:
        stated = (getattr(place, name, None) for place in (model.generation_config, model.config))
        found = next((value for value in stated if value is not None), None)
        token = found[0] if isinstance(found, list) and len(found) == 1 else found
        if not isinstance(token, int):
            raise ModelError(
                f"{source}: {name} must be one token id in generation_config.json or config.json, but is {found}. "
                "Write it there: T5's own are 0 to start and to pad, and 1 to end."
            )
        setattr(model.config, name, token)


def _require_own_tokenizer(source: str, config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model that ends or pads texts with other tokens than its tokenizer.

    Decoding goes by the model's, but targets, closed labels, CTranslate2 and whoever reads texts go by the tokenizer's.

    Raises:
        ModelError: names both.
    """
    for name in ("eos_token_id", "pad_token_id"):
        ours, theirs = getattr(config, name), getattr(tokenizer, name)
        if ours != theirs:
            raise ModelError(
                f"{source}: {name} must be the same in model and tokenizer, but is {ours} in generation_config.json or "
                f"config.json, and {theirs} ({tokenizer.convert_ids_to_tokens(theirs)}) in the tokenizer. Put the "
                f"tokenizer there that the model was trained with, or, if this is it, write {theirs} into both files."
            )


def _untied(source: str) -> set[str]:
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


def _check_weight_files(folder: Path) -> None:
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


def check_weights(folder: Path) -> None:
    """Open every weight file of a directory, which reads its header and finds it whole; no tensor is read.

    Raises:
        ModelError: there is none, one is missing, cut off or broken, they lack weights, or a special token is missing
            or not the tokenizer's.
    """
    _check_weight_files(folder)
    single, index = (folder / name for name in WEIGHT_FILES)
    names = {single.name}
    if not single.is_file() and index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    for name in sorted(names):
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except (OSError, SafetensorError) as exc:
            raise ModelError(_unloadable(str(folder), f"weights {name}", exc)) from exc
    _whole_model(str(folder), load_tokenizer(str(folder)), device_map="meta")


def is_bare(source: str) -> bool:
    """Say whether a directory holds a T5's config and tokenizer but no weights."""
    folder = Path(source)
    return (folder / "config.json").is_file() and not any((folder / name).exists() for name in WEIGHT_FILES)


def initialise(bare: str | Path, cache: Path, *, seed: int) -> Path:
    """Give a bare model seeded random weights, once, and return the directory that loads.

    Used by the embedded demo, whose package carries no weights.

    Args:
        bare: directory with config.json and tokenizer files.
        cache: parent of the directory to make; a directory made before with the same seed is returned as it is.
    """
    config_text = (Path(bare) / "config.json").read_text(encoding="utf-8")
    digest = hashlib.sha256(f"{seed}\n{torch.__version__}\n{config_text}".encode()).hexdigest()[:12]
    target = cache / f"random-t5-{digest}"
    if not (target / WEIGHT_FILES[0]).is_file():
        config, tokenizer = load_config(str(bare)), load_tokenizer(str(bare))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForSeq2SeqLM.from_config(config)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".random-t5-", dir=cache) as temporary:
            tokenizer.save_pretrained(temporary)
            model.save_pretrained(temporary)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(temporary, f"{temporary}.whole")
        Path(f"{temporary}.whole").replace(target)
    return target


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of everything that decides how text becomes tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    special = json.dumps({k: str(v) for k, v in tokenizer.special_tokens_map.items()}, sort_keys=True)
    return hashlib.sha256(f"{type(tokenizer).__name__}\n{special}\n{state}".encode()).hexdigest()


def model_max_tokens(config: Any, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the longest input the model was trained on, in tokens with EOS; None where it does not say.

    T5's relative positions have no hard limit; n_positions and the tokenizer's model_max_length record the practice.
    """
    stated = [getattr(config, "n_positions", None), tokenizer.model_max_length]
    known = [int(value) for value in stated if value is not None and 0 < value < 1_000_000]
    return max(known) if known else None


def _require_hub(source: str, part: str) -> None:
    """Refuse a hub id at its first unanswered request: for a file, the hub's client would try for half a minute.

    Raises:
        ModelError: the hub does not answer, and its model was never downloaded.
    """
    if Path(source).exists():
        return
    try:
        if not isinstance(try_to_load_from_cache(source, "config.json"), str):
            snapshot_download(source, allow_patterns="config.json")
    except LocalEntryNotFoundError as exc:
        if not isinstance(exc.__cause__, HfHubHTTPError):  # an answer, which transformers has words for
            raise ModelError(_unloadable(source, part, exc.__cause__ or exc)) from exc
    except (OSError, ValueError):
        return  # likewise


def _unloadable(source: str, part: str, exc: BaseException) -> str:
    reason = one_line(exc)[:300]
    if Path(source).exists():
        return f"{source}: must be a T5 model directory, but its {part} could not be read: {reason}"
    return (
        f"{source}: must be a directory or a Hugging Face id that can be reached, but its {part} could not be loaded: "
        f"{reason.rstrip('.')}. Check the spelling, the network, and HF_TOKEN for a private model."
    )
