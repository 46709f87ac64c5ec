"""A bundle as an MLflow model: written around the bundle, logged to its run, registered under a name.

What is logged runs as it is under `mlflow models serve` and `mlflow.pyfunc.load_model`; its code is `served_model.py`.
"""

import hashlib
import importlib.metadata
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema

from t5ray.config import LANGUAGES, TaskConfig, template_fields

MODEL_NAME = "model"
"""What a run's model is called: `runs:/RUN_ID/model`."""
ALIAS = "champion"
DIGEST_TAG = "t5ray.digest"
CODE = Path(__file__).with_name("served_model.py")
LIBRARIES = ("mlflow", "torch", "transformers", "tokenizers", "sentencepiece", "safetensors", "pandas", "numpy")
"""What the code inside the model imports, by itself or through transformers."""


def log_bundle(client: MlflowClient, run_id: str, bundle: Path, columns: Mapping[str, str]) -> str:
    """Log a bundle as the run's model and return MLflow's id of it; the very same bundle is logged once.

    Args:
        columns: column that the task looks for -> column of the data.
    """
    digest = _digest(bundle, columns)
    run = client.get_run(run_id)
    if (known := _logged_before(client, run, digest)) is not None:
        return known
    model = client.create_logged_model(
        run.info.experiment_id, MODEL_NAME, run_id, tags={DIGEST_TAG: digest}, params=run.data.params
    )
    place = Model(
        artifact_path=model.artifact_location, model_uuid=model.model_id, model_id=model.model_id, run_id=run_id
    )
    with tempfile.TemporaryDirectory(prefix=".mlflow-model-", dir=bundle.parent) as folder:
        save_model(bundle, Path(folder) / MODEL_NAME, columns, place)
        client.log_model_artifacts(model.model_id, f"{folder}/{MODEL_NAME}")
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def register(client: MlflowClient, run_id: str, model_id: str, name: str) -> None:
    """Make a logged model the newest version of a registered one, and its champion."""
    try:
        client.create_registered_model(name)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    location = client.get_logged_model(model_id).artifact_location
    versions = client.search_model_versions(f"name = '{name}'")
    version = next((found for found in versions if found.source == location), None)
    if version is None:
        version = client.create_model_version(name, location, run_id, model_id=model_id)
    client.set_registered_model_alias(name, ALIAS, version.version)


def forms_of(client: MlflowClient, name: str) -> list[str]:
    """Return how the versions of a registered model can be named, newest last, aliases first.

    Example:
        forms_of(client, "topics") -> ["models:/topics@champion", "models:/topics/1", "models:/topics/2"]
    """
    aliases = sorted(client.get_registered_model(name).aliases)
    versions = sorted(int(found.version) for found in client.search_model_versions(f"name = '{name}'"))
    return [*(f"models:/{name}@{alias}" for alias in aliases), *(f"models:/{name}/{number}" for number in versions)]


def save_model(bundle: Path, target: Path, columns: Mapping[str, str], place: Model | None = None) -> None:
    """Write an MLflow model: the bundle, the code that runs it, its requirements, signature and an example."""
    card = json.loads((bundle / "t5ray.json").read_text(encoding="utf-8"))
    task = TaskConfig.model_validate(card["task"])
    names = [columns.get(name, name) for name in task.input_columns]
    languages = [columns.get(name, name) for name in template_fields(task.inputs) if name in LANGUAGES]
    mlflow.pyfunc.save_model(
        target,
        python_model=CODE,
        artifacts={"bundle": str(bundle)},
        model_config={"columns": dict(columns)},
        pip_requirements=requirements(),
        signature=ModelSignature(
            inputs=Schema([ColSpec("string", n) for n in names] + [ColSpec("string", n, False) for n in languages]),
            outputs=Schema([ColSpec("string", "prediction", False), ColSpec("string", "error", False)]),
        ),
        input_example=[{name: f"the {name} of a row" for name in names}],
        mlflow_model=place,
    )


def bundle_in(folder: Path) -> Path:
    """Return where the bundle lies in a downloaded model; a folder that is no model of ours is taken as it is."""
    if not (folder / "MLmodel").is_file():
        return folder
    code = Model.load(str(folder)).flavors.get("python_function", {})
    inside = code.get("artifacts", {}).get("bundle")
    return folder / inside["path"] if inside else folder


def requirements() -> list[str]:
    """Return the versions that made the model, pinned; a build's local label (`+cpu`) is no part of a version."""
    return [f"{library}=={importlib.metadata.version(library).partition('+')[0]}" for library in LIBRARIES]


def _logged_before(client: MlflowClient, run: Any, digest: str) -> str | None:
    for output in run.outputs.model_outputs if run.outputs else ():
        model = client.get_logged_model(output.model_id)
        if model.tags.get(DIGEST_TAG) == digest and model.status == LoggedModelStatus.READY:
            return str(model.model_id)
    return None


def _digest(bundle: Path, columns: Mapping[str, str]) -> str:
    """Return a digest of what the model is made of."""
    digest = hashlib.sha256(json.dumps(dict(columns), sort_keys=True).encode() + CODE.read_bytes())
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        digest.update(path.relative_to(bundle).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
