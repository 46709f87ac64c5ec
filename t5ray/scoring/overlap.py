"""Whether what a command writes would be read as its input when it is run again."""

import re
from pathlib import Path

from fsspec.utils import glob_translate

from t5ray.storage import is_uri, local_path


def would_be_read(given: str, written: Path) -> bool:
    """Say whether a file, given as an absolute path, would be among what a file name, folder, glob or URI names.

    Example:
        would_be_read("data/*.jsonl", Path("/here/data/predictions.jsonl")) -> True, in /here
    """
    if is_uri(given):
        return False
    named = local_path(given).absolute()
    if named.is_dir() and written.parent.resolve().is_relative_to(named.resolve()):
        return True
    resolved, target = named.resolve(), written.resolve()  # of a pattern: the links in what comes before it
    return any(
        _matches(str(pattern), path)
        for pattern, name in ((named, written), (resolved, target))
        for path in (name, *name.parents)
    )


def _matches(pattern: str, path: Path) -> bool:
    try:
        return re.match(glob_translate(pattern), str(path)) is not None
    except ValueError:  # no pattern, which the scan says better
        return False
