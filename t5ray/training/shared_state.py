"""Which of its states a run goes on from: the newest one, here or at its URI, in the folder of every worker."""

import shutil
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from t5ray.storage import DOWNLOAD, download_file, is_there, upload_file
from t5ray.training.checkpoint import BEFORE_LAST, LAST, clear_unfinished, drop_last, read_state, sweep, turn_of
from t5ray.training.group import Group
from t5ray.training.patience import patiently


def share_last(folder: Path, remote: str, group: Group, *, shares_disk: bool = False) -> None:
    """Let the folder of every worker hold the state that is the newest of worker 0's folder and the URI.

    Worker 0 chooses: other nodes may still hold the copy that an earlier session went on from.

    Args:
        shares_disk: as of `StateWriter`: while worker 0 compares two states there is one more.
    """
    step = group.broadcast(_newest(folder, remote, shares_disk=shares_disk) if group.rank == 0 else -1)
    if group.rank > 0:
        _take(folder, step, remote, shares_disk=shares_disk)


def _take(folder: Path, step: int, remote: str, *, shares_disk: bool) -> None:
    """Let last.pt be the URI's state, which is of this step; other workers of this node may be at the same."""
    with suppress(FileNotFoundError):  # one of them was faster
        clear_unfinished(folder)
    if step < 0:
        drop_last(folder)
        return
    found = read_state(folder / LAST)
    if found is None or found["progress"]["step"] != step:  # in one move: another worker may be about to read it
        patiently(download_file, f"{remote}/{LAST}", folder / LAST)
    if shares_disk:
        (folder / BEFORE_LAST).unlink(missing_ok=True)


def _newest(folder: Path, remote: str, *, shares_disk: bool) -> int:
    """Let folder and URI hold the same state, the newer one, and return its step; -1: there is none."""
    here, there = sweep(folder, shares_disk=shares_disk), -1
    for killed in folder.glob(f"{DOWNLOAD}*"):  # nobody else is at it before they hear what this returns
        shutil.rmtree(killed, ignore_errors=True)
    if patiently(is_there, f"{remote}/{LAST}"):
        folder.mkdir(parents=True, exist_ok=True)
        with (
            turn_of(folder) if shares_disk else nullcontext(),
            TemporaryDirectory(prefix=DOWNLOAD, dir=folder) as name,
        ):
            fetched = Path(name)
            patiently(download_file, f"{remote}/{LAST}", fetched / LAST)
            there = sweep(fetched)
            if there > here:
                drop_last(folder)
                (fetched / LAST).replace(folder / LAST)
    if here > there:
        patiently(upload_file, folder / LAST, remote)
    return max(here, there)
