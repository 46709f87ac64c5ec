"""Texts in, predictions out: a model from its directory, with its tokenizer and its card.

Predicting is two steps, `prepare` and `score`, so that the next texts can be tokenised while a device is busy. Knows
templates no more than Ray: it takes finished input texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from t5ray.config import DecodeConfig
from t5ray.config.decode import overridden
from t5ray.config.explain import explain
from t5ray.errors import ModelError
from t5ray.model.card import BundleCard, read_card
from t5ray.model.loading import load_model, model_max_tokens
from t5ray.model.numeric import default_device, resolve_precision
from t5ray.model.own_decode import plain_decode
from t5ray.model.prediction import Prediction, Tally
from t5ray.model.predictor import Predictor

__all__ = ["Engine", "Prediction", "Prepared", "prepare_inputs", "tokenise"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Inputs as token ids, equal ones once."""

    rows: list[list[int]]
    """Ids of each input that differs from those before it, with EOS."""
    cut: list[bool]
    """Whether the row was longer."""
    row_of: list[int]
    """Row of each input."""

    def predictions(self, found: Sequence[Prediction]) -> list[Prediction]:
        """Return the prediction of each input, which knows whether that was cut, from those of the rows."""
        marked = [replace(one, input_cut=True) if cut else one for one, cut in zip(found, self.cut, strict=True)]
        return [marked[row] for row in self.row_of]


class Engine:
    """A model that turns inputs into predictions.

    Inputs longer than `cut_to` are cut here; by `max_input_tokens` callers may refuse longer ones before.
    """

    def __init__(
        self,
        source: str,
        *,
        decode: DecodeConfig | None = None,
        labels: Sequence[str] | None = None,
        precision: str = "fp32",
        batch_tokens: int = 16_384,
        device: torch.device | None = None,
    ) -> None:
        """Load a bundle or plain model.

        Args:
            decode: in place of the model's own decode settings; without an output cap it takes the model's.
            labels: the closed set that predictions are taken from. None: the bundle's own where its task has one.
            batch_tokens: padded input tokens forwarded at once, at most (one input may exceed it alone).
            device: None: a GPU that this process sees, or the CPU.
        Raises:
            ModelError: the model cannot be loaded.
        """
        loaded = load_model(source)
        self.card: BundleCard | None = read_card(source)
        self.device = device or default_device()
        self.precision = resolve_precision(precision, self.device)
        self.tokenizer = loaded.tokenizer
        self.decode = decode_in_force(source, decode, self.card)
        self.cut_to = self.card.max_input_tokens if self.card else None
        """Longer inputs are cut to so many tokens. None: none is, as a plain model's is not by `generate`."""
        self.max_input_tokens = self.cut_to or model_max_tokens(loaded.model.config, loaded.tokenizer)
        """Longest input that the model was trained on, in tokens with EOS. None: nobody knows."""
        closed = tuple(self.decode.answers or (self._own_labels() if labels is None else labels))
        self._predictor = Predictor(
            loaded.model.to(self.device),
            loaded.tokenizer,
            self.decode,
            labels=closed,
            temperature=self.card.temperature_of(closed) if self.card else 1.0,
            precision=self.precision,
            batch_tokens=batch_tokens,
            require_numbers=True,
        )

    @property
    def tally(self) -> Tally:
        """What was forwarded so far."""
        return self._predictor.tally

    @property
    def call_rows(self) -> int:
        """Inputs that `predict` should be handed at a time, where there are more."""
        return self._predictor.call_rows

    def num_tokens(self, inputs: Sequence[str]) -> list[int]:
        """Return the length of each input in tokens, EOS included, before anything is cut."""
        return list(map(len, tokenise(self.tokenizer, inputs)))

    def predict(self, inputs: Sequence[str], *, scores: bool = False, all_scores: bool = False) -> list[Prediction]:
        """Predict from each input, in input order. Equal inputs are scored once.

        Args:
            inputs: rendered inputs, prefix included; longer ones than `cut_to` are cut before their EOS.
            scores: also give each prediction's probability.
            all_scores: also give the probability of every label.
        Raises:
            ModelError: `all_scores` for a task that generates, or what the model gives for an input is no number.
        """
        return self.score(self.prepare(inputs), scores=scores, all_scores=all_scores)

    def prepare(self, inputs: Sequence[str]) -> Prepared:
        """Tokenise inputs. A thread may do so while another scores."""
        return prepare_inputs(self.tokenizer, inputs, self.cut_to)

    def score(self, prepared: Prepared, *, scores: bool = False, all_scores: bool = False) -> list[Prediction]:
        """Predict as `predict` does, from inputs that are tokenised already."""
        return prepared.predictions(self._predictor.predict(prepared.rows, scores=scores, all_scores=all_scores))

    def _own_labels(self) -> tuple[str, ...]:
        return self.card.task.labels if self.card and self.card.task.closed_labels else ()


def decode_in_force(source: str, decode: DecodeConfig | None, card: BundleCard | None) -> DecodeConfig:
    """Return what is asked for, else the model's own, in any case with an output cap.

    Raises:
        ModelError: the settings do not go together, or a plain model's file asks for what is not known here.
    """
    if decode is not None and decode.max_new_tokens is not None:
        return decode
    try:
        own = card.decode if card else plain_decode(source)
        if decode is None:
            return own
        return overridden({"max_new_tokens": own.max_new_tokens}, decode)
    except ValidationError as exc:
        problems = explain(DecodeConfig, exc, lambda loc: ".".join(("decode", *map(str, loc))))
        raise ModelError(f"{source}: {' '.join(problems)}") from exc


def tokenise(tokenizer: PreTrainedTokenizerBase, inputs: Sequence[str]) -> list[list[int]]:
    """Return token ids with EOS."""
    return list(tokenizer(list(inputs), verbose=False).input_ids) if inputs else []


def prepare_inputs(tokenizer: PreTrainedTokenizerBase, inputs: Sequence[str], max_tokens: int | None) -> Prepared:
    """Return token ids with EOS, cut to `max_tokens` with the EOS kept."""
    row_of_text = {text: row for row, text in enumerate(dict.fromkeys(inputs))}
    rows = tokenise(tokenizer, list(row_of_text))
    cut = [max_tokens is not None and len(row) > max_tokens for row in rows]
    rows = [[*row[: (max_tokens or 0) - 1], row[-1]] if is_cut else row for row, is_cut in zip(rows, cut, strict=True)]
    return Prepared(rows, cut, [row_of_text[text] for text in inputs])
