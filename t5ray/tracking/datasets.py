"""A run's dataset in MLflow's words."""

import json

from mlflow.entities import Dataset, DatasetInput, InputTag


def training_input(name: str, digest: str, source: str) -> DatasetInput:
    """Return what a run is trained on; MLflow's own code finds the source again, a file or an address by its scheme."""
    scheme, _, is_address = source.partition("://")
    kind = {"https": "http"}.get(scheme, scheme) if is_address else "local"
    where = json.dumps({"url" if kind == "http" else "uri": source})
    return DatasetInput(Dataset(name, digest, kind, where), [InputTag("mlflow.data.context", "training")])
