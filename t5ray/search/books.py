"""The books of a search, begun or taken up again: what its sessions must agree in is settled before any trial runs."""

import tempfile
import uuid
from pathlib import Path

from t5ray.config import RunConfig, SearchSpace, dump_yaml
from t5ray.errors import ConfigError
from t5ray.search.ledger import Ledger
from t5ray.search.workspace import Workspace
from t5ray.sessions import RUN_FILES, SEARCH_BOOK, others, require_same, search_identity
from t5ray.tracking import Dataset, Tracker
from t5ray.training.outcome import identity_of, public
from t5ray.training.prepare import Prepared

DIGEST = 32
"""Characters of the digest of a search's rows that MLflow is told."""
NUM_SEEDS = 2**31
"""Seeds that there are: training.seed is below."""


def open_ledger(space: Workspace, *, resume: bool, extend: int | None) -> Ledger:
    """Begin a new search in an empty folder, or go on with the one that is there.

    Raises:
        ConfigError: the folder holds a search and neither --resume nor --extend was given, there is none to go on, or
            none to extend; or it holds a single run.
    """
    _require_no_run(space)
    _clear_unfinished(space)
    space.fetch_state()
    found = _found(space, space.ledger, resume=resume, extend=extend)
    if found is not None:
        return found
    for folder in (space.trials, space.confirmed):
        folder.mkdir(parents=True, exist_ok=True)
    return Ledger(space.ledger)


def _clear_unfinished(space: Workspace) -> None:
    """Delete what a kill left of books that are written beside their place; nobody else works in the folder."""
    state = space.ledger.parent
    beside = (state.glob(".ledger.json.*"), space.folder.glob(".search.json.*"), space.confirmed.glob(".*.json.*"))
    for path in (path for found in beside for path in found):
        path.unlink(missing_ok=True)


def preview_ledger(space: Workspace, *, resume: bool, extend: int | None) -> Ledger:
    """Return what `open_ledger` would, or raise it; nothing is touched, for the search may be running.

    The ledger is not to be saved.
    """
    _require_no_run(space)
    with tempfile.TemporaryDirectory(prefix="t5ray-preview-") as folder:
        found = _found(space, space.copy_state(Path(folder)).ledger, resume=resume, extend=extend)
    return found or Ledger(space.ledger)


def _require_no_run(space: Workspace) -> None:
    if space.holds(*RUN_FILES):
        raise ConfigError(
            f"{space.shown}: must hold nothing, or a search, but holds a run of train. Choose another --name."
        )


def _found(space: Workspace, saved: Path, *, resume: bool, extend: int | None) -> Ledger | None:
    """Return the saved ledger of the search that is to go on; None where a new one begins."""
    there = saved.exists()
    if (resume or extend) and not there:
        known = others(space.folder.parent, SEARCH_BOOK, "--extend" if extend else "--resume")
        raise ConfigError(
            f"{space.folder}: must hold a search to go on with, but holds none{known}. Correct --name, or leave out "
            "--resume/--extend."
        )
    if there and not (resume or extend):
        raise ConfigError(
            f"{space.folder}: must be a new folder, but holds a search already. "
            "Add --resume to go on with it, --extend N to add trials, or choose another --name."
        )
    if not there:
        return None
    ledger = Ledger.load(saved)
    if extend and ledger.is_exhausted:
        raise ConfigError(
            f"--extend: the search space must have settings left, but all {ledger.most_trials} have run in "
            f"{space.folder}. Search a wider one, or a finer grid, under another --name."
        )
    return ledger


def require_same_search(ledger: Ledger, prepared: Prepared, space: SearchSpace, workspace: Workspace) -> None:
    """Note what must not change between the sessions of a search.

    Raises:
        ConfigError: the saved search had another objective, model, space or other data or training settings.
        ClusterError: the storage refuses.
    """
    identity = {**identity_of(prepared), **search_identity(space, prepared.config)}
    require_same(ledger.identity, identity, workspace.shown)
    ledger.identity, ledger.mode = {**ledger.identity, **identity}, prepared.mode  # without MLflow, no experiment


def open_study(ledger: Ledger, prepared: Prepared, workspace: Workspace, tracker: Tracker) -> None:
    """Begin or go on with the study's run, and write the resolved settings down."""
    ledger.finished = False
    (workspace.folder / "config.yaml").write_text(dump_yaml(public(prepared.config)), encoding="utf-8")
    if not ledger.key:
        ledger.key = uuid.uuid4().hex
        ledger.save()  # before the run begins: a kill in between begins it again, and doubles none
    if ledger.study_run_id is None:
        params = {"task": prepared.task.name, "model": prepared.config.model, "data": prepared.config.data.path}
        tags = {"t5ray.kind": "study", "t5ray.objective": prepared.objective}
        name = str(prepared.config.name)
        data = _dataset(prepared)
        ledger.study_run_id = tracker.start_run(name, key=ledger.key, params=params, tags=tags, dataset=data) or None
    else:
        tracker.reopen_run(ledger.study_run_id)
    ledger.runs_url = tracker.runs_url()
    ledger.save()
    workspace.upload_state()  # from now on --resume needs nothing but the URI


def _dataset(prepared: Prepared) -> Dataset:
    """Return the rows, of all splits, by their digest; that of the bundle begins with it."""
    path = str(public(prepared.config).data.path)  # before a part of it is its name
    name = path.partition("?")[0].rstrip("/").rpartition("/")[2]
    return Dataset(name or path, prepared.splits.fingerprint[:DIGEST], path)


def settle_confirm_seeds(ledger: Ledger, config: RunConfig) -> None:
    """Choose the fresh seeds: the ones that follow the trials' own; the largest is followed by 0.

    Raises:
        ConfigError: runs have confirmed the best on another number of seeds.
    """
    wanted, first = config.search.confirm_seeds, config.training.seed + 1
    # other ones for another training.seed, which is refused by itself
    seeds = [seed % NUM_SEEDS for seed in range(first, first + wanted)]
    if ledger.confirm_runs and len(seeds) != len(ledger.confirm_seeds):
        raise ConfigError(
            f"--confirm-seeds: must stay {len(ledger.confirm_seeds)}, with which the best were confirmed before, "
            f"but got {wanted}. Give the same number, or begin a new search with another --name."
        )
    ledger.confirm_seeds = seeds
