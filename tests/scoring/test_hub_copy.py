import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t5ray.config import PredictConfig
from t5ray.errors import ConfigError, DataError
from t5ray.scoring.hub_copy import copied, drop_copy
from t5ray.scoring.inputs import list_sources
from t5ray.scoring.plan import FinishedJob, Job, prepare
from t5ray.scoring.scorer import Scorer
from tests.scoring.doubles import ShoutingEngine
from tests.scoring.plans import begin


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset in the hub's layout with a label column, of 3 and 1 rows."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    for split, labels in {"train": [0, 1, -1], "test": [1]}.items():
        rows = datasets.Dataset.from_dict(
            {"text": [f"{split} {n}" for n in range(len(labels))], "label": labels}, features=features
        )
        rows.to_parquet(folder / f"{split}.parquet")
    return folder


def test_every_split_is_copied_in_order_with_labels_as_names(dataset: Path, tmp_path: Path) -> None:
    folder = copied(f"hf:{dataset}", tmp_path / "out")
    assert [path.name for path in sorted(folder.iterdir())] == ["00000-train.parquet", "00001-test.parquet"]
    table = pq.read_table(folder / "00000-train.parquet")
    assert table.to_pydict() == {
        "split": ["train"] * 3,
        "text": ["train 0", "train 1", "train 2"],
        "label": ["no", "yes", None],
    }
    assert table.schema.field("text").type == pa.string()
    before = (folder / "00000-train.parquet").stat().st_ino
    assert copied(f"hf:{dataset}", tmp_path / "out") == folder
    assert (folder / "00000-train.parquet").stat().st_ino == before
    drop_copy(tmp_path / "out")
    assert not folder.exists()


def test_a_dataset_that_is_not_there_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a dataset of the Hugging Face hub, or a folder in its layout"):
        copied(f"hf:{tmp_path}/missing", tmp_path / "out")


def test_a_dataset_of_the_hub_is_scored_like_any_input(dataset: Path, tmp_path: Path, tiny_t5: Path) -> None:
    given: dict[str, Any] = {"model": str(tiny_t5), "input": f"hf:{dataset}", "output": str(tmp_path / "out")}
    config = PredictConfig(**given, task="classify", format="jsonl", shard_rows=2)
    job = prepare(config)
    assert isinstance(job, Job)
    list(Scorer(job.spec, load=ShoutingEngine).score(job.pending))
    rows = [json.loads(line) for part in sorted((tmp_path / "out").glob("part-*")) for line in part.open()]
    assert [(row["split"], row["label"], row["prediction"]) for row in rows] == [
        ("train", "no", "TRAIN 0"),
        ("train", "yes", "TRAIN 1"),
        ("train", None, "TRAIN 2"),
        ("test", "yes", "TEST 0"),
    ]
    counts = {"rows_out": 4, "rows_with_error": 0, "rows_per_s": 1.0, "padding_share": 0.0, "capped_share": 0.0}
    job.spec.ledger.write_job(
        {"state": "done", "seconds": 1.0, "num_shards": 3, "fingerprint": job.fingerprint, "stamps": [], **counts}
        | {"config": config.model_dump(mode="json")}
    )
    drop_copy(tmp_path / "out")
    again = prepare(config)
    assert isinstance(again, Job)
    assert again.pending == ()  # what is in a folder may change, so that it is read again
    shutil.rmtree(dataset)
    assert isinstance(prepare(config), FinishedJob)  # as of a dataset of the hub, which is not asked again


def test_another_local_dataset_of_the_same_address_is_another_input(
    tmp_path: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "topics").mkdir(parents=True)
        (tmp_path / name / "topics" / "train.jsonl").write_text(json.dumps({"text": name}) + "\n")
    given: dict[str, Any] = {"model": str(tiny_t5), "input": "hf:topics", "output": str(tmp_path / "out")}
    config = PredictConfig(**given, task="classify", shard_rows=2)
    monkeypatch.chdir(tmp_path / "one")
    begin(config, state="done", num_shards=1)
    monkeypatch.chdir(tmp_path / "two")
    with pytest.raises(ConfigError, match=r"differs in input \(content of 00000-train\.parquet\)"):
        prepare(config)
    monkeypatch.chdir(tmp_path / "one")
    (tmp_path / "one" / "topics" / "train.jsonl").write_text(json.dumps({"text": "changed"}) + "\n")
    with pytest.raises(ConfigError, match=r"differs in input \(content of 00000-train\.parquet\)"):
        prepare(config)


def test_splits_stay_in_order_where_there_are_more_than_ten(tmp_path: Path) -> None:
    names = [f"part{chr(ord('m') - n)}" for n in range(12)]  # an order of its own
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {name}\n    path: {name}.jsonl\n" for name in names)
        + "---\n"
    )
    for name in names:
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": name}) + "\n")
    copy = copied(f"hf:{folder}", tmp_path / "out")
    rows = [row for file in list_sources(str(copy))[0] for row in pq.read_table(copy / file.name).to_pylist()]
    assert [row["text"] for row in rows] == names
