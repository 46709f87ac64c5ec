"""How a plain model decodes by its own files, in the words of the decode settings. Imports no torch.

Comes in: a directory or hub id, and what a user asks for. Goes out: the settings in force. `generate` goes by
`generation_config.json`, or by config.json where there is none, and so does this; what decoding here has no setting for
is refused. A bundle's own settings are in its card.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t5ray.config import AskedDecode, DecodeConfig
from t5ray.config.decode import DEFAULT_NEW_TOKENS, overridden
from t5ray.errors import ModelError

FILES = ("generation_config.json", "config.json")
"""Where `generate` looks; the first that is there says all."""
SAME = (
    "num_beams",
    "length_penalty",
    "early_stopping",
    "max_new_tokens",
    "min_new_tokens",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "num_return_sequences",
)
"""Names that mean the same there and here."""
WITH_START = {"max_new_tokens": "max_length", "min_new_tokens": "min_length"}
"""Setting -> what stands for it in older files, where the start token counts as well."""
SAMPLED_TOP_K = 50
"""Of `generate` where a file says only that it samples: as transformers' default it is left out of files."""
UNKNOWN_HERE: dict[str, object] = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "constraints": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "exponential_decay_length_penalty": None,
    "force_words_ids": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1,
    "max_time": None,
    "sequence_bias": {},
    "stop_strings": None,
    "suppress_tokens": None,
    "token_healing": False,
    "watermarking_config": None,
}
"""What changes texts and has no setting here -> the value besides null and `[]` with which it changes nothing.
`max_time` cuts a text when the clock says, so that it would follow from the machine."""
UNKNOWN_WITH_BEAMS: dict[str, object] = {"num_beam_groups": 1, "renormalize_logits": False}
"""The same of what matters to beams alone. `diversity_penalty` matters to groups of them alone, which are refused."""
UNKNOWN_WITHOUT_BEAMS: dict[str, object] = {"dola_layers": None}
"""The same of what beams leave out."""
UNKNOWN_WITH_GREEDY: dict[str, object] = {"penalty_alpha": 0}
"""The same of what matters to greedy decoding alone, and there unless `top_k` is stated and leaves no choice."""
UNKNOWN_WITH_SAMPLING: dict[str, object] = {
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "min_p": 0,
    "top_h": 1,
    "typical_p": 1,
}
"""The same of what matters to sampling alone."""


def plain_decode(source: str, asked: AskedDecode | None = None) -> DecodeConfig:
    """Return the decode settings of a plain model with those that are asked for upon them, and an output cap.

    Raises:
        ModelError: its file cannot be read, or asks for what decoding here does not know.
        ValidationError: the settings do not go together.
    """
    file, stated = _read(source)
    decode = overridden(_in_our_words(stated, f"{source}: {file}"), asked)
    unknown = {**UNKNOWN_HERE, **(UNKNOWN_WITH_BEAMS if decode.num_beams > 1 else UNKNOWN_WITHOUT_BEAMS)}
    if decode.do_sample:
        unknown |= UNKNOWN_WITH_SAMPLING
    elif decode.num_beams == 1 and stated.get("top_k") not in (0, 1):
        unknown |= UNKNOWN_WITH_GREEDY
    found = {name: stated[name] for name in unknown if stated.get(name) not in (None, unknown[name], [])}
    if found:
        told = ", ".join(f"{name} {json.dumps(value)}" for name, value in found.items())
        raise ModelError(
            f"{source}: {file} must ask for nothing that decoding here does not know, but it has {told}. Take that out "
            "of the file in a copy of the model, which then decodes without it."
        )
    return decode


def _in_our_words(stated: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what a file states as decode settings.

    Raises:
        ModelError: a length that counts the start token is no whole number.
    Example:
        {"num_beams": 4, "max_length": 30} -> {"num_beams": 4, "max_new_tokens": 29}
    """
    own: dict[str, Any] = {"max_new_tokens": DEFAULT_NEW_TOKENS}
    for ours, theirs in WITH_START.items():
        length = stated.get(theirs)
        if length is None or stated.get(ours) is not None:
            continue
        if not isinstance(length, int | float) or length % 1:
            raise ModelError(f"{where}: {theirs} must be a whole number, but is {json.dumps(length)}. Mend the file.")
        own[ours] = max(0, int(length) - 1)
    own |= {name: stated[name] for name in SAME if stated.get(name) is not None}
    return {"top_k": SAMPLED_TOP_K, **own} if own.get("do_sample") else own


def _read(source: str) -> tuple[str, Mapping[str, Any]]:
    """Return the name of the file that says how a model decodes, and its content."""
    for name in FILES:
        path = _path_of(source, name)
        if path is None:
            continue
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise ModelError(f"{path}: must be JSON that can be read, but: {exc}.") from exc
        if not isinstance(stated, dict):
            raise ModelError(f"{path}: must hold one JSON object, but holds {json.dumps(stated)[:80]}.")
        return name, stated
    return FILES[0], {}


def _path_of(source: str, name: str) -> Path | None:
    folder = Path(source)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from transformers.utils.hub import cached_file  # with torch, which no driver needs for a folder

    found = cached_file(  # a file that is not there, or not within reach, is none to transformers' own loader, too
        source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return Path(found) if found else None
