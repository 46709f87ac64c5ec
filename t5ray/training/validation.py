"""Loss and metrics on held-out rows. Metrics are computed on real generations, never on teacher-forced tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from t5ray.config import DecodeConfig, TaskConfig
from t5ray.data.batches import IGNORED, Indices, collate, micro_batches, token_budget
from t5ray.data.tokens import TokenisedSplit
from t5ray.model.loading import LoadedModel
from t5ray.model.numeric import autocast
from t5ray.model.packed import packed, summed_loss
from t5ray.model.predictor import Predictor
from t5ray.text.metrics import score
from t5ray.text.tasks import read_prediction
from t5ray.training.group import Group

EVAL_BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class Validation:
    """What one look at held-out rows gave."""

    loss: float
    """Mean cross-entropy per target token, without label smoothing."""
    metrics: dict[str, float]
    """Metric -> value over the generated rows."""
    hit_cap: float
    """Share of generated rows that were cut at the output cap."""
    known_labels: float | None = None
    """Share of generated rows that are one of the task's labels; None where these are not closed."""


def fixed_sample(rows: int, size: int) -> Indices:
    """Return the rows, ascending, that every epoch of every trial is judged on."""
    if size >= rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).permutation(rows)[:size])


def validate(
    loaded: LoadedModel,
    split: TokenisedSplit,
    references: Sequence[Sequence[str]],
    task: TaskConfig,
    decode: DecodeConfig,
    *,
    rows: Indices,
    group: Group,
    precision: str = "fp32",
) -> Validation:
    """Judge the model on some rows of a split; the workers of a group share them.

    Args:
        references: accepted targets of every row of the split.
        rows: positions in the split to judge.
        precision: of matrix products: fp32, or any bf16.
    Returns:
        The same values on every worker.
    """
    model = loaded.model.eval()
    mine = rows[group.rank :: group.size]
    with autocast(precision, group.device):
        loss, tokens = group.sum(_loss(loaded, split, mine))
    texts = predict_rows(loaded, split, mine, task, decode, precision)
    everything = [item for part in group.gather(texts) for item in part]
    model.train()
    found = {row: (text, cut) for row, text, cut in everything}
    predictions = [read_prediction(task, found[int(row)][0]) for row in rows]
    values = score(task.metrics, predictions, [references[int(row)] for row in rows], task.labels)
    known = sum(text in task.labels for text in predictions) / len(rows) if task.closed_labels else None
    return Validation(loss / max(tokens, 1.0), values, sum(cut for _, _, cut in everything) / len(rows), known)


@torch.inference_mode()
def _loss(loaded: LoadedModel, split: TokenisedSplit, rows: Indices) -> tuple[float, float]:
    """Return summed cross-entropy and number of target tokens."""
    lengths = np.asarray(split.input_lengths) + np.asarray(split.label_lengths)
    ordered = rows[np.argsort(-lengths[rows], kind="stable")]
    total, tokens = 0.0, 0.0
    for chosen in micro_batches(ordered, lengths, token_budget(EVAL_BATCH_TOKENS)):
        batch = collate(split, chosen, pad_id=int(loaded.model.config.pad_token_id)).to(loaded.model.device)
        with packed(loaded.model):
            total += summed_loss(loaded.model, batch.input_ids, batch.attention_mask, batch.labels).item()
        tokens += int((batch.labels != IGNORED).sum())
    return total, tokens


def predict_rows(
    loaded: LoadedModel,
    split: TokenisedSplit,
    rows: Indices,
    task: TaskConfig,
    decode: DecodeConfig,
    precision: str = "fp32",
) -> list[tuple[int, str, bool]]:
    """Return (row, text, cut at the cap) for each row, as scoring will predict them."""
    labels = task.labels if task.closed_labels else ()
    predictor = Predictor(
        loaded.model,
        loaded.tokenizer,
        decode,
        labels=labels,
        precision="fp32" if precision == "fp32" else "bf16",
        batch_tokens=EVAL_BATCH_TOKENS,
    )
    predictions = predictor.predict(input_rows(split, rows))
    return [(int(row), found.text, found.hit_cap) for row, found in zip(rows, predictions, strict=True)]


def input_rows(split: TokenisedSplit, rows: Indices) -> list[list[int]]:
    """Return the input tokens of some rows of a split."""
    return [split.input_ids[split.input_offsets[i] : split.input_offsets[i + 1]].tolist() for i in rows]
