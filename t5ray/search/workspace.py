"""Where a search keeps what, here and, for a storage URI, there.

    <storage>/<name>/search.json, report.html, config.yaml, best/
    <storage>/<name>/state/ledger.json, optuna.journal     what --resume needs
    <storage>/<name>/state/confirm/<run>.json              predictions of runs that confirm the best
    <storage>/<name>/state/trials/<run>/best-<step>/, last.pt  checkpoints of one trial, or of a run that confirms one
    <storage>/<name>/state/trials/.spare.pt                a file that the next state is written into
    <storage>/cache/                                       tokenised data, shared by all runs

A run's folder is named after its number and after what made it (`TrialRecord.key`): what lies there is of no other
search, and of no other parameters.

With a URI (`s3://bucket/runs`) the driver works in a local folder of the same name; it copies ledger and journal there
(to saved/) whenever a trial begins or ends, and results when the search does. Workers copy the best weights of their
trials there themselves, and the states that a trial may go on from at another node.
"""

import json
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from t5ray.errors import ClusterError
from t5ray.model.card import ENTRY, read_card
from t5ray.search.ledger import TrialRecord
from t5ray.storage import (
    download_dir,
    download_file,
    is_there,
    names_in,
    remove_dir,
    replace_dir,
    upload_dir,
    upload_file,
)
from t5ray.training.best import BestWeights, best_name
from t5ray.training.checkpoint import SPARE, drop_last
from t5ray.training.place import OUTBOX, Place


