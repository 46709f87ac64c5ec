"""What a run leaves behind: the bundle of its best epoch, and one look at the test split."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t5ray.model.bundle import publish
from t5ray.model.card import BundleCard
from t5ray.model.loading import LoadedModel, load_model
from t5ray.model.numeric import default_device
from t5ray.training.checkpoint import BEST
from t5ray.training.group import Group
from t5ray.training.prepare import Prepared
from t5ray.training.validation import validate

LIBRARIES = ("t5ray", "torch", "transformers", "ray", "optuna", "mlflow", "datasets")


def versions() -> dict[str, str]:
    """Return the versions that decide a result."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def publish_best(
    prepared: Prepared, params: Mapping[str, Any], report: Mapping[str, Any], folder: Path, target: Path
) -> LoadedModel:
    """Turn the best epoch of a run into a bundle and return its model.

    Args:
        params: training settings that differ from the prepared ones.
        report: report of the best epoch.
        folder: where the run's checkpoints are.
    """
    loaded = load_model(str(folder / BEST))
    settings = {**prepared.config.training.model_dump(mode="json"), **params}
    card = BundleCard(
        task=prepared.task,
        decode=prepared.decode,
        max_input_tokens=prepared.data.max_input_tokens,
        metrics={**report["metrics"], "validation_loss": report["validation_loss"]},
        training=settings,
        base_model=str(prepared.config.model),
        data_fingerprint=prepared.splits.fingerprint,
        seeds={
            "training": int(settings["seed"]),
            "search": prepared.config.search.seed,
            "split": prepared.config.data.split_seed,
        },
        versions=versions(),
    )
    publish(loaded, card, target)
    return loaded


def judge_on_test(prepared: Prepared, loaded: LoadedModel) -> dict[str, float]:
    """Return the task's metrics, and the loss, on the whole test split, in fp32 as scoring computes."""
    loaded.model.to(default_device())
    rows = np.arange(len(prepared.data.test))
    references, task, decode = prepared.data.test_references, prepared.task, prepared.decode
    found = validate(loaded, prepared.data.test, references, task, decode, rows=rows, group=Group(default_device()))
    return {**found.metrics, "loss": found.loss}
