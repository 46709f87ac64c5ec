import io
import time
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from t5ray import board as module
from t5ray.board import Board, board, short
from t5ray.search.ledger import State, TrialRecord


def record(trial: int, values: list[float], state: State = "RUNNING", **params: Any) -> TrialRecord:
    """A trial that took 2 s of training and 1 s of validation an epoch."""
    best = [max(values[: n + 1]) for n in range(len(values))]
    reports = [
        {"value": v, "best_value": b, "train_s": 2.0, "validate_s": 1.0} for v, b in zip(values, best, strict=True)
    ]
    return TrialRecord(trial, params, state=state, reports=reports)


def shown(table: object) -> list[list[str]]:
    """Return the words of each line of a table, as a wide console draws it."""
    console = Console(width=200, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    return [line.replace("│", " ").split() for line in capture.get().splitlines()]


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"learning_rate": 0.00031234, "batch_size": 16}, "learning_rate=0.000312 batch_size=16"),
        ({"optimizer": "adamw", "dropout": 0.0}, "optimizer=adamw dropout=0"),
        ({}, ""),
    ],
)
def test_settings_fit_on_a_line(params: dict[str, Any], line: str) -> None:
    assert short(params) == line


def test_one_line_per_epoch_and_per_end_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    with board("accuracy", num_trials=3, max_epochs=4) as found:
        for trial in (
            record(0, []),
            record(0, [0.25]),
            record(0, [0.25]),  # told again after its process died
            record(1, []),
            record(1, [0.5, 0.125]),
            record(1, [0.5, 0.125], "PRUNED"),
            record(2, [], "FAIL"),
            record(0, [0.25, 0.75, 0.5, 0.5], "COMPLETE"),
            record(3, [0.5]),  # of an earlier session
            record(3, [0.5, 0.25]),
            record(3, [0.5, 0.25], "PRUNED"),
        ):
            found.update(trial)
    assert capsys.readouterr().out.splitlines() == [
        "trial 0   epoch 1/4  0.2500",
        "trial 1   epoch 2/4  0.1250",
        "trial 1   PRUNED    after 2 epochs, accuracy 0.5000",
        "trial 2   FAIL      after 0 epochs, no value",
        "trial 0   COMPLETE  after 4 epochs, accuracy 0.7500",
        "trial 3   goes on after epoch 1/4",
        "trial 3   epoch 2/4  0.2500",
        "trial 3   PRUNED    after 2 epochs, accuracy 0.5000",
    ]


def test_the_table_has_every_trial_in_order_with_its_latest_state() -> None:
    found = Board("accuracy", 5, 4)
    for trial in (record(2, [0.5], dropout=0.1), record(0, [0.25, 0.75, 0.5, 0.5], "COMPLETE"), record(1, [], "FAIL")):
        found.update(trial)
    found.update(record(2, [0.5, 0.625], dropout=0.1))
    assert [line for line in shown(found.table()) if line and line[0].isdigit()] == [
        ["0", "COMPLETE", "4/4", "0.5000", "0.7500", "12.0", "s"],
        ["1", "FAIL", "0/4", "0.0", "s"],
        ["2", "RUNNING", "2/4", "0.6250", "0.6250", "6.0", "s", "dropout=0.1"],
    ]


def headline(found: Board) -> str:
    (line,) = shown(found.headline())
    return " ".join(line[1:] if line[0].startswith("━") else line)


def test_the_headline_says_how_far_the_search_is_and_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    found = Board("accuracy", num_trials=5, max_epochs=4)
    found.update(record(0, []))
    now[0] = 160.0
    found.update(record(0, [0.1, 0.2, 0.3, 0.4], "COMPLETE"))
    found.update(record(1, []))
    found.update(record(1, [0.1, 0.2], "PRUNED"))
    found.update(record(2, []))
    found.update(record(2, [0.1]))
    # 7 epochs in 60 s; 3 more trials of 3 epochs on average, 1 of which is run: 8 epochs
    assert headline(found).endswith("2 of 5 trials, 7 epochs, 1 min 00 s, about 1 min 09 s left")


