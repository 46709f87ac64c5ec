"""Token ids in, predictions out, with a model that is loaded already.

A task with closed labels does not generate: its labels are scored (`decoding/labels.py`), in training's validation as
in a scoring job, so that both give the same number.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from threading import Lock
from typing import TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t5ray.config import DecodeConfig
from t5ray.errors import ModelError
from t5ray.model.batching import (
    BF16_CPU_PLACES,
    CPU_PLACES,
    LEAST_CALL_ROWS,
    MOST_ROWS,
    PLACES_BUDGETS,
    SMALL_MODEL,
    batches_by_tokens,
    call_rows,
    num_places,
    runs_by_places,
)
from t5ray.model.decoding import labels as label_tree
from t5ray.model.decoding.beam import BeamRules, beam_search, sequence_log_probabilities
from t5ray.model.decoding.decoder import Decoder
from t5ray.model.decoding.encoder import Encoded, encode
from t5ray.model.decoding.greedy import Chooser, Generated, generate
from t5ray.model.decoding.processors import Best, Sampler, draws, make_processor
from t5ray.model.decoding.vocabulary import Vocabulary
from t5ray.model.decoding.waiting import Waiting
from t5ray.model.decoding.weights import prepare
from t5ray.model.prediction import Prediction, Tally
from t5ray.model.streams import num_streams, share_out

Rows = Sequence[Sequence[int]]
"""Inputs as token ids with EOS."""
Result = TypeVar("Result")


class Predictor:
    """A snapshot of a model, prepared for scoring. Make another once the model was trained on."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        decode: DecodeConfig,
        *,
        labels: Sequence[str] = (),
        temperature: float = 1.0,
        precision: str = "fp32",
        batch_tokens: int = 16_384,
        require_numbers: bool = False,
    ) -> None:
        """Lay out the weights.

        Args:
            labels: the closed set of texts that a prediction is one of; empty generates. `decode.answers` narrows it.
            temperature: divides the labels' scores before they become probabilities.
            precision: fp32 or bf16.
            batch_tokens: input tokens forwarded at once, at most (one input may exceed it alone).
            require_numbers: refuse to predict from NaN; training, whose losses tell it, goes on with what comes.
        Raises:
            ModelError: texts must be generated and the decode settings carry no output cap, or the tokenizer does not
                end labels.
        """
        self._labels = tuple(decode.answers or labels)
        if decode.max_new_tokens is None and not self._labels:
            raise ModelError("decode.max_new_tokens must be set before generating, but got None.")
        self._tokenizer, self._decode, self._temperature = tokenizer, decode, temperature
        self._batch_tokens = batch_tokens
        self._model = prepare(model, torch.bfloat16 if precision == "bf16" else torch.float32)
        self._vocabulary = Vocabulary(self._model)
        fills_a_cpu = self._model.device.type == "cpu" and self._model.step_numbers >= SMALL_MODEL
        on_cpu = BF16_CPU_PLACES if self._model.dtype == torch.bfloat16 else CPU_PLACES
        self._places = on_cpu if fills_a_cpu else MOST_ROWS
        self._processor = make_processor(decode, self._model.eos_id, self._model.device)
        self._tree = self._make_tree() if self._labels else None
        self._requires_numbers = require_numbers
        self._has_head = not require_numbers or bool(self._model.head.sum().isfinite())
        self.tally = Tally()
        self._lock = Lock()

    @property
    def call_rows(self) -> int:
        """Rows that `predict` should be handed at a time, where there are more."""
        return call_rows(self._model.step_numbers) if self._takes_turns else LEAST_CALL_ROWS

    @property
    def _takes_turns(self) -> bool:
        """Whether rows leave their places to others as they end; otherwise batch after batch is decoded."""
        decode = self._decode
        return self._tree is None and decode.num_beams == 1 and not decode.do_sample and self._processor is None

    @property
    def labels(self) -> tuple[str, ...]:
        """The closed set, without labels that the tokenizer cannot tell from an earlier one."""
        return self._labels

    def predict(self, rows: Rows, *, scores: bool = False, all_scores: bool = False) -> list[Prediction]:
        """Predict from inputs, given as token ids with EOS, in their order.

        Args:
            scores: also give the prediction's probability.
            all_scores: also give every label's.
        Raises:
            ModelError: `all_scores` without labels, or what the model gives for a row is no number (if required).
        """
        if all_scores and self._tree is None:
            raise ModelError("all scores can be given for a task with closed labels only, but this one generates.")
        return self._share_out(partial(self._predict, scores=scores, all_scores=all_scores), rows)

    def label_scores(self, rows: Rows) -> torch.Tensor:
        """Return the log-probability of every label for each row, none given up on, fp32 [rows, labels]."""
        found = self._share_out(self._all_label_scores, rows)
        return torch.stack(found) if found else torch.empty(0, len(self.labels))

    def _share_out(self, work: Callable[[Rows], list[Result]], rows: Rows) -> list[Result]:
        """Return what `work` gives for rows, which it gets longest first."""
        streams = num_streams(len(rows), self._model.step_numbers) if self._model.device.type == "cpu" else 1
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        done = share_out(work, [rows[i] for i in order], streams)
        return [result for _, result in sorted(zip(order, done, strict=True), key=itemgetter(0))]

    @torch.inference_mode()
    def _predict(self, rows: Rows, *, scores: bool, all_scores: bool) -> list[Prediction]:
        found: list[Prediction] = []
        for chosen in self._batches(list(map(len, rows))):
            batch = [rows[i] for i in chosen]
            if self._tree is None:
                found += self._generate(batch, scores=scores)
            else:
                totals = self._score_labels(batch, precise=scores or all_scores)
                found += self._label_predictions(totals, scores=scores, all_scores=all_scores)
        return found

    @torch.inference_mode()
    def _all_label_scores(self, rows: Rows) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for chosen in batches_by_tokens(list(map(len, rows)), self._batch_tokens, MOST_ROWS):
            found += self._walk([rows[i] for i in chosen], margin=torch.inf).cpu()
        return found

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yield groups of rows that are decoded together, longest first."""
        decode, generates = self._decode, self._tree is None
        if self._takes_turns:
            held = [max(length, decode.max_new_tokens or 0) for length in lengths]
            return runs_by_places(held, self._batch_tokens, self._places)
        texts = (decode.num_beams if generates else 1) * (decode.num_return_sequences if decode.do_sample else 1)
        return batches_by_tokens(lengths, self._batch_tokens, max(1, MOST_ROWS // texts))

    def _encode(self, rows: Rows) -> Iterator[Encoded]:
        """Yield the states of rows, longest first."""
        for part in encode(self._model, rows, self._batch_tokens):
            with self._lock:
                self.tally.padded_tokens += part.padded_tokens
                self.tally.real_tokens += int(part.lengths.sum())
            yield part

    def _generate(self, rows: Rows, *, scores: bool) -> list[Prediction]:
        decode, cap = self._decode, self._decode.max_new_tokens
        assert cap is not None
        if decode.num_beams > 1:
            tokens, values = self._search_beams(rows, cap, scores=scores)
        else:
            made = self._sample(rows, cap, scores) if decode.do_sample else self._take_best(rows, cap, scores)
            count = decode.num_return_sequences
            tokens = made.tokens.view(len(rows), count, -1)
            values = None if made.log_probabilities is None else made.log_probabilities.view(len(rows), count)[:, 0]
        first = None if values is None else values.exp().tolist()
        ended = (tokens[:, 0] == self._model.eos_id).any(dim=1).tolist()
        count, several = tokens.shape[1], decode.num_return_sequences > 1
        flat = decode_tokens(self._tokenizer, tokens.flatten(0, 1))
        texts = [flat[start : start + count] for start in range(0, len(flat), count)]
        return [
            Prediction(found[0], first[i] if first else None, not ended[i], tuple(found) if several else ())
            for i, found in enumerate(texts)
        ]

    def _take_best(self, rows: Rows, cap: int, scores: bool) -> Generated:
        if self._processor:
            return self._step(self._encode(rows), len(rows), len(rows), cap, Best(self._processor), scores)
        places = num_places(max(len(rows[0]), cap), self._batch_tokens, self._places)
        return self._step(self._encode(rows), len(rows), min(len(rows), places), cap, None, scores)

    def _sample(self, rows: Rows, cap: int, scores: bool) -> Generated:
        count = self._decode.num_return_sequences
        encoded = (part.repeated(count) for part in self._encode(rows))
        choose = Sampler(self._processor, draws(rows, count, cap, self._decode.seed).to(self._model.device))
        return self._step(encoded, len(rows) * count, len(rows) * count, cap, choose, scores)

    def _step(
        self, encoded: Iterator[Encoded], texts: int, places: int, cap: int, choose: Chooser | None, scores: bool
    ) -> Generated:
        waiting = Waiting(encoded)
        decoder = Decoder(self._model, places, waiting.longest, cap)
        made = generate(
            self._model,
            self._vocabulary,
            waiting,
            decoder,
            num_rows=texts,
            max_new_tokens=cap,
            choose=choose,
            scores=scores,
        )
        self._check_numbers(decoder)
        return made

    def _search_beams(self, rows: Rows, cap: int, *, scores: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return tokens [B, texts, T] and the log-probability of the first texts."""
        decode = self._decode
        rules = BeamRules(decode.num_beams, decode.length_penalty, decode.early_stopping, cap)
        decoder = Decoder.over(self._model, self._encode(rows), cap, width=decode.num_beams)
        found = beam_search(self._model, self._vocabulary, decoder, rules, self._processor)
        self._check_numbers(decoder)
        values = None
        if scores:
            first = found.tokens[:, 0]
            fresh = Decoder.over(self._model, self._encode(rows), cap)
            values = sequence_log_probabilities(self._vocabulary, fresh, first, self._model.eos_id)
        return found.tokens[:, : decode.num_return_sequences], values

    def _make_tree(self) -> label_tree.Tree:
        ids = self._tokenizer(list(self._labels), verbose=False).input_ids
        label_tree.require_ends(self._labels, ids, self._model.eos_id)
        kept: dict[tuple[int, ...], str] = {}
        for label, tokens in zip(self._labels, ids, strict=True):
            kept.setdefault(tuple(tokens), label)  # of labels that the tokenizer cannot tell apart the first stands
        self._labels = tuple(kept.values())
        return label_tree.build(list(kept), self._model.device)

    def _walk(self, rows: Rows, *, margin: float) -> torch.Tensor:
        tree = self._tree
        assert tree is not None
        decoder = Decoder.over(self._model, self._encode(rows), tree.depth)
        most = PLACES_BUDGETS * self._batch_tokens
        found = label_tree.score(self._model, self._vocabulary, decoder, tree, margin=margin, most_tokens=most)
        self._check_numbers(decoder)
        return found

    def _check_numbers(self, decoder: Decoder) -> None:
        """Refuse what a decoder gave for its rows if that is no number: whatever was chosen by it means nothing.

        Finite states and a finite head make finite logits; NaN goes through everything before them.
        """
        if self._requires_numbers and not (self._has_head and decoder.is_finite):
            raise ModelError(
                "scores must be finite, but the model gave NaN or infinity for this input (or another one of its "
                "batch): its weights are damaged, or overflow. Use --precision fp32, or another checkpoint."
            )

    def _score_labels(self, rows: Rows, *, precise: bool) -> torch.Tensor:
        """Return the score of every label, [B, labels]; of the best alone where that is all that is asked for."""
        return self._walk(rows, margin=label_tree.NEGLIGIBLE * max(1.0, self._temperature) if precise else 0.0)

    def _label_predictions(self, totals: torch.Tensor, *, scores: bool, all_scores: bool) -> list[Prediction]:
        best = totals.argmax(dim=1).tolist()
        probabilities = torch.softmax(totals / self._temperature, dim=1).tolist() if scores or all_scores else None
        return [
            Prediction(
                self._labels[label],
                probabilities[row][label] if probabilities and scores else None,
                hit_cap=False,
                label_scores=dict(zip(self._labels, probabilities[row], strict=True))
                if probabilities and all_scores
                else None,
            )
            for row, label in enumerate(best)
        ]


def decode_tokens(tokenizer: PreTrainedTokenizerBase, tokens: torch.Tensor) -> list[str]:
    """Turn tokens [B, T] into texts; -100 of the loss counts as padding."""
    ids = tokens.masked_fill(tokens < 0, tokenizer.pad_token_id).tolist()
    if tokenizer.is_fast:  # all rows in one call, during which Python's lock is free
        return list(tokenizer.backend_tokenizer.decode_batch(ids, skip_special_tokens=True))
    return list(tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
