"""The code inside a model that t5ray logs to MLflow: MLflow keeps a copy of this file beside the bundle and runs that.

It needs nothing of t5ray and pickles nothing, so that a model outlives the version that made it. Rows in, predictions
out, as `python -m t5ray.predict` gives them (a test compares the two): the bundle holds prefix, lengths and decode
settings, MLflow's `model_config` the names that the columns have in the data. Of a closed set of answers each is scored
whole, which costs more than predict's prefix tree and finds the same winner. Where texts are sampled,
each call draws anew.
"""

import json
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

BATCH_TOKENS = 16_384
"""Padded input tokens forwarded at once, at most (one input may exceed it alone)."""
MOST_ROWS = 256
"""Rows of a batch, which bounds the memory that the logits of an answer take."""


def _require_own_weights(folder: Path) -> None:
    """Refuse an index of weights that names files elsewhere: transformers would read them."""
    index = folder / "model.safetensors.index.json"
    names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else ()
    if outside := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{index}: all weight files must lie in the model's folder, but one is {outside[0]!r}.")


class BundleModel(PythonModel):
    """A bundle behind MLflow's `predict`."""

    def load_context(self, context: Any) -> None:
        """Load weights and tokenizer, onto a GPU where there is one."""
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        folder = Path(context.artifacts["bundle"])
        card = json.loads((folder / "t5ray.json").read_text(encoding="utf-8"))
        self.task: dict[str, Any] = card["task"]
        self.max_input_tokens: int = card["max_input_tokens"]
        self.columns: dict[str, str] = context.model_config["columns"]
        _require_own_weights(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        self.answers = self._answers(card)
        self.model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return `prediction` and `error` for each row; one of the two is null."""
        texts: dict[int, str] = {}
        errors: dict[int, str] = {}
        for number, row in enumerate(model_input.to_dict("records")):
            try:
                texts[number] = self._render(row)
            except ValueError as exc:
                errors[number] = str(exc)
        found = dict(zip(texts, self._answer(list(texts.values())), strict=True))
        rows = [(found.get(number), errors.get(number)) for number in range(len(model_input))]
        return pd.DataFrame(rows, columns=["prediction", "error"], index=model_input.index, dtype=object)

    def _render(self, row: Mapping[str, Any]) -> str:
        """Fill the template of the inputs, prefix included."""
        names = [name for _, name, _, _ in string.Formatter().parse(self.task["inputs"]) if name is not None]
        return str(self.task["inputs"]).format_map({name: self._field(row, name) for name in names})

    def _field(self, row: Mapping[str, Any], name: str) -> str:
        column = self.columns.get(name, name)
        value = row.get(column)
        text = "" if value is None or value != value else str(value).strip()  # NaN is how tables read a missing value
        if not text and name in ("source_language", "target_language"):
            return str(self.task[name])
        if not text:
            raise ValueError(f"`{column}` must hold text, but is missing or empty")
        return text

    def _answers(self, card: Mapping[str, Any]) -> dict[tuple[int, ...], str]:
        """Return the closed set of answers by their tokens; empty for a task that generates."""
        closed = self.task["labels"] if self.task["closed_labels"] else []
        answers: dict[tuple[int, ...], str] = {}
        for text in card["decode"].get("answers") or closed:
            answers.setdefault(tuple(self.tokenizer(text, verbose=False).input_ids), text)
        return answers

    def _answer(self, inputs: Sequence[str]) -> list[str]:
        """Return one output text per input, in input order; longer inputs than the model was trained on are cut."""
        import torch

        if not inputs:
            return []
        ids = [_cut(row, self.max_input_tokens) for row in self.tokenizer(list(inputs), verbose=False).input_ids]
        texts: dict[int, str] = {}
        for chosen in _batches([len(row) for row in ids]):
            batch = self.tokenizer.pad(
                {"input_ids": [ids[i] for i in chosen]}, return_tensors="pt", padding_side="right"
            ).to(self.model.device)
            with torch.inference_mode():
                found = self._choose(batch) if self.answers else self._generate(batch)
            texts |= {i: text.strip() for i, text in zip(chosen, found, strict=True)}
        return [texts[i] for i in range(len(inputs))]

    def _generate(self, batch: Any) -> list[str]:
        # num_beams, max_new_tokens and the rest stand in the bundle's generation_config
        output = self.model.generate(**batch, num_return_sequences=1)
        return list(self.tokenizer.batch_decode(output, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _choose(self, batch: Any) -> list[str]:
        """Return the answer of the highest probability, the product of its tokens', its end included."""
        import torch

        encoded = self.model.get_encoder()(**batch)
        scores = torch.stack([self._score(encoded, batch.attention_mask, tokens) for tokens in self.answers], dim=1)
        answers = list(self.answers.values())
        return [answers[best] for best in scores.argmax(dim=1).tolist()]

    def _score(self, encoded: Any, mask: Any, tokens: Sequence[int]) -> Any:
        """Return the log-probability of an answer for each row, [B]."""
        import torch

        given = torch.tensor([[self.model.config.decoder_start_token_id, *tokens[:-1]]], device=mask.device)
        logits = self.model(
            encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=given.expand(len(mask), -1), use_cache=False
        ).logits
        wanted = torch.tensor(tokens, device=mask.device).expand(len(mask), -1)
        return torch.log_softmax(logits.float(), dim=-1).gather(2, wanted[:, :, None]).sum(dim=(1, 2))


def _cut(row: list[int], most: int) -> list[int]:
    """Cut token ids before their end-of-sequence token."""
    return row if len(row) <= most else [*row[: most - 1], row[-1]]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield index groups of like length, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = min(MOST_ROWS, max(1, BATCH_TOKENS // max(1, lengths[order[start]])))
        yield order[start : start + size]
        start += size


set_model(BundleModel())
