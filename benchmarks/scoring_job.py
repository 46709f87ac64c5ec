"""What Ray, the ledger and the disk add to an engine: rows per second, memory, and restarts of the scoring job.

    python -m benchmarks.scoring_job overhead   bare engine against the job, 1 worker x 2 threads and 2 x 1
    python -m benchmarks.scoring_job costs      seconds per shard: read, tokenise, score, encode, commit, Ray
    python -m benchmarks.scoring_job memory     peak memory at --rows and at ten times as many
    python -m benchmarks.scoring_job kill       kill -9 of worker, driver and Ray in turn, then compare the bytes
    python -m benchmarks.scoring_job idiomatic  Ray Data's read -> map_batches -> write against the job

Rows are the embedded dates, or --texts, over and over; for `overhead`, whose bare engine would score equal ones once,
the number of the repetition stands behind them. The model is the demo's, without training, or --model.
Start-up (Ray, imports, weights) is told apart from scoring, which lasts from the first shard's begin to the last one's
commit; for `overhead` from the first shard's commit, in turns of a few seconds.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.watch import Command, Watched
from t5ray.demo import dates_data, dates_task, model_files

SEED = 7


def main() -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the job's workers have it
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=list(MODES))
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--model", help="a T5 directory; None: the demo's without training")
    parser.add_argument("--task", default=str(dates_task()))
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--shard-rows", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="times that each side runs, in turn")
    parser.add_argument("--format", default="parquet", choices=["parquet", "jsonl", "csv"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--texts", help="JSON lines with a column `text`, in place of the dates")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scoring-job-") as folder:
        given.folder = Path(folder)
        given.model = given.model or demo_model(given.folder)
        print(f"{given.mode}: {given.rows} rows, {Path(given.model).name}, {os.cpu_count()} cores, seed {SEED}")
        MODES[given.mode](given)


def demo_model(folder: Path) -> str:
    from t5ray.model.bare import initialise

    return str(initialise(model_files(), folder / "models", seed=SEED))


def write_rows(given: argparse.Namespace, num_rows: int, *, all_differ: bool = False) -> Path:
    """Write the rows in the format of the parts (JSON lines, Parquet or CSV)."""
    path = Path(given.folder / f"rows-{num_rows}.{given.format}")
    source = Path(given.texts) if given.texts else dates_data()
    texts = [json.loads(line)["text"] for line in source.read_text(encoding="utf-8").splitlines()]
    rows = ({"id": number, "text": _text(texts, number, all_differ)} for number in range(num_rows))
    if given.format == "parquet":
        _write_parquet(path, rows)
    else:
        import csv

        with path.open("w", encoding="utf-8", newline="") as file:
            if given.format == "csv":
                csv.DictWriter(file, ["id", "text"]).writerows([{"id": "id", "text": "text"}, *rows])
            else:
                file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def _text(texts: list[str], number: int, all_differ: bool) -> str:
    repeats, place = divmod(number, len(texts))
    return f"{texts[place]} {repeats}" if repeats and all_differ else texts[place]


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(itertools.islice(rows, 50_000)):
            writer.write_table(pa.Table.from_pylist(chunk, schema))


def words(given: argparse.Namespace, rows: Path, output: Path, workers: int) -> list[str]:
    """Return the command of a scoring job."""
    flags = {"model": given.model, "task": given.task, "input": rows, "output": output, "workers": workers}
    flags |= {"format": given.format, "precision": given.precision}
    named = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    sets = {"shard_rows": given.shard_rows, "decode.max_new_tokens": given.max_new_tokens}
    return ["t5ray.predict", *named, *(word for name, value in sets.items() for word in ("--set", f"{name}={value}"))]


def finish(command: Command) -> Watched:
    found = command.wait()
    if found.exit_code:
        raise SystemExit(found.output)
    return found


def scoring_span_s(output: Path) -> float:
    """Return the seconds from the first shard's begin to the last one's commit."""
    ends = [(path.stat().st_mtime, json.loads(path.read_bytes())["seconds"]) for path in entries(output)]
    return float(max(end for end, _ in ends) - min(end - took for end, took in ends))


def entries(output: Path) -> list[Path]:
    return sorted((output / "_ledger").glob("part-*.json"))


def overhead(given: argparse.Namespace) -> None:
    """Print what a job adds to the bare engine."""
    from benchmarks.scoring_job_overhead import print_overhead

    print_overhead(given)


def costs(given: argparse.Namespace) -> None:
    """Print what a shard costs, stage by stage, and what the driver does per shard."""
    from benchmarks.scoring_job_costs import print_costs

    print_costs(write_rows(given, given.rows), given)


def memory(given: argparse.Namespace) -> None:
    """Print peaks at --rows and at ten times as many."""
    peaks = []
    print(f"{'rows':>9}{'driver MB':>11}{'worker MB':>11}{'seconds':>9}{'rows/s':>9}")
    for num_rows in (given.rows, 10 * given.rows):
        rows, output = write_rows(given, num_rows), given.folder / f"out-{num_rows}"
        found = finish(Command(words(given, rows, output, given.workers)))
        peaks.append(found.peaks_mb)
        rate = num_rows / scoring_span_s(output)
        print(f"{num_rows:>9}{peaks[-1]['driver']:>11.0f}{peaks[-1]['worker']:>11.0f}{found.seconds:>9.0f}{rate:>9.0f}")
    for kind in ("driver", "worker"):
        print(f"{kind}: {peaks[1][kind] / peaks[0][kind] - 1:+.1%}")


def kill(given: argparse.Namespace) -> None:
    """Kill a worker, the driver and Ray in turn at random moments; compare with an undisturbed run."""
    rows, output, whole = write_rows(given, given.rows), given.folder / "killed", given.folder / "whole"
    undisturbed = finish(Command(words(given, rows, whole, given.workers)))
    print(f"undisturbed: {undisturbed.seconds:.0f} s, peaks {_shown(undisturbed)}")
    rng, total, num_shards = random.Random(SEED), 0.0, len(entries(whole))
    for number, victim in enumerate(("worker", "driver", "Ray"), start=1):
        command = Command(words(given, rows, output, given.workers))
        _wait_for_shards(command, output, int(num_shards * number / 4) + rng.randrange(3))
        before = len(entries(output))
        _strike(command, victim)
        if victim != "worker":  # whose death the job survives by itself
            found = command.wait()
            total += found.seconds
            print(f"killed {victim} at {before} of {num_shards} shards: exit code {found.exit_code}")
            continue
        print(f"killed {victim} at {before} of {num_shards} shards: the job goes on")
        _wait_for_shards(command, output, before + 5)
        command.kill()
        total += command.wait().seconds
    last = finish(Command(words(given, rows, output, given.workers)))
    print(f"last run: {last.seconds:.0f} s, all runs {total + last.seconds:.0f} s, peaks {_shown(last)}")
    _compare(whole, output, given.rows)


def _shown(found: Watched) -> str:
    return ", ".join(f"{kind} {peak:.0f} MB" for kind, peak in found.peaks_mb.items())


def _wait_for_shards(command: Command, output: Path, count: int) -> None:
    while len(entries(output)) < count:
        if not command.is_running:
            raise SystemExit(command.wait().output)
        time.sleep(0.05)


def _strike(command: Command, victim: str) -> None:
    if victim == "driver":
        command.kill()
        return
    for process in command.workers()[:1] if victim == "worker" else command.ray_itself():
        process.kill()


def _compare(whole: Path, output: Path, num_rows: int) -> None:
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("part-*"))}
        for folder in (whole, output)
    ]
    print(f"parts: {len(digests[1])}, byte-equal to the undisturbed run's: {digests[0] == digests[1]}")
    ids = list(_ids(output))
    print(f"rows: {len(ids)}, each once and in order: {ids == list(range(num_rows))}")
    if digests[0] != digests[1] or ids != list(range(num_rows)):
        raise SystemExit("the outputs differ")


def _ids(output: Path) -> Iterator[int]:
    from t5ray.data.formats import Row, read_source
    from t5ray.data.sources import find_sources

    for source in find_sources(str(output / "part-*"))[0]:
        yield from (int(row.values["id"]) for row in read_source(source) if isinstance(row, Row))


def idiomatic(given: argparse.Namespace) -> None:
    """Run the job and Ray Data's own way in turn on the same rows."""
    rows = write_rows(given, given.rows)
    for number in range(given.rounds):
        output = given.folder / f"job-{number}"
        found = finish(Command(words(given, rows, output, given.workers)))
        rate = given.rows / scoring_span_s(output)
        print(f"job          {found.seconds:6.1f} s in all, {rate:8.1f} rows/s, {_shown(found)}")
        arguments = [given.model, given.task, str(rows), str(given.max_new_tokens)]
        arguments += [str(given.folder / f"idiom-{number}"), str(given.workers), str(given.shard_rows), given.precision]
        found = finish(Command(["benchmarks.scoring_job_idiomatic", *arguments]))
        print(f"map_batches  {found.seconds:6.1f} s in all, {found.output.splitlines()[-1]}, {_shown(found)}")


MODES: dict[str, Callable[[argparse.Namespace], None]] = {
    "overhead": overhead,
    "costs": costs,
    "memory": memory,
    "kill": kill,
    "idiomatic": idiomatic,
}

if __name__ == "__main__":
    main()
