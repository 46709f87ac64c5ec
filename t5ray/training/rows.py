"""A model judged row by row, so that two of them can be compared on the same rows.

Comes in: the weights of a run's best epoch. Goes out: `RowScores` over the validation sample. Knows no other worker.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from t5ray.data.batches import IGNORED, Indices, collate, micro_batches, token_budget
from t5ray.data.tokens import TokenisedData, TokenisedSplit
from t5ray.model.loading import LoadedModel, load_model
from t5ray.model.numeric import autocast, resolve_precision
from t5ray.training.best import BestWeights
from t5ray.training.plan import RunPlan
from t5ray.training.validation import EVAL_BATCH_TOKENS, fixed_sample, predict_rows


@dataclass(frozen=True)
class RowScores:
    """What a metric needs of each of N rows."""

    predictions: list[str]
    """Generated texts [N]; empty where the objective is the validation loss."""
    losses: list[float]
    """Cross-entropy summed over the row's target tokens [N]; empty where the objective is a metric."""
    tokens: list[int]
    """Target tokens [N], where there are losses."""


def judge_rows(plan: RunPlan, data: TokenisedData, best_step: int, device: torch.device) -> RowScores:
    """Judge the best weights of a run on the validation sample, at the precision that its objective was taken at.

    Raises:
        ModelError: the weights are gone.
        StorageError: the storage cannot be read.
    """
    with BestWeights(plan.folder, plan.remote).opened(best_step) as weights:
        loaded = load_model(str(weights))
    loaded.model.to(device).eval()
    rows = fixed_sample(len(data.validation), plan.config.validation_rows)
    precision = resolve_precision(plan.config.precision, device)
    if plan.objective == "validation_loss":
        with autocast(precision, device):
            return RowScores([], *_losses(loaded, data.validation, rows))
    judged = predict_rows(loaded, data.validation, rows, plan.task, plan.decode, precision)
    texts = {row: text for row, text, _ in judged}
    return RowScores([texts[int(row)] for row in rows], [], [])


@torch.inference_mode()
def _losses(loaded: LoadedModel, split: TokenisedSplit, rows: Indices) -> tuple[list[float], list[int]]:
    """Return each row's summed cross-entropy and its number of target tokens, in the order of `rows`."""
    lengths = np.asarray(split.input_lengths) + np.asarray(split.label_lengths)
    ordered = rows[np.argsort(-lengths[rows], kind="stable")]
    found: dict[int, tuple[float, int]] = {}
    for chosen in micro_batches(ordered, lengths, token_budget(EVAL_BATCH_TOKENS)):
        batch = collate(split, chosen, pad_id=int(loaded.model.config.pad_token_id)).to(loaded.model.device)
        logits = loaded.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            decoder_input_ids=loaded.model.prepare_decoder_input_ids_from_labels(batch.labels),
            use_cache=False,
        ).logits
        losses = cross_entropy(logits.transpose(1, 2).float(), batch.labels, reduction="none").sum(dim=1)
        tokens = (batch.labels != IGNORED).sum(dim=1)
        found |= {int(r): (float(v), int(n)) for r, v, n in zip(chosen, losses, tokens, strict=True)}
    values = [found[int(row)] for row in rows]
    return [value for value, _ in values], [n for _, n in values]
