"""Every check passes here, and each that fails says so on its line, with a mend and its exit code."""

import importlib.metadata
import sys
from pathlib import Path

import pytest
import torch

from t5ray import cluster, doctor
from t5ray.config import RunConfig
from t5ray.doctor import _nodes as ask_nodes
from t5ray.doctor import (
    check_data,
    check_disk,
    check_memory,
    check_storage,
    check_tracking,
    check_versions,
    examine,
    main,
)
from t5ray.errors import ClusterError
from t5ray.health.finding import Finding

CHECKS = ["python", "versions", "memory", "disk", "storage", "bf16", "data", "model", "tracking", "ray"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, on a machine that has room enough."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "ENOUGH_DISK_BYTES", 2**20)
    monkeypatch.setattr(doctor, "ENOUGH_MEMORY_BYTES", 2**20)
    return tmp_path


def lines_of(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return check -> what follows its name, a mend included; the order is that of the console."""
    found: dict[str, str] = {}
    for line in capsys.readouterr().out.splitlines():
        verdict, _, rest = line.partition("  ")
        if verdict in ("pass", "FAIL"):
            name, _, text = rest.strip().partition(" ")
            found[name] = f"{verdict} {text.strip()}"
        elif line.strip().startswith("->"):
            found[name] += f" {line.strip()}"
    return found


@pytest.mark.integration
def test_a_good_machine_passes_and_nothing_is_left_behind(
    local_ray: None, folder: Path, tiny_t5: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--storage", "runs/deep", "--model", str(tiny_t5)]) == 0
    out = capsys.readouterr().out
    assert "All 10 checks passed." in out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("pass")] == CHECKS
    assert f"torch {importlib.metadata.version('torch')}" in out
    assert "t5, d_model 32, 2 layers, 75 tokens" in out
    assert "1 node, 2 CPUs, 0 GPUs" in out
    assert list(folder.iterdir()) == []


@pytest.mark.integration
def test_storage_that_cannot_be_written(local_ray: None, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("in the way")
    assert main(["--storage", str(folder / "file" / "runs"), "--tracking-uri", "none"]) == 6
    found = lines_of(capsys)
    assert list(found) == CHECKS
    storage = found.pop("storage")
    assert storage.startswith(f"FAIL {folder}/file/runs: ")
    assert storage.endswith("-> Choose a writable --storage.")
    assert all(line.startswith("pass ") for line in found.values())
    assert (folder / "file").read_text() == "in the way"


@pytest.mark.integration
def test_a_model_that_is_not_there(local_ray: None, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(folder / "none"), "--tracking-uri", "none"]) == 4
    found = lines_of(capsys)
    assert found["model"] == f"FAIL {folder}/none: the directory of a model must be there, but is not. Check the path."


@pytest.mark.integration
def test_tracking_that_does_not_answer(local_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tracking-uri", "http://127.0.0.1:1"]) == 5
    found = lines_of(capsys)
    assert found["tracking"].startswith("FAIL tracking.uri: MLflow must answer at http://127.0.0.1:1")
    assert found["ray"].startswith("pass ")


@pytest.mark.integration
def test_the_first_failure_gives_the_exit_code(
    local_ray: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(folder / "none"), "--tracking-uri", "mlruns"]) == 4
    assert "2 of 10 checks failed." in capsys.readouterr().out


def test_bf16_is_told_where_training_and_scoring_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t5ray.model.numeric.default_device", lambda: torch.device("cuda"))
    monkeypatch.setattr("t5ray.model.numeric.has_fast_bf16", lambda device_type: device_type == "cuda")
    on_gpu = RunConfig.model_validate({"resources": {"gpus_per_worker": 1}})
    assert doctor.check_bf16(RunConfig()).text == (
        "training, with gpus_per_worker 0, on cpu: slow, auto means fp32; "
        "scoring on cuda: fast, precision auto means bf16"
    )
    assert doctor.check_bf16(on_gpu).text == "cuda: fast, precision auto means bf16"
    monkeypatch.setattr("t5ray.model.numeric.default_device", lambda: torch.device("cpu"))
    assert doctor.check_bf16(RunConfig()).text == "cpu: slow, auto means fp32"


def checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return what doctor shows where all checks pass, or where the model's fails if it is to."""
    found = Finding(True, "as it should be")
    for name in CHECKS:
        monkeypatch.setattr(doctor, f"check_{name}", lambda settings: found)
    if "broken" in argv:
        monkeypatch.setattr(doctor, "check_model", lambda settings: Finding(False, "not there. Check it.", exit_code=4))
    assert main(list(argv)) == (4 if "broken" in argv else 0)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "try the demo  python -m t5ray.tune"),
        (["--storage", "s"], "try the demo  python -m t5ray.tune --storage s"),
        (["--model", "m", "--cluster"], "search  python -m t5ray.tune --model m --data ROWS.jsonl --task TASK"),
        (["--data", "d.csv"], "search  python -m t5ray.tune --data d.csv --task TASK --model google/flan-t5-small"),
        (
            ["--set", "task=classify", "--data", "d", "--model", "m"],
            "search  python -m t5ray.tune --set task=classify --data d --model m",
        ),
    ],
)
def test_what_passed_is_what_to_search_with(
    flags: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_nodes", lambda settings: [])
    monkeypatch.setattr("t5ray.terminal.typed", lambda command: command)
    out = checked(monkeypatch, capsys, *flags)
    assert out.splitlines()[-2:] == ["Next:", f"  {expected}"]


def test_what_failed_is_checked_again_once_it_is_mended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("t5ray.terminal.typed", lambda command: command)
    lines = checked(monkeypatch, capsys, "--model", "broken").splitlines()
    assert lines[7:] == [
        "FAIL  model     not there. Check it.",
        "pass  tracking  as it should be",
        "pass  ray       as it should be",
        "",
        "1 of 10 checks failed.",
        "Next:",
        "  once that is mended  python -m t5ray.doctor --model broken",
    ]


def test_an_address_without_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # whatever other tests have running
    assert main(["--address", "127.0.0.1:1", "--tracking-uri", "none"]) == 6
    assert "Start one with `ray start --head --port=6379`" in lines_of(capsys)["ray"]


def test_every_node_means_those_of_the_ray_that_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray of doctor's own would be one node that agrees with itself."""

    def refuse(address: str) -> None:
        raise ClusterError(f"nothing answers at {address}")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "connect", refuse)
    (finding,) = ask_nodes(RunConfig())
    assert (finding.passed, finding.text, finding.exit_code) == (False, "nothing answers at auto", 6)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    assert ask_nodes(RunConfig())[0].text == "nothing answers at 10.0.0.5:6379"
    assert ask_nodes(RunConfig(address="10.0.0.6:6379"))[0].text == "nothing answers at 10.0.0.6:6379"


