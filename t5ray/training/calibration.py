"""The temperature of a finished classifier, fitted on held-out rows before its bundle is made.

Comes in: a model and the rows of a split. Goes out: one number for the card.
"""

from collections.abc import Sequence

import numpy as np

from t5ray.config import DecodeConfig, TaskConfig
from t5ray.data.batches import Indices
from t5ray.data.tokens import TokenisedSplit
from t5ray.model.loading import LoadedModel
from t5ray.model.predictor import Predictor
from t5ray.text.calibration import fit_temperature
from t5ray.training.validation import EVAL_BATCH_TOKENS, input_rows


def fit_label_temperature(
    loaded: LoadedModel,
    split: TokenisedSplit,
    references: Sequence[Sequence[str]],
    task: TaskConfig,
    decode: DecodeConfig,
    *,
    rows: Indices,
) -> float:
    """Return what the labels' scores are to be divided by; 1 for a task without closed labels.

    Rows whose reference is none of the labels teach nothing and are left out.

    Args:
        references: accepted targets of every row of the split, of which the first is the label.
        rows: positions in the split to fit on.
    """
    if not task.closed_labels:
        return 1.0
    predictor = Predictor(
        loaded.model.eval(), loaded.tokenizer, decode, labels=task.labels, batch_tokens=EVAL_BATCH_TOKENS
    )
    places = {label: place for place, label in enumerate(predictor.labels)}
    known = [int(row) for row in rows if references[int(row)][0] in places]
    scores = predictor.label_scores(input_rows(split, np.array(known, np.int64)))
    truths = np.array([places[references[row][0]] for row in known], np.int64)
    return fit_temperature(scores.double().numpy(), truths)
