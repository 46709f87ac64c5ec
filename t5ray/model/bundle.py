"""The bundle: a plain Hugging Face directory plus `t5ray.json`, all that scoring needs.

A bundle appears whole or not at all: it is written to a temporary directory, loaded back, its logits compared with
those of the model in memory, and only then renamed to its place.
"""

import json
import shutil
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from transformers import GenerationConfig

from t5ray.config import DecodeConfig
from t5ray.disk import sync
from t5ray.errors import ModelError
from t5ray.model.card import CARD, SEEN, BundleCard
from t5ray.model.loading import LoadedModel, load_model


def draft_weights(loaded: LoadedModel, target: Path, weights: Mapping[str, torch.Tensor] | None = None) -> Path:
    """Write model and tokenizer as a Hugging Face directory beside the target, and return which: see `take_place`.

    Args:
        weights: what to write in the place of the model's own weights, by their names.
    """
    draft = _beside(target)
    draft.mkdir(parents=True)
    try:
        _write(loaded, draft, weights)
        _sync(draft)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return draft


def take_place(draft: Path, target: Path, older: Collection[Path] = ()) -> None:
    """Move a finished directory to its target, whole or not at all; older ones beside it go.

    A kill leaves the older ones, the newer one, or all of them, each whole, once `clear_leftovers` has tidied up.
    """
    put_back(target)
    going = [path for path in {*older, target} if path.exists()]
    for path in going:
        shutil.rmtree(_moved_away(path), ignore_errors=True)  # of a kill before: its place is needed
        path.rename(_moved_away(path))
    draft.rename(target)
    sync(target.parent)
    for path in going:
        gone = _beside(path)  # a name that nobody puts back: what is half deleted is not
        _moved_away(path).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def publish(loaded: LoadedModel, card: BundleCard, target: Path, *, seen: npt.NDArray[np.uint64] | None = None) -> None:
    """Write a bundle from a model in memory, prove that it loads back equal, and move it to its place.

    Args:
        seen: digests of the input texts that the model has seen.
    Raises:
        ModelError: the logits of the reloaded model differ, or the disk refused.
    """
    clear_leftovers(target.parent, target.name)
    temporary = _beside(target)
    try:
        temporary.mkdir(parents=True)
        loaded.model.generation_config = _generation_config(loaded, card.decode)
        _write(loaded, temporary)
        (temporary / CARD).write_text(f"{card.model_dump_json(indent=1)}\n", encoding="utf-8")
        if seen is not None:
            np.save(temporary / SEEN, seen)
        _check_reload(loaded, card, temporary)
        _sync(temporary)
        take_place(temporary, target)
    except (OSError, SafetensorError) as exc:  # weights that the disk refuses are an error of safetensors' own
        raise ModelError(f"{target}: the bundle must be writable, but: {exc}. Free space or choose --storage.") from exc
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(loaded: LoadedModel, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write weights, configuration and tokenizer.

    transformers 5 notes `tie_word_embeddings: true` even for flan-T5 models, whose head is not tied; what it writes
    would be tied again, and ruined, by transformers 4. The truth goes into the file.
    """
    loaded.model.save_pretrained(folder, state_dict=weights)
    loaded.tokenizer.clean_up_tokenization_spaces = False  # so that `tokenizer.decode` gives the texts of predict
    loaded.tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    head, embeddings = loaded.model.get_output_embeddings(), loaded.model.get_input_embeddings()
    config["tie_word_embeddings"] = head.weight is embeddings.weight
    path.write_text(f"{json.dumps(config, indent=2)}\n", encoding="utf-8")


def _generation_config(loaded: LoadedModel, decode: DecodeConfig) -> GenerationConfig:
    """Return settings with which plain `model.generate(**inputs)` decodes as the bundle does."""
    config = loaded.model.config
    return GenerationConfig(
        num_beams=decode.num_beams,
        length_penalty=decode.length_penalty if decode.num_beams > 1 else None,
        early_stopping=decode.early_stopping if decode.num_beams > 1 else None,
        max_new_tokens=decode.max_new_tokens,
        min_new_tokens=decode.min_new_tokens or None,
        repetition_penalty=decode.repetition_penalty if decode.repetition_penalty != 1.0 else None,
        no_repeat_ngram_size=decode.no_repeat_ngram_size or None,
        num_return_sequences=decode.num_return_sequences,
        **_sampling(decode),
        decoder_start_token_id=config.decoder_start_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def _sampling(decode: DecodeConfig) -> dict[str, bool | float | int]:
    if not decode.do_sample:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": decode.temperature, "top_k": decode.top_k, "top_p": decode.top_p}


@torch.no_grad()
def _check_reload(loaded: LoadedModel, card: BundleCard, folder: Path) -> None:
    """Compare the logits of the written model with those in memory on a probe text."""
    again = load_model(str(folder))
    probe = loaded.tokenizer(card.task.prefix + "probe 123", return_tensors="pt").input_ids
    was_training = loaded.model.training
    here = loaded.model.eval()(input_ids=probe.to(loaded.model.device), labels=probe.to(loaded.model.device)).logits
    there = again.model(input_ids=probe, labels=probe).logits
    loaded.model.train(was_training)
    if not torch.allclose(here.float().cpu(), there, rtol=1e-3, atol=1e-3):
        gap = (here.float().cpu() - there).abs().max().item()
        raise ModelError(f"{folder}: a reloaded bundle must give the same logits, but they differ by up to {gap:.3g}.")


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")


def _moved_away(target: Path) -> Path:
    """Return where an older directory waits while a newer one takes its place."""
    return target.with_name(f".{target.name}.old")


def clear_leftovers(folder: Path, names: str) -> None:
    """Undo what a kill left half done beside targets that are written whole or not at all; nobody may be writing them.

    Args:
        names: glob of the targets' names in the folder.
    """
    for old in folder.glob(f".{names}.old"):
        put_back(folder / old.name.removeprefix(".").removesuffix(".old"))
    for leftover in folder.glob(f".{names}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def put_back(target: Path) -> None:
    """Give a target its older directory back where a kill fell between the two renames of a replacement."""
    old = _moved_away(target)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(target)


def discard(target: Path) -> None:
    """Delete a directory so that a kill leaves no half of it under its name."""
    gone = _beside(target)
    with suppress(FileNotFoundError):
        target.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        sync(path)
