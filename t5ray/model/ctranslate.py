"""The same as `engine.py` through CTranslate2: a model is converted once into a cache, then its C++ decodes.

It generates only, greedily or with beams. What it cannot do as the own engine does is refused (`unfit`): closed labels,
sampling, other rules of stopping. Beam search is CTranslate2's own, whose results may differ from transformers', and an
input without any text gets an empty one back.

Comes in: finished input texts. Goes out: predictions. The home of ctranslate2.
"""

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from t5ray.config import DecodeConfig
from t5ray.disk import cache_folder, publish_dir
from t5ray.errors import ModelError
from t5ray.model.batching import LEAST_CALL_ROWS, MOST_ROWS, batches_by_tokens
from t5ray.model.card import fingerprint, read_card
from t5ray.model.engine import Prepared, decode_in_force, prepare_inputs, tokenise
from t5ray.model.loading import LoadedModel, commit_of, load_config, load_model, load_tokenizer, model_max_tokens
from t5ray.model.numeric import default_device, scales_head
from t5ray.model.prediction import Prediction, Tally

EngineDtype = Literal["float32", "int8"]
RULES = 1
"""To be raised where `_convert`, or what `load_model` settles for it, comes to make another model of the same files."""


class CTranslateEngine:
    """A model that turns inputs into predictions, as `Engine` does."""

    call_rows = LEAST_CALL_ROWS
    """As `Engine.call_rows`. Its batches end one by one, so more in a call would gain nothing."""

    def __init__(
        self,
        source: str,
        *,
        decode: DecodeConfig | None = None,
        labels: Sequence[str] = (),
        dtype: EngineDtype = "float32",
        batch_tokens: int = 16_384,
        device: torch.device | None = None,
        cache: Path | None = None,
    ) -> None:
        """Load a bundle or plain model, and convert it where no earlier process did.

        Args:
            decode: in place of the model's own decode settings; without an output cap it takes the model's.
            labels: must be empty.
            dtype: of the weights; int8 changes outputs.
            batch_tokens: padded input tokens forwarded at once, at most (one input may exceed it alone).
            device: None: a GPU that this process sees, or the CPU.
            cache: parent of the converted models. None: `~/.cache/t5ray`, or where XDG_CACHE_HOME says.
        Raises:
            ModelError: the model cannot be loaded or converted, or settings ask for what CTranslate2 cannot do.
        """
        card = read_card(source)
        self.tokenizer = load_tokenizer(source)
        self.decode = decode_in_force(source, decode, card)
        if reason := unfit(self.decode, labels):
            raise ModelError(f"{source}: {reason}")
        self.cut_to = card.max_input_tokens if card else None
        self.max_input_tokens = self.cut_to or model_max_tokens(load_config(source), self.tokenizer)
        self.tally = Tally()
        self._batch_tokens = batch_tokens
        folder = converted(source, dtype, cache or cache_folder("ctranslate2"))
        self._translator = _translator(folder, dtype, device or default_device())

    def num_tokens(self, inputs: Sequence[str]) -> list[int]:
        """Return the length of each input in tokens, EOS included, as `Engine.num_tokens`."""
        return list(map(len, tokenise(self.tokenizer, inputs)))

    def predict(self, inputs: Sequence[str], *, scores: bool = False, all_scores: bool = False) -> list[Prediction]:
        """Predict from each input, in input order. Equal inputs are scored once. As `Engine.predict`.

        Raises:
            ModelError: `all_scores`, which only closed labels have.
        """
        return self.score(self.prepare(inputs), scores=scores, all_scores=all_scores)

    def prepare(self, inputs: Sequence[str]) -> Prepared:
        """Tokenise inputs, as `Engine.prepare`."""
        return prepare_inputs(self.tokenizer, inputs, self.cut_to)

    def score(self, prepared: Prepared, *, scores: bool = False, all_scores: bool = False) -> list[Prediction]:
        """Predict from inputs that are tokenised already, as `Engine.score`."""
        if all_scores:
            raise ModelError("all scores can be given for a task with closed labels only, but this one generates.")
        rows, by_row = prepared.rows, dict[int, Prediction]()
        for chosen in batches_by_tokens(list(map(len, rows)), self._batch_tokens, MOST_ROWS):
            by_row.update(zip(chosen, self._generate([rows[i] for i in chosen], scores=scores), strict=True))
        return prepared.predictions([by_row[row] for row in range(len(rows))])

    def _generate(self, rows: Sequence[Sequence[int]], *, scores: bool) -> list[Prediction]:
        decode = self.decode
        source = [self.tokenizer.convert_ids_to_tokens(list(row)) for row in rows]
        results = self._translator.translate_batch(
            source,
            beam_size=decode.num_beams,
            num_hypotheses=decode.num_return_sequences,
            length_penalty=decode.length_penalty,
            repetition_penalty=decode.repetition_penalty,
            no_repeat_ngram_size=decode.no_repeat_ngram_size,
            max_input_length=0,
            max_decoding_length=decode.max_new_tokens,
            min_decoding_length=decode.min_new_tokens,
            return_end_token=True,
        )
        self.tally.real_tokens += sum(map(len, rows))
        self.tally.padded_tokens += len(rows) * max(map(len, rows))
        best = [result.hypotheses[0] for result in results]
        values = self._probabilities(source, best) if scores else [None] * len(rows)
        return [self._prediction(result.hypotheses, score) for result, score in zip(results, values, strict=True)]

    def _prediction(self, hypotheses: Sequence[Sequence[str]], score: float | None) -> Prediction:
        ids = [self.tokenizer.convert_tokens_to_ids(list(tokens)) for tokens in hypotheses]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        has_end = self.tokenizer.eos_token in hypotheses[0]
        return Prediction(texts[0], score, not has_end, tuple(texts) if self.decode.num_return_sequences > 1 else ())

    def _probabilities(self, source: list[list[str]], texts: list[list[str]]) -> list[float]:
        """Return the probability of whole texts; one that was cut has none of an end."""
        end = self.tokenizer.eos_token
        bare = [tokens[:-1] if tokens[-1:] == [end] else tokens for tokens in texts]
        found = self._translator.score_batch(source, bare, max_input_length=0)  # with an end behind each text
        return [
            float(torch.tensor(one.log_probs[: len(tokens)], dtype=torch.float64).sum().exp())
            for one, tokens in zip(found, texts, strict=True)
        ]