def test_the_time_left_counts_runs_on_fresh_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    found = Board("accuracy", num_trials=2, max_epochs=4, runs_again=lambda: 3)
    found.update(record(0, []))
    now[0] = 20.0
    found.update(record(0, [0.1, 0.2], "COMPLETE"))
    assert found.left_s() == pytest.approx(140)  # 10 s an epoch: one more trial of 2 epochs, 3 runs of 4
    found.update(record(1, []))
    found.update(record(1, [0.1, 0.2], "COMPLETE"))
    for values in ([], [0.25]):
        again = record(0, values)
        again.seed = 7
        found.update(again)
    assert found.left_s() == pytest.approx(20 / 5 * 11)  # 5 epochs in 20 s; 12 to confirm, 1 of which is run


def test_epochs_of_an_earlier_session_are_not_this_ones_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    found = Board("accuracy", num_trials=2, max_epochs=4)
    found.update(record(0, [0.1, 0.2, 0.3]))  # resumed
    assert found.left_s() is None
    now[0] = 10.0
    found.update(record(0, [0.1, 0.2, 0.3, 0.4], "COMPLETE"))
    assert found.left_s() == pytest.approx(40)  # 4 epochs at 10 s each


def test_runs_that_confirm_stand_behind_the_trials(capsys: pytest.CaptureFixture[str]) -> None:
    found = Board("accuracy", num_trials=1, max_epochs=2)
    found.update(record(0, [0.25, 0.5], "COMPLETE"))
    again = record(0, [0.25, 0.375], "COMPLETE")
    again.seed = 7
    found.update(again)
    assert capsys.readouterr().out.splitlines()[1] == (
        "trial 0   again on seed 7 COMPLETE  after 2 epochs, accuracy 0.3750"
    )
    rows = [line for line in shown(found.table()) if line and line[0][0].isdigit()]
    assert [line[:3] for line in rows] == [["0", "COMPLETE", "2/2"], ["0,", "seed", "7"]]
    assert "1 of 1 trial, " in headline(found)
    assert "now training the best again on fresh seeds" in headline(found)


def test_a_low_terminal_shows_running_trials_the_best_the_default_and_the_latest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "console", Console(file=io.StringIO(), width=120, height=13))
    found = Board("accuracy", 40, 4)
    found.is_live = True
    for number in range(30):
        value = 0.9 if number == 5 else 0.5
        found.update(record(number, [value], "RUNNING" if number in (11, 12) else "PRUNED"))
    rows = [line[0] for line in shown(found.table()) if line and line[0].isdigit() and line[1] in ("RUNNING", "PRUNED")]
    assert rows == ["0", "5", "11", "12", "28", "29"]
    assert "not shown: 24 that have ended" in " ".join(" ".join(line) for line in shown(found.table()))


def bold_cells(found: Board) -> list[str]:
    (column,) = [column for column in found.table().columns if column.header == "best"]
    return [Text.from_markup(str(cell)).plain for cell in column.cells if "[bold]" in str(cell)]


@pytest.mark.parametrize(("mode", "best"), [("max", "0.7500"), ("min", "0.2500")])
def test_the_best_of_all_trials_stands_out(mode: str, best: str) -> None:
    found = Board("accuracy", 3, 4, mode=mode)
    for trial in (record(0, [0.25]), record(1, [0.75]), record(2, [])):
        found.update(trial)
    assert bold_cells(found) == [best]


def test_a_terminal_shows_a_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=screen, force_terminal=True, width=120))
    with board("accuracy", num_trials=1, max_epochs=2) as found:
        found.update(record(0, [0.25, 0.5], "COMPLETE", batch_size=16))
    drawn = Text.from_ansi(screen.getvalue()).plain
    assert "1 of 1 trial, " in drawn
    assert "batch_size=16" in drawn
    assert "trial 0 " not in drawn  # lines are for pipes


def test_a_narrow_terminal_cuts_the_settings_and_nothing_else() -> None:
    found = Board("exact_match", 1, 4)
    found.update(record(0, [0.25, 0.75], learning_rate=0.000312, batch_size=16, weight_decay=0.0123, dropout=0.1))
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(found.table())
    headings, row = capture.get().splitlines()
    assert headings.split() == ["trial", "state", "epoch", "exact_match", "best", "time", "settings"]
    assert row.split()[:7] == ["0", "RUNNING", "2/4", "0.7500", "0.7500", "6.0", "s"]
    assert row.rstrip().endswith("…")
