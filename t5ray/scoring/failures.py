"""What the first failed row of a finished job says, for those who watch the job end."""

import pyarrow as pa

from t5ray.errors import T5RayError
from t5ray.scoring.ledger import Ledger, read_job
from t5ray.scoring.writing import Extras, decode_results
from t5ray.storage import local_path

SHOWN = 300
"""Characters of an error, at most: it may quote a whole row."""


def first_error(output: str) -> tuple[str, str] | None:
    """Return the place of a finished job's first failed row, and its error on one line.

    None where no row failed, or the output cannot be read any more: what a job came to does not hang on this.
    """
    folder = local_path(output)
    try:
        job = read_job(folder) or {}
        ledger = Ledger(folder, job["config"]["format"], job["num_shards"])
        index = next(index for index, entry in ledger.finished().items() if entry.errors)
        errors = decode_results(ledger.part_format, ledger.part(index).read_bytes(), Extras()).errors
        row, error = next((row, error) for row, error in enumerate(errors, start=1) if error)
    except (OSError, LookupError, TypeError, ValueError, StopIteration, T5RayError, pa.ArrowException):
        return None
    line = " ".join("".join(c if c.isprintable() else " " for c in error).split())
    return f"{ledger.part(index).name} row {row}", line if len(line) <= SHOWN else f"{line[:SHOWN]} …"
