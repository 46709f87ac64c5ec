"""Texts in, predictions out: batches by token budget over length-sorted inputs.

Knows templates no more than Ray: it takes finished input texts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t5ray.config import DecodeConfig
from t5ray.errors import ModelError
from t5ray.model.card import BundleCard, read_card
from t5ray.model.loading import load_model
from t5ray.model.numeric import autocast, default_device, resolve_precision

DEFAULT_NEW_TOKENS = 128
"""Output cap of a plain model, whose own default of 20 tokens cuts most answers."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One generated text."""

    text: str
    score: float | None
    """Probability of the whole text under the model; None unless asked for."""
    hit_cap: bool
    """True where the output was cut at the token cap, before its end."""


@dataclass
class Tally:
    """What was forwarded so far."""

    padded_tokens: int = 0
    """Input positions forwarded, padding included."""
    real_tokens: int = 0
    """Input positions that held a token."""


class Engine:
    """A model that turns inputs into predictions."""

    def __init__(
        self,
        source: str,
        *,
        decode: DecodeConfig | None = None,
        precision: str = "fp32",
        batch_tokens: int = 16_384,
        device: torch.device | None = None,
    ) -> None:
        """Load a bundle or plain model.

        Args:
            decode: overrides the bundle's decode settings.
            batch_tokens: padded input tokens forwarded at once, at most (one input may exceed it alone).
        Raises:
            ModelError: the model cannot be loaded.
        """
        loaded = load_model(source)
        self.card: BundleCard | None = read_card(source)
        self.device = device or default_device()
        self.precision = resolve_precision(precision, self.device)
        self.model = loaded.model.to(self.device)
        self.tokenizer = loaded.tokenizer
        self.decode = decode or (self.card.decode if self.card else DecodeConfig(max_new_tokens=DEFAULT_NEW_TOKENS))
        self.max_input_tokens = self.card.max_input_tokens if self.card else None
        self.batch_tokens = batch_tokens
        self.tally = Tally()

    def num_tokens(self, text: str) -> int:
        """Return the length of an input in tokens, EOS included."""
        return len(self.tokenizer(text, verbose=False).input_ids)

    def predict(self, inputs: Sequence[str], *, scores: bool = False) -> list[Prediction]:
        """Generate one prediction per input, in input order.

        Args:
            inputs: rendered inputs, prefix included; longer ones than `max_input_tokens` are cut before their EOS.
        """
        if not inputs:
            return []
        ids = tokenise_inputs(self.tokenizer, inputs, self.max_input_tokens)
        found: list[Prediction | None] = [None] * len(inputs)
        for chosen in batches_by_tokens([len(row) for row in ids], self.batch_tokens):
            batch = [ids[i] for i in chosen]
            self.tally.padded_tokens += len(batch) * max(map(len, batch))
            self.tally.real_tokens += sum(map(len, batch))
            with autocast(self.precision, self.device):
                predictions = generate(self.model, self.tokenizer, batch, self.decode, scores=scores)
            for i, prediction in zip(chosen, predictions, strict=True):
                found[i] = prediction
        return [prediction for prediction in found if prediction is not None]


def tokenise_inputs(
    tokenizer: PreTrainedTokenizerBase, inputs: Sequence[str], max_tokens: int | None
) -> list[list[int]]:
    """Return token ids with EOS, cut to `max_tokens` with the EOS kept."""
    rows = tokenizer(list(inputs), verbose=False).input_ids
    if max_tokens is None:
        return list(rows)
    return [row if len(row) <= max_tokens else [*row[: max_tokens - 1], row[-1]] for row in rows]


def batches_by_tokens(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield index groups of like length, longest first, each at most `budget` padded tokens.

    Example:
        lengths [3, 9, 4, 9], budget 18 -> [1, 3], [2, 0]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    decode: DecodeConfig,
    *,
    scores: bool = False,
) -> list[Prediction]:
    """Decode one batch of token ids.

    Args:
        rows: B inputs with EOS; they are padded to the longest here.
    Raises:
        ModelError: the decode settings carry no output cap.
    """
    if decode.max_new_tokens is None:
        raise ModelError("decode.max_new_tokens must be set before generating, but got None.")
    input_ids, mask = pad(rows, int(model.config.pad_token_id), model.device)
    output = model.generate(
        input_ids=input_ids,
        attention_mask=mask,
        max_new_tokens=decode.max_new_tokens,
        num_beams=decode.num_beams,
        length_penalty=decode.length_penalty if decode.num_beams > 1 else None,
        do_sample=False,
    )[:, 1:]
    texts = decode_tokens(tokenizer, output)
    ended = (output == model.config.eos_token_id).any(dim=1).tolist()
    values = sequence_probabilities(model, input_ids, mask, output) if scores else [None] * len(rows)
    return [Prediction(text, score, hit_cap=not end) for text, score, end in zip(texts, values, ended, strict=True)]


def pad(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return input_ids and attention_mask, int64 [B, S], padded on the right.

    Example:
        [[7, 8, 1], [9, 1]], pad_id 0 -> [[7, 8, 1], [9, 1, 0]], [[1, 1, 1], [1, 1, 0]]
    """
    width = max(map(len, rows))
    input_ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return input_ids, (torch.arange(width, device=device) < lengths[:, None]).long()


def decode_tokens(tokenizer: PreTrainedTokenizerBase, tokens: torch.Tensor) -> list[str]:
    """Turn tokens [B, T] into texts; -100 of the loss counts as padding."""
    clean = tokens.masked_fill(tokens < 0, tokenizer.pad_token_id)
    return list(tokenizer.batch_decode(clean, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def sequence_probabilities(
    model: PreTrainedModel, input_ids: torch.Tensor, mask: torch.Tensor, output: torch.Tensor
) -> list[float]:
    """Return the probability of each output [B, T], EOS included, by one teacher-forced pass."""
    pad_id, eos_id = model.config.pad_token_id, model.config.eos_token_id
    after_end = (output == eos_id).cumsum(dim=1) - (output == eos_id).long() > 0
    labels = output.masked_fill(after_end | (output == pad_id), -100)
    logits = model(input_ids=input_ids, attention_mask=mask, labels=labels, use_cache=False).logits.float()
    logp = torch.log_softmax(logits, dim=-1).gather(2, labels.clamp_min(0).unsqueeze(2)).squeeze(2)
    return [float(p) for p in logp.masked_fill(labels < 0, 0.0).sum(dim=1).exp()]