@dataclass(frozen=True)
class Workspace(Place):
    """The folders of one search."""

    @property
    def trials(self) -> Path:
        """One folder of checkpoints per trial."""
        return self.folder / "state" / "trials"

    @property
    def remote_trials(self) -> str | None:
        """The same at the storage URI."""
        return f"{self.remote}/state/trials" if self.remote else None

    @property
    def ledger(self) -> Path:
        """The saved `Ledger`."""
        return self.folder / "state" / "ledger.json"

    @property
    def summary(self) -> Path:
        """search.json."""
        return self.folder / "search.json"

    @property
    def journal(self) -> Path:
        """Optuna's study."""
        return self.folder / "state" / "optuna.journal"

    @property
    def confirmed(self) -> Path:
        """What runs that confirm the best predicted, one file each."""
        return self.folder / "state" / "confirm"

    def rows_of(self, key: str) -> Path:
        """`RowScores` of one such run."""
        return self.confirmed / f"{key}.json"

    @property
    def outbox(self) -> Path:
        """What could not be sent to MLflow yet."""
        return self.folder / "state" / OUTBOX

    def drop_trial(self, key: str) -> None:
        """Delete the checkpoints of a trial, or of a run that confirms one."""
        drop_last(self.trials / key, keeps_spare=self.remote is None)
        shutil.rmtree(self.trials / key, ignore_errors=True)
        if self.remote_trials:
            with suppress(ClusterError):  # what is left there costs space; a search is not worth ending for it
                remove_dir(f"{self.remote_trials}/{key}")

    def leave_trials(self, keys: Collection[str]) -> None:
        """Delete the checkpoints of all trials and runs but these: a kill may have left others."""
        found = {path.name for path in self.trials.glob("*") if path.is_dir()}
        if self.remote_trials:
            with suppress(ClusterError):
                found.update(names_in(self.remote_trials))
        for key in found.difference(keys):
            self.drop_trial(key)

    def leave_best(self, key: str, step: int) -> None:
        """Delete all that an ended trial or run has left but its best weights, which the books name by their step."""
        remote = f"{self.remote_trials}/{key}" if self.remote_trials else None
        drop_last(self.trials / key, remote, keeps_spare=remote is None)
        with suppress(ClusterError):
            BestWeights(self.trials / key, remote).keep_from(step)

    def catch_up(self, record: TrialRecord) -> dict[str, Any] | None:
        """Let the books tell of the weights that are there, and return their epoch's report; None: they do already.

        Better weights may have taken the place of those that they name as the search was cut off: what a trial reports
        then is lost on the way.

        Raises:
            ClusterError: the storage does not say, or the books lack an epoch before: they are of a machine that went
                down, and the trial tells it again when it goes on.
        """
        remote = f"{self.remote_trials}/{record.key}" if self.remote_trials else None
        report = BestWeights(self.trials / record.key, remote).report()
        if report is None or report["best_step"] == record.reports[-1]["best_step"]:
            return None
        before = int(report["epoch"]) - 1
        if before > len(record.reports):
            raise ClusterError(
                f"{self.shown}: trial {record.trial} must have told of each epoch before {before + 1}, but the books "
                f"end at {len(record.reports)}. Give the same command with --resume."
            )
        record.reports[before:] = [report]
        return report

    def drop_spare(self) -> None:
        """Delete the file that states were to be written into; what is left there costs space only."""
        with suppress(OSError):
            (self.trials / SPARE).unlink(missing_ok=True)

    def fetch_trial(self, key: str, step: int) -> None:
        """Copy the best weights of a trial or run, made at this step, here from the storage URI, where there is one.

        What lies here already may be older: a trial that went on at another node may have made that step again.
        """
        if self.remote_trials:
            weights = f"{key}/{best_name(step)}"
            replace_dir(f"{self.remote_trials}/{weights}", self.trials / weights)

    def fetch_state(self) -> None:
        """Copy ledger and journal here from the storage URI, where it holds newer ones; checkpoints stay there."""
        if not self.remote or not is_there(f"{self.remote}/saved"):
            return
        with TemporaryDirectory(prefix="t5ray-state-") as folder:
            saved = Path(folder)
            download_dir(f"{self.remote}/saved", saved)
            if not self.ledger.exists() or _seconds(saved / self.ledger.name) > _seconds(self.ledger):
                shutil.copytree(saved, self.folder / "state", dirs_exist_ok=True)

    def concluded(self) -> dict[str, Any] | None:
        """Return search.json of the bundle that lies there; None where the search has not come to an end before.

        Where another machine has concluded it since, bundle and search.json are copied here from the storage URI. A
        bundle that was published, but not told of by search.json before something broke, speaks for itself.

        Raises:
            ClusterError: the storage does not say what it holds, or refuses it.
        """
        whole = (self.summary.name, f"{self.best.name}/{ENTRY}")
        if self.remote is not None and all(is_there(f"{self.remote}/{name}") for name in whole):
            with TemporaryDirectory(prefix="t5ray-state-") as folder:
                newer = Path(folder) / self.summary.name
                download_file(f"{self.remote}/{newer.name}", newer)
                if _seconds(newer) > _seconds(self.summary) or not self.best.exists():
                    replace_dir(f"{self.remote}/best", self.best)
                    shutil.copy2(newer, self.summary)
        card = read_card(self.best)
        content: dict[str, Any] = {}
        if self.best.exists() and _seconds(self.summary) >= 0:
            content = json.loads(self.summary.read_text(encoding="utf-8"))
        if card is not None and card.run and card.run != content.get("best"):
            return {"best": card.run, "confirm": None, "test": None}
        return content if content.get("best") else None

    def copy_state(self, target: Path) -> "Workspace":
        """Copy ledger and journal to a folder of another search, and return the workspace that reads them there.

        This search may be running: nothing in its own folder is touched.
        """
        copy = Workspace(target, self.cache)
        copy.ledger.parent.mkdir(parents=True, exist_ok=True)
        for part in (self.ledger, self.journal):
            if part.exists():
                shutil.copy2(part, copy.ledger.parent)
        replace(copy, remote=self.remote).fetch_state()
        return copy

    def upload_state(self) -> None:
        """Copy ledger and journal to the storage URI: the ledger last, for all that it knows of must be there."""
        if self.remote and self.confirmed.exists():
            upload_dir(self.confirmed, f"{self.remote}/saved/confirm")
        for part in (self.journal, self.ledger):
            if self.remote and part.exists():
                upload_file(part, f"{self.remote}/saved")

    def upload(self) -> None:
        """Copy results and state to the storage URI; checkpoints are there already."""
        super().upload()
        self.upload_state()


def _seconds(book: Path) -> float:
    """Return how long a search had run when it wrote its ledger or search.json; what cannot be read is oldest."""
    try:
        return float(json.loads(book.read_text(encoding="utf-8"))["wall_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1.0
