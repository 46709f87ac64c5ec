"""How a search begins, or is taken up again: what is refused before it starts."""

from pathlib import Path

import pytest

from t5ray.config import RunConfig, TrainingConfig
from t5ray.errors import ConfigError
from t5ray.search.books import open_ledger, settle_confirm_seeds
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.workspace import Workspace


def test_folders_are_not_mixed_up(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "a", tmp_path / "cache")
    with pytest.raises(ConfigError, match="must hold a search to go on with, but holds none"):
        open_ledger(workspace, resume=True, extend=None)
    open_ledger(workspace, resume=False, extend=None).save()
    with pytest.raises(ConfigError, match="Add --resume to go on with it"):
        open_ledger(workspace, resume=False, extend=None)
    assert open_ledger(workspace, resume=True, extend=None).trials == {}


def test_a_grid_that_has_run_whole_is_not_extended(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "a", tmp_path / "cache")
    ledger = open_ledger(workspace, resume=False, extend=None)
    assert ledger.settle_target(20, 4) == 4
    ledger.trials = {n: TrialRecord(n, {}, "COMPLETE") for n in range(3)}
    ledger.save()
    extended = open_ledger(workspace, resume=False, extend=5)
    assert extended.settle_target(extended.wanted(20, 5), 4) == 4  # one is left
    extended.trials[3] = TrialRecord(3, {}, "COMPLETE")
    extended.save()
    with pytest.raises(ConfigError, match="--extend: the search space must have settings left, but all 4 have run"):
        open_ledger(workspace, resume=False, extend=1)
    assert open_ledger(workspace, resume=True, extend=None).is_exhausted


def test_what_kills_left_of_books_is_deleted_when_a_search_goes_on(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "a", tmp_path / "cache")
    open_ledger(workspace, resume=False, extend=None).save()
    left = [workspace.folder / name for name in ("state/.ledger.json.1a2b3c4d", ".search.json.1a2b3c4d")]
    for path in left:
        path.write_text("{")
    kept = workspace.trials / ".spare.pt"
    kept.write_text("")
    open_ledger(workspace, resume=True, extend=None)
    assert [path.exists() for path in (*left, kept)] == [False, False, True]


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_fresh_seeds_are_seeds_of_training_and_none_is_the_trials_own(tmp_path: Path, seed: int) -> None:
    config = RunConfig.model_validate({"training": {"seed": seed}, "search": {"confirm_seeds": 3}})
    settle_confirm_seeds(ledger := Ledger(tmp_path / "l.json"), config)
    assert len({*ledger.confirm_seeds, seed}) == 4
    for fresh in ledger.confirm_seeds:
        TrainingConfig.model_validate({"seed": fresh})
