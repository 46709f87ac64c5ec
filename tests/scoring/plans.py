"""Jobs that are planned, or begun, without Ray."""

from typing import Any

from t5ray.cluster import Cluster
from t5ray.config import PredictConfig
from t5ray.scoring.ledger import Entry
from t5ray.scoring.plan import Job, prepare, settled


def planned(config: PredictConfig) -> Job:
    job = prepare(config)
    assert isinstance(job, Job)
    return job


def begin(config: PredictConfig, **record: Any) -> Job:
    """Leave a job behind as a run would that was killed after its first part."""
    job = settled(planned(config), 0.0)
    ledger = job.spec.ledger
    ledger.open()
    stamps = [[file.source.name, file.stamp] for file in job.spec.input.files]
    known = {"fingerprint": job.fingerprint, "stamps": stamps, "config": config.public().model_dump(mode="json")}
    ledger.write_job({"state": "running", "seconds": 1.5, **known, **record})
    ledger.commit(0, b"part", Entry(rows=1, errors=1))
    return job


def changed(config: PredictConfig, **values: Any) -> PredictConfig:
    return PredictConfig.model_validate({**config.model_dump(), **values})


def small(**have: float) -> Cluster:
    values = {"num_nodes": 1, "num_cpus": 8.0, "num_gpus": 0.0, "object_store_bytes": 1 << 30, **have}
    return Cluster(**values, dashboard_url=None, started_here=True)  # type: ignore[arg-type]


def settings(**values: object) -> PredictConfig:
    return PredictConfig.model_validate({"model": "m", "input": "i", "output": "o", **values})
