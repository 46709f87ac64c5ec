"""Augmentation from the command line: shown, trained on, searched, and back-translated once."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from t5ray.train import main as train
from t5ray.tune import main as tune
from tests.test_train import arguments, no_ray, record_of, small_cluster
from tests.tiny import make_tiny_t5

__all__ = ["no_ray", "small_cluster"]
SWAP = ["--set", "training.augment_swap_rate=0.2"]
BACK = ["--set", "training.augment_back_translation_rate=1"]


def error(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_rows_are_shown_before_and_after_and_nothing_is_trained(
    tmp_path: Path, tiny_t5: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(tmp_path, tiny_t5, *SWAP, "--set", "training.augment_copies=2", "--show-augmented", "3")
    assert train(given) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith("tickets.csv:")] == [f"tickets.csv:{n}" for n in (2, 3, 6)]
    before = [line.split("classify: ")[1] for line in shown if line.startswith("  before ")]
    assert before == [
        "No light comes on after the update",
        "Charged twice in March",
        "Please send it to our new address",
    ]
    first = next(line.split("classify: ")[1] for line in shown if line.startswith("  swap "))
    assert first != before[0]
    assert sorted(first.split()) == sorted(before[0].split())
    assert re.fullmatch(r"24 training rows get \d+ copies: \d+ by swap\.", shown[-3])
    assert "--show-augmented" not in shown[-1]  # what to run next
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert train(given) == 0
    assert capsys.readouterr().out.splitlines() == shown


@pytest.mark.parametrize("sets", [(), (*SWAP, "--set", "training.augment_swap_copies=0")])
def test_nothing_to_show_is_said(
    sets: tuple[str, ...], tmp_path: Path, tiny_t5: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(arguments(tmp_path, tiny_t5, *sets, "--show-augmented", "3")) == 2
    wanted = "some training.augment_*_rate must be above 0, and its copies, too, but none is. Give one, such as --set"
    assert wanted in error(capsys)


def test_each_technique_has_its_own_copies(
    tmp_path: Path, tiny_t5: Path, small_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["augment_swap_copies=2", "augment_deletion_rate=0.5", "augment_deletion_copies=1"]
    sets = [*SWAP, *(word for setting in own for word in ("--set", f"training.{setting}"))]
    assert train(arguments(tmp_path, tiny_t5, *sets, "--show-augmented", "24")) == 0
    shown = capsys.readouterr().out
    assert "  before " in shown
    made = {name: len(re.findall(rf"^  {name} ", shown, re.MULTILINE)) for name in ("deletion", "swap")}
    assert 12 <= made["deletion"] <= 24  # a short text loses no word now and then
    assert 24 < made["swap"] <= 48
    end = f"24 training rows get {sum(made.values())} copies: {made['deletion']} by deletion, {made['swap']} by swap."
    assert shown.splitlines()[-3] == end
    assert train(arguments(tmp_path, tiny_t5, *sets, "--preview")) == 0
    assert "each training row at most 1 more by deletion 0.5, 2 more by swap 0.2: so" in capsys.readouterr().out


IDLE = (
    "training.augment_swap_copies: needs a rate above 0, but training.augment_swap_rate is 0, so none of its copies "
    "would be made. Give the rate, such as --set training.augment_swap_rate=0.1, or leave the copies out."
)


@pytest.mark.parametrize("command", [train, tune])
def test_copies_without_a_rate_are_refused(
    command: Callable[[list[str]], int], tmp_path: Path, tiny_t5: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(tmp_path, tiny_t5, "--set", "training.augment_swap_copies=2", "--preview")
    assert command(given) == 2
    assert IDLE in error(capsys)


@pytest.mark.parametrize("command", ["train", "tune"])
def test_back_translation_needs_a_model(
    command: str, tmp_path: Path, tiny_t5: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "train":
        assert train(arguments(tmp_path, tiny_t5, *BACK)) == 2
    else:
        space = tmp_path / "space.yaml"
        space.write_text("parameters:\n  augment_back_translation_rate: {uniform: [0, 1]}\n")
        assert tune(arguments(tmp_path, tiny_t5, "--search-space", str(space), "--preview")) == 2
    assert "needs a model that translates, but back_translation.forward is not set. Name one" in error(capsys)


def test_the_plan_says_what_is_copied(
    tmp_path: Path, tiny_t5: Path, small_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(arguments(tmp_path, tiny_t5, *SWAP, "--preview")) == 0
    assert "augmented    each training row at most 1 more by swap 0.2" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.integration
def test_a_run_trains_on_the_copies_too(local_ray: None, tmp_path: Path, tiny_t5: Path) -> None:
    assert train(arguments(tmp_path, tiny_t5, *SWAP, "--max-epochs", "1")) == 0
    record = record_of(tmp_path / "finished")
    assert [epoch["step"] for epoch in record["epochs"]] == [6]  # 24 rows and as many copies, 8 a step
    card = json.loads((tmp_path / "finished" / "best" / "t5ray.json").read_text())
    assert card["training"]["augment_swap_rate"] == 0.2


@pytest.mark.long
@pytest.mark.integration
def test_trials_choose_their_own_rates(local_ray: None, tmp_path: Path, tiny_t5: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        "parameters:\n  augment_swap_rate: {uniform: [0.1, 0.5]}\n  augment_copies: {int: [1, 3]}\n"
        "  augment_deletion_rate: {choice: [0.0, 0.2]}\n  augment_deletion_copies: {int: [0, 2]}\n"
    )
    given = arguments(tmp_path, tiny_t5, "--search-space", str(space), "--num-trials", "4", "--max-epochs", "1")
    assert tune(given) == 0
    trials = json.loads((tmp_path / "finished" / "search.json").read_text())["trials"]
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 4
    assert len({trial["params"]["augment_swap_rate"] for trial in trials}) == 4


@pytest.mark.long
@pytest.mark.integration
def test_rows_are_back_translated_once(
    local_ray: None, tmp_path: Path, tiny_t5: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talkative = make_tiny_t5(tmp_path / "talkative", seed=3)  # the others end at once
    models = ["--set", f"back_translation.forward={talkative}", "--set", "back_translation.max_new_tokens=8"]
    given = arguments(tmp_path, tiny_t5, *BACK, *models, "--show-augmented", "24")
    assert train(given) == 0
    first = capsys.readouterr().out.splitlines()
    assert any(line.startswith("translating: ") for line in first)
    assert any(line.startswith("  back_translation  classify: ") for line in first)
    assert train(given) == 0
    assert capsys.readouterr().out.splitlines() == [line for line in first if not line.startswith("translating: ")]