def test_a_wrong_setting_is_refused_before_any_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--set", "storag=x"]) == 2
    shown = capsys.readouterr()
    assert "storag: no such setting. Did you mean `storage`?" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("name", ["rows.csv", "rows.tx", "folder", "*.jsonl"])
def test_data_that_cannot_be_opened_are_told(folder: Path, name: str) -> None:
    (folder / "folder").mkdir()
    (folder / "rows.tx").write_text("text")
    finding = examine(check_data, RunConfig.model_validate({"data": {"path": str(folder / name)}}))
    assert (finding.passed, finding.exit_code) == (False, 3)
    assert finding.text.startswith(f"{folder}/{name}: ")


def test_data_that_are_cut_off_are_told(folder: Path) -> None:
    (folder / "rows.csv.gz").write_bytes(b"no gzip at all")
    finding = examine(check_data, RunConfig.model_validate({"data": {"path": str(folder)}}))
    assert (finding.passed, finding.exit_code) == (False, 3)
    assert "rows.csv.gz: the file must be readable to its end" in finding.text


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (None, "the demo's, which come with t5ray (--data names others)"),
        ("rows.csv", "rows.csv opens"),
        ("hf:nobody/nothing", "hf:nobody/nothing: the hub is asked when a command reads it"),
    ],
)
def test_data_that_open_pass(folder: Path, path: str | None, text: str) -> None:
    (folder / "rows.csv").write_text("text,label\na,b\n")
    finding = examine(check_data, RunConfig.model_validate({"data": {"path": path}}))
    assert (finding.passed, finding.text) == (True, text)


def test_storage_says_what_to_do(folder: Path) -> None:
    (folder / "file").write_text("in the way")
    finding = examine(check_storage, RunConfig(storage=str(folder / "file" / "runs")))
    assert (finding.passed, finding.exit_code) == (False, 6)
    assert str(folder / "file" / "runs") in finding.text
    assert finding.mend == "Choose a writable --storage."


def test_storage_at_a_uri_is_written_and_cleaned() -> None:
    import fsspec

    finding = examine(check_storage, RunConfig(storage="memory://t5ray-doctor/runs"))
    assert (finding.passed, finding.text) == (True, "memory://t5ray-doctor/runs is writable")
    assert fsspec.filesystem("memory").find("/t5ray-doctor") == []


def test_an_empty_folder_that_was_there_stays(folder: Path) -> None:
    (folder / "runs").mkdir()
    assert examine(check_storage, RunConfig(storage="runs")).passed
    assert list(folder.iterdir()) == [folder / "runs"]
    assert list((folder / "runs").iterdir()) == []


def test_too_little_room_is_told_with_a_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ENOUGH_DISK_BYTES", 2**60)
    monkeypatch.setattr(doctor, "ENOUGH_MEMORY_BYTES", 2**60)
    for check, mend in ((check_disk, "Free space or choose another --storage"), (check_memory, "Close programs")):
        finding = examine(check, RunConfig())
        assert (finding.passed, finding.exit_code) == (False, 6)
        assert mend in finding.mend


def test_a_version_that_is_too_old_is_named_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0" if name == "optuna" else real(name))
    finding = examine(check_versions, RunConfig())
    assert not finding.passed
    assert finding.text == "optuna 1.0 (needs <6,>=5.0)"
    assert finding.mend == "In t5ray's repository: pip install -c constraints.txt ."


def test_a_library_that_is_not_there_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "mlflow":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "t5ray.tracking", None)  # as if importing it failed
    versions, tracking = (examine(check, RunConfig()) for check in (check_versions, check_tracking))
    assert versions.text.startswith("mlflow is not installed (needs ")
    assert (tracking.passed, tracking.exit_code) == (False, 6)
    assert tracking.mend == "In t5ray's repository: pip install -c constraints.txt ."


@pytest.mark.parametrize(
    ("uri", "passed"),
    [
        ("sqlite:///new.db", True),
        ("sqlite+pysqlite:///new.db", True),
        ("sqlite:///nowhere/new.db", False),
        ("sqlite:///:memory:", False),
        ("none", True),
    ],
)
def test_a_database_is_not_made_by_looking(folder: Path, uri: str, passed: bool) -> None:
    finding = examine(check_tracking, RunConfig.model_validate({"tracking": {"uri": uri}}))
    assert finding.passed == passed
    assert passed or finding.exit_code == 5
    assert list(folder.iterdir()) == []
