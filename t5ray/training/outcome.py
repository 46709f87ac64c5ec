"""What a run leaves behind: the bundle of its best epoch, and one look at the test split."""

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t5ray import sessions
from t5ray.config import RunConfig
from t5ray.data.partition import SEEN_SEED, digest_texts
from t5ray.model.bundle import publish, put_back
from t5ray.model.card import BundleCard
from t5ray.model.loading import LoadedModel, load_model
from t5ray.model.numeric import device_with
from t5ray.redaction import hide_secrets
from t5ray.tracking.uri import shown
from t5ray.training.best import best_name
from t5ray.training.calibration import fit_label_temperature
from t5ray.training.errand import run_where_trained
from t5ray.training.group import Group
from t5ray.training.prepare import Prepared
from t5ray.training.validation import fixed_sample, validate

KNOWN_LABELS = "known_label_share"
"""Beside the metrics of a task with closed labels: the share of outputs that are one of its labels."""
LIBRARIES = ("t5ray", "torch", "transformers", "ray", "optuna", "mlflow", "datasets")


def versions() -> dict[str, str]:
    """Return the versions that decide a result."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def public(config: RunConfig) -> RunConfig:
    """Return the settings as they may be written down: no address in them holds a password or token."""
    tracking = config.tracking.model_copy(update={"uri": shown(config.tracking.uri)})
    return config.model_copy(update={"tracking": tracking}).public()


def identity_of(prepared: Prepared) -> dict[str, str]:
    """Return what must not change between the sessions of a run, by name."""
    objective = f"{prepared.objective} ({prepared.mode})"
    return {
        **sessions.identity_of(prepared.config, objective, prepared.decode),
        "model files": prepared.model_files,
        "data": prepared.splits.fingerprint,
        "task": prepared.task.model_dump_json(),
        "lengths": json.dumps(
            {name: getattr(prepared.data, name) for name in ("max_input_tokens", "max_target_tokens")}
        ),
    }


def publish_best(
    prepared: Prepared,
    params: Mapping[str, Any],
    report: Mapping[str, Any],
    folder: Path,
    target: Path,
    run: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Turn the best epoch of a run into a bundle and return its model.

    Args:
        params: training settings that differ from the prepared ones.
        report: report of the best epoch.
        folder: where the run's checkpoints are.
        run: which run of a search it is, as search.json says.
    """
    weights = folder / best_name(report["best_step"])
    put_back(weights)
    loaded = load_model(str(weights))
    settings = prepared.config.training.with_params(params).model_dump(mode="json")
    card = BundleCard(
        task=prepared.task,
        decode=prepared.decode,
        max_input_tokens=prepared.data.max_input_tokens,
        columns=prepared.config.data.columns,
        temperature=_temperature(prepared, loaded),
        metrics={**report["metrics"], "validation_loss": report["validation_loss"]},
        run=dict(run or {}),
        training=settings,
        base_model=hide_secrets(str(prepared.config.model)),
        data_fingerprint=prepared.splits.fingerprint,
        seeds={
            "training": int(settings["seed"]),
            "search": prepared.config.search.seed,
            "split": prepared.config.data.split_seed,
        },
        versions=versions(),
    )
    seen = (example.inputs for part in (prepared.splits.train, prepared.splits.validation) for example in part)
    publish(loaded, card, target, seen=np.unique(digest_texts(seen, SEEN_SEED)))
    return loaded


def _temperature(prepared: Prepared, loaded: LoadedModel) -> float:
    """Fit the labels' temperature on the rows that every epoch was judged on."""
    if not prepared.task.closed_labels:
        return 1.0
    return run_where_trained(prepared.config.resources, _fit_temperature, prepared, loaded)


def _fit_temperature(prepared: Prepared, loaded: LoadedModel) -> float:
    data = prepared.data
    rows = fixed_sample(len(data.validation), prepared.config.training.validation_rows)
    loaded.model.to(_device(prepared))
    return fit_label_temperature(
        loaded, data.validation, data.validation_references, prepared.task, prepared.decode, rows=rows
    )


def judge_on_test(prepared: Prepared, loaded: LoadedModel) -> dict[str, float]:
    """Return the task's metrics, and the loss, on the whole test split.

    In fp32, whatever training's precision: what evaluate finds with --precision fp32.
    """
    return run_where_trained(prepared.config.resources, _judge_on_test, prepared, loaded)


def _judge_on_test(prepared: Prepared, loaded: LoadedModel) -> dict[str, float]:
    device = _device(prepared)
    loaded.model.to(device)
    rows = np.arange(len(prepared.data.test))
    references, task, decode = prepared.data.test_references, prepared.task, prepared.decode
    found = validate(loaded, prepared.data.test, references, task, decode, rows=rows, group=Group(device))
    known = {} if found.known_labels is None else {KNOWN_LABELS: found.known_labels}
    return {**found.metrics, "loss": found.loss, **known}


def _device(prepared: Prepared) -> torch.device:
    """Return what the finished model is judged on: what it was trained on, in the command's own process, too."""
    return device_with(prepared.config.resources.gpus_per_worker)


def advice(test: Mapping[str, float] | None) -> str:
    """Return a line on what to do about a model that has not even learnt what the labels are; empty for any other."""
    if (test or {}).get(KNOWN_LABELS, 1.0) > 0:
        return ""
    return (
        "\nNo output on test was one of the task's labels: the model has not learnt the task yet. Train for more "
        "epochs (--max-epochs), or with a higher learning rate (training.learning_rate; in a search, its range)."
    )
