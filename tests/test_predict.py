import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from t5ray.cluster import connect
from t5ray.config import DecodeConfig, PredictConfig
from t5ray.predict import main
from t5ray.scoring.plan import Job, prepare
from t5ray.scoring.scorer import Scorer

SLOW = 300
"""Rows that keep a worker busy for some seconds at ten rows a shard."""


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with connect("local", num_cpus=2):
        yield


def write_rows(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"id": n, "text": f"row {n} " + "x" * (n % 9)}) + "\n" for n in range(count)))
    return path


def arguments(model: Path, rows: Path, output: Path, *more: str) -> list[str]:
    given = ["--model", model, "--input", rows, "--output", output, "--task", "classify", "--precision", "fp32"]
    return [*map(str, given), "--set", "decode.max_new_tokens=5", *more]


def test_help_answers_without_the_big_libraries() -> None:
    code = (
        "import sys; from t5ray.predict import main; main(['--help']); "
        "assert not {'torch', 'ray', 'mlflow', 'pyarrow', 'pandas'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for flag in ("--model", "--input", "--retry-errors", "--on-long", "--column", "--scores", "--address"):
        assert flag in found.stdout


def test_missing_settings_are_all_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr().err
    assert all(f"{name}: must be given (--{name})." in shown for name in ("model", "input", "output"))


def test_a_model_path_that_is_wrong_is_what_is_said_first(
    tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = str(tmp_path / "tiny-t6")
    shutil.copytree(tiny_t5, tmp_path / "tiny-t5")
    assert main(["--model", wrong, "--input", "rows.jsonl", "--output", str(tmp_path / "out")]) == 4
    assert capsys.readouterr().err == (
        f"model error: {wrong}: the directory of a model must be there, but is not. Did you mean `tiny-t5`?\n"
    )


def test_half_precision_is_refused_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "m", "--input", "i", "--output", str(tmp_path), "--precision", "fp16"]) == 2
    assert "T5's activations overflow in fp16" in capsys.readouterr().err


def test_an_input_that_is_not_there_is_a_data_error(
    tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tiny_t5, tmp_path / "rows.jsonl", tmp_path / "out")) == 3
    assert "nothing is there" in capsys.readouterr().err


@pytest.mark.integration
def test_rows_with_errors_give_exit_code_8_and_are_retried_alone(
    ray_here: None, tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "fine"}\n{"text": null}\n{"text": "' + "long " * 10 + '"}\n{"text": "fine too"}\n{"te\n')
    model = tmp_path / "bundle"
    make_bundle(tiny_t5, model, max_input_tokens=25)
    given = ["--model", str(model), "--input", str(rows), "--output", str(tmp_path / "out")]
    assert main([*given, "--on-long", "error"]) == 8
    shown = capsys.readouterr().out
    assert "5 rows in" in shown
    assert ", 3 with an error (of which another try may score 1)" in " ".join(shown.split())
    assert " over all runs" not in shown
    (again,) = (line for line in shown.splitlines() if "--retry-errors" in line)
    assert "--on-long truncate" in again
    assert "--on-long error" not in again
    first = "The first error, in part-00000.parquet row 2: `text` must hold text, but is null. Where the row itself"
    assert first in " ".join(shown.split())
    before = pq.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    assert [row["error"] for row in before][:4] == [
        None,
        "`text` must hold text, but is null",
        "the input must have at most 25 tokens, but has 57",
        None,
    ]
    assert main([*given, "--on-long", "error"]) == 8
    assert "this job is done already; nothing was scored again" in capsys.readouterr().out
    assert main([*given, "--retry-errors"]) == 8
    shown = capsys.readouterr().out
    assert shown.startswith("scoring: 2 of 5")  # the rows with an error are to be done
    assert "Another try would say the same: mend the row in the input" in " ".join(shown.split())
    assert "--retry-errors" not in shown
    assert " s over all runs (" in " ".join(shown.split())
    assert ", 2 with an error, 33.3% of scored inputs cut" in " ".join(shown.split())
    assert main([*given, "--retry-errors"]) == 8
    assert "nothing was scored again" in capsys.readouterr().out  # nor would it help
    after = pq.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    assert [row["error"] is None for row in after] == [True, False, True, True, False]
    assert [after[0], after[3]] == [before[0], before[3]]
    assert json.loads((tmp_path / "out" / "_job.json").read_text())["rows_with_error"] == 2
    assert json.loads((tmp_path / "out" / "_job.json").read_text())["rows_unusable"] == 2
    assert main([*given, "--format", "csv"]) == 2
    assert "holds the results of another job" in capsys.readouterr().err


def make_bundle(model: Path, target: Path, *, max_input_tokens: int) -> None:
    """Make a bundle by hand: the files of a model and a card."""
    target.mkdir()
    for file in model.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    task = {"name": "shout", "inputs": "shout: {text}", "targets": "{loud}", "metrics": ["exact_match"]}
    card = {"task": task, "decode": {"max_new_tokens": 5}, "max_input_tokens": max_input_tokens}
    (target / "t5ray.json").write_text(json.dumps(card))


def score_without_ray(given: list[str], output: Path) -> list[Path]:
    """Return the parts of a job that one process scores undisturbed."""
    named = dict(zip(given[::2], given[1::2], strict=True))
    config = PredictConfig(
        model=named["--model"],
        input=named["--input"],
        output=str(output),
        task="classify",
        precision="fp32",
        format="jsonl",
        shard_rows=10,
        scores="scores=true" in given,
        decode=DecodeConfig(max_new_tokens=5),
    )
    job = prepare(config)
    assert isinstance(job, Job)
    job.spec.ledger.open()
    list(Scorer(job.spec).score(job.pending))
    return sorted(output.glob("part-*"))


def start(given: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "t5ray.predict", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.integration
def test_the_same_command_goes_on_after_ctrl_c_and_after_kill_9(tiny_t5: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", SLOW)
    given = arguments(tiny_t5, rows, tmp_path / "out", "--set", "shard_rows=10", "--format", "jsonl")
    entries = tmp_path / "out" / "_ledger"

    def finished() -> int:
        return len(list(entries.glob("*.json")))

    first = start(given)
    wait_for(lambda: finished() >= 2, first)
    os.killpg(first.pid, signal.SIGINT)  # as a terminal does
    shown = first.communicate(timeout=60)[0]
    assert first.returncode == 130, shown
    assert "Traceback" not in shown
    assert f"of {SLOW // 10} parts are finished and kept" in shown
    assert "Go on with: python -m t5ray.predict --model" in shown
    after_interrupt = finished()
    assert 2 <= after_interrupt < SLOW // 10

    second = start(given)
    wait_for(lambda: finished() >= after_interrupt + 2, second)
    os.kill(second.pid, signal.SIGKILL)
    second.communicate(timeout=60)
    assert finished() < SLOW // 10

    assert main(given) == 0
    whole = score_without_ray(given, tmp_path / "whole")
    resumed = sorted((tmp_path / "out").glob("part-*"))
    assert [path.name for path in resumed] == [path.name for path in whole]
    assert [path.read_bytes() for path in resumed] == [path.read_bytes() for path in whole]
    ids = [json.loads(line)["id"] for path in resumed for line in path.read_text().splitlines()]
    assert ids == list(range(SLOW))