def unfit(decode: DecodeConfig, labels: Sequence[str]) -> str:
    """Return what CTranslate2 cannot do of what is asked for, as a sentence; empty where it can all."""
    if labels or decode.answers:
        return (
            "engine ctranslate2 generates text, but the answers are a closed set, which the engine torch scores. "
            "Use --engine torch."
        )
    for name, wanted in (("do_sample", False), ("early_stopping", False)):
        if getattr(decode, name) != wanted:
            return (
                f"engine ctranslate2 needs decode.{name} {str(wanted).lower()}, but it is "
                f"{str(getattr(decode, name)).lower()}. Use --engine torch."
            )
    return ""


def is_installed() -> bool:
    """Say whether CTranslate2 can be imported."""
    return importlib.util.find_spec("ctranslate2") is not None


def converted(source: str, dtype: EngineDtype, cache: Path) -> Path:
    """Return the folder of a converted model; it is made where it is not there, and appears whole or not at all.

    Its name holds the digest of the model's files and the number of the rules: where either changes, it is made anew.

    Raises:
        ModelError: the model cannot be loaded, or the cache cannot be written.
    """
    version = importlib.metadata.version("ctranslate2")
    target = cache / f"{fingerprint(source, commit_of(source))[:16]}-{dtype}-{version}-{RULES}"
    if target.is_dir():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".converting-", dir=cache) as folder:
            _convert(source, dtype, f"{folder}/model")
            publish_dir(Path(folder) / "model", target)
    except OSError as exc:
        raise ModelError(f"{cache}: the cache of converted models must be writable, but: {exc}") from exc
    return target


def _convert(source: str, dtype: EngineDtype, target: str) -> None:
    from ctranslate2.converters import TransformersConverter

    loaded = load_model(source)

    class Converter(TransformersConverter):  # type: ignore[misc]
        """Takes the model as it was loaded here."""

        def load_model(self, *_: Any, **__: Any) -> Any:
            return _told(loaded)

        def load_tokenizer(self, *_: Any, **__: Any) -> Any:
            return loaded.tokenizer

    try:
        Converter(source).convert(target, quantization=dtype)
    except ValueError as exc:
        raise ModelError(f"{source}: CTranslate2 must be able to convert the model, but: {exc}") from exc


def _told(loaded: LoadedModel) -> Any:
    """Return the model with `tie_word_embeddings` saying what the converter reads in it: the head's scale.

    transformers 5 sets it for every T5, so that those whose head has no scale would lose their probabilities.
    """
    loaded.model.config.tie_word_embeddings = scales_head(loaded.model.config)
    return loaded.model


def _translator(folder: Path, dtype: EngineDtype, device: torch.device) -> Any:
    import ctranslate2

    threads = torch.get_num_threads()
    return ctranslate2.Translator(str(folder), device=device.type, compute_type=dtype, intra_threads=threads)
