import json
from datetime import datetime
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t5ray.config import DataConfig
from t5ray.data import read_splits
from t5ray.data.formats import BadRow, Row
from t5ray.data.hub import open_hub
from t5ray.data.rows import SPLIT_NAMES
from t5ray.errors import DataError
from tests.data.conftest import CLASSIFY


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _folder(tmp_path: Path, **splits: list[dict[str, Any]]) -> str:
    """Write a dataset in the hub's layout: one file per split."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"hf:{folder}"


def _row(number: int) -> dict[str, Any]:
    return {"text": f"text {number}", "label": "even" if number % 2 == 0 else "odd"}


def test_splits_of_the_dataset_become_splits(tmp_path: Path) -> None:
    address = _folder(
        tmp_path, train=[_row(n) for n in range(4)], validation=[_row(4), _row(5)], test=[_row(n) for n in range(6, 9)]
    )
    splits = read_splits(DataConfig(path=address), CLASSIFY)
    assert splits.has_split_column
    assert [example.inputs for example in splits.train] == [f"classify: text {n}" for n in range(4)]
    assert [example.references for example in splits.validation] == [("even",), ("odd",)]
    assert [example.place for example in splits.test] == [f"{address} test row {n}" for n in (1, 2, 3)]


def test_split_column_inside_the_rows_wins(tmp_path: Path) -> None:
    rows = [{**_row(n), "split": ("train", "train", "dev", "test")[n % 4]} for n in range(8)]
    splits = read_splits(
        DataConfig(path=_folder(tmp_path, train=rows)), CLASSIFY.model_copy(update={"labels": ("even", "odd")})
    )
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (4, 2, 2)


def test_class_labels_become_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["odd", "even"])}
    )
    for name in ("train", "test"):
        rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, -1]}, features=features)
        rows.to_parquet(folder / f"{name}.parquet")
    rows, _ = open_hub(f"hf:{folder}", SPLIT_NAMES)
    assert [row.values["label"] for row in rows if isinstance(row, Row)] == ["odd", "even", None] * 2


def test_other_splits_are_left_out_and_named(tmp_path: Path) -> None:
    folder = Path(_folder(tmp_path, train=[_row(n) for n in range(10)]).removeprefix("hf:"))
    pq.write_table(pa.Table.from_pylist([_row(n) for n in range(3)]), folder / "unlabelled.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: small\n  data_files:\n  - split: train\n    path: train.jsonl\n"
        "  - split: unsupervised\n    path: train.jsonl\n---\n",
        encoding="utf-8",
    )
    rows, findings = open_hub(f"hf:{folder}:small", SPLIT_NAMES)
    assert [row.values["split"] for row in rows if isinstance(row, Row)] == ["train"] * 10
    assert findings == [
        f"hf:{folder}:small: split `unsupervised` (10 rows) was left out, as it is none of train, validation and test."
    ]


def test_dataset_without_a_known_split(tmp_path: Path) -> None:
    folder = Path(_folder(tmp_path, train=[_row(1)]).removeprefix("hf:"))
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: corpus\n    path: train.jsonl\n---\n",
        encoding="utf-8",
    )
    with pytest.raises(DataError, match="the dataset must have a split named train, but has corpus"):
        open_hub(f"hf:{folder}", SPLIT_NAMES)


def test_no_such_configuration(tmp_path: Path) -> None:
    address = _folder(tmp_path, train=[_row(1)])
    with pytest.raises(DataError, match=r"could not be loaded: BuilderConfig 'large' not found"):
        open_hub(f"{address}:large", SPLIT_NAMES)


def test_no_such_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"hf:.*/nothing: must be a dataset of the Hugging Face hub.*could not be loaded"
    ):
        open_hub(f"hf:{tmp_path}/nothing", SPLIT_NAMES)


@pytest.mark.parametrize("address", ["hf:", "hf::large"])
def test_an_address_without_a_name(address: str) -> None:
    with pytest.raises(DataError, match=rf"^{address}: must name a dataset .* but names none\. Write hf:NAME"):
        open_hub(address, SPLIT_NAMES)


def test_broken_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.parquet").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="could not be loaded"):
        open_hub(f"hf:{folder}", SPLIT_NAMES)


def test_a_cell_that_python_cannot_hold_is_a_bad_row_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    far_away = pa.array([0, 2**62], pa.timestamp("us"))
    pq.write_table(pa.table({"text": ["a", "b"], "label": ["x", "y"], "at": far_away}), folder / "train.parquet")
    good, bad = open_hub(f"hf:{folder}", SPLIT_NAMES)[0]
    assert isinstance(good, Row)
    assert good.values["at"] == datetime(1970, 1, 1)
    assert isinstance(bad, BadRow)
    assert bad.place == f"hf:{folder} train row 2"
    assert "`at` must hold a value that can be read, but its timestamp[us] cannot" in bad.reason
