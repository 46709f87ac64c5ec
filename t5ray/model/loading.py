"""A T5 and its tokenizer from a hub id or a directory, checked before anything is spent on them."""

import hashlib
import json
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
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from t5ray.errors import ModelError, one_line
from t5ray.model.card import require_model
from t5ray.model.special_tokens import require_own_tokenizer, settle_special_tokens
from t5ray.model.weight_files import WEIGHT_FILES, check_index, lacking_where_untied

T5_FAMILY = ("t5", "mt5", "umt5")


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
    check_index(Path(source))
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
    lacking = [f"{name} is missing" for name in sorted(found["missing_keys"] | lacking_where_untied(source))]
    lacking += [
        f"{name} is {list(there)}, not {list(wanted)}" for name, there, wanted in sorted(found["mismatched_keys"])
    ]
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise ModelError(
            f"{source}: the weight files must hold all that config.json describes, but {', '.join(lacking[:3])}{more}. "
            "Name a whole T5: an encoder alone, or what a copy cut off, is none."
        )
    settle_special_tokens(source, model)
    require_own_tokenizer(source, model.config, tokenizer)
    return model


def check_weights(folder: Path) -> None:
    """Open every weight file of a directory, which reads its header and finds it whole; no tensor is read.

    Raises:
        ModelError: there is none, one is missing, cut off or broken, they lack weights, or a special token is missing
            or not the tokenizer's.
    """
    check_index(folder)
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
