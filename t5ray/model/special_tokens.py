"""The tokens that begin, end and pad a text: stated by a model's files, and the same ones as its tokenizer's."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t5ray.errors import ModelError

SPECIAL_TOKENS = ("decoder_start_token_id", "eos_token_id", "pad_token_id")


def settle_special_tokens(source: str, model: PreTrainedModel) -> None:
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


def require_own_tokenizer(source: str, config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
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
