"""What augmentation is worth on few rows: each technique against none, by the test rows, over seeds.

    python -m benchmarks.augmentation --data ROWS.jsonl --model DIR --task classify --train-rows 200 --seeds 3

A seed draws its own training rows out of the split `train`, and all its runs share them; validation is not used, and
the weights of the last step are judged on a fixed sample of the split `test`. Copies make an epoch longer, so there are
two comparisons:

    equal steps    every run trains as many optimizer steps as `--epochs` epochs on rows and copies have: those
                   without copies see each row more often instead
    equal epochs   every run trains `--epochs` epochs: those with copies train longer

A run that serves both runs once. Every run's outcome is a line of `--results`, and runs that stand there already are
skipped, so the same command goes on where an earlier one stopped. Trains in this process, without Ray; only
`--back-translation` starts one, to translate the training rows with `--model` itself.
"""

import argparse
import itertools
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

from benchmarks.unsaved import unsaved
from t5ray.config import RunConfig, TrainingConfig
from t5ray.data.augmented import Augmenter
from t5ray.data.batches import num_steps
from t5ray.data.tokens import TokenisedData
from t5ray.model.numeric import default_device, resolve_precision
from t5ray.training.group import Group
from t5ray.training.loop import fine_tune
from t5ray.training.plan import RunPlan
from t5ray.training.prepare import Prepared, prepare
from t5ray.training.validation import fixed_sample, validate
from t5ray.training.worker import WarmModel

NONE = "none"
WORD_TECHNIQUES = ("synonym", "insertion", "deletion", "swap")
ALL, BACK_TRANSLATION = "all four", "back translation"
COMPARISONS = ("equal steps", "equal epochs")


@dataclass(frozen=True)
class Outcome:
    """What one run gave; a line of the results file."""

    setup: Mapping[str, Any]
    """All that must be equal for runs to be compared."""
    technique: str
    seed: int
    epochs: int
    rows: int
    """Training rows, copies included."""
    steps: int
    """Optimizer steps in all."""
    value: float
    """The task's first metric on the sample of test rows, after the last step."""
    seconds: float

    @property
    def key(self) -> tuple[str, int, int]:
        """What a run is found by."""
        return self.technique, self.seed, self.epochs


@dataclass(frozen=True)
class Line:
    """One technique in one comparison, over seeds."""

    technique: str
    rows: float
    epochs: float
    steps: float
    value: float
    deviation: float
    """Sample standard deviation over seeds."""
    gain: float = 0.0
    """Mean over seeds of the difference to none with the same seed."""
    margin: float = 0.0
    """Half the 95 % interval of that mean, by Student's t."""


def epochs_of(comparison: str, epochs: int, rows: int, longest: int, batch_size: int) -> int:
    """Return the epochs that a run on so many rows trains.

    Args:
        epochs: of the run with the most rows.
        rows: of this run, copies included.
        longest: rows of the run that has the most.
    """
    if comparison == "equal epochs":
        return epochs
    return max(1, round(epochs * num_steps(longest, batch_size) / num_steps(rows, batch_size)))


def summarise(runs: Mapping[str, Sequence[Outcome]]) -> list[Line]:
    """Return a line for each technique, none first.

    Args:
        runs: technique -> one run for each seed, of two seeds or more; the same seeds, in the same order, for all.
    """
    base = [run.value for run in runs[NONE]]
    lines = []
    for technique, found in runs.items():
        values = [run.value for run in found]
        gains = [value - other for value, other in zip(values, base, strict=True)]
        lines.append(
            Line(
                technique,
                rows=mean(run.rows for run in found),
                epochs=mean(run.epochs for run in found),
                steps=mean(run.steps for run in found),
                value=mean(values),
                deviation=stdev(values),
                gain=mean(gains),
                margin=margin_of(gains),
            )
        )
    return lines


def margin_of(values: Sequence[float]) -> float:
    """Return half the 95 % interval of a mean: t(0.975, n - 1) s / sqrt(n)."""
    return float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def table(comparison: str, lines: Sequence[Line]) -> Iterator[str]:
    """Yield the lines of a Markdown table, in points of a hundred."""
    yield f"| {comparison} | rows | epochs | steps | test, mean ± s.d. | against none, 95 % |"
    yield "|---|---|---|---|---|---|"
    for line in lines:
        gain = "" if line.technique == NONE else f"{100 * line.gain:+.1f} ± {100 * line.margin:.1f}"
        value = f"{100 * line.value:.1f} ± {100 * line.deviation:.1f}"
        yield f"| {line.technique} | {line.rows:.0f} | {line.epochs:.1f} | {line.steps:.0f} | {value} | {gain} |"


def settings_of(technique: str, rate: float, copies: int) -> dict[str, float]:
    """Return the training settings of a technique."""
    if technique == BACK_TRANSLATION:
        return {"augment_back_translation_rate": 1.0}
    used = {NONE: (), ALL: WORD_TECHNIQUES}.get(technique, (technique,))
    return {**{f"augment_{name}_rate": rate for name in used}, "augment_copies": copies}


class Seed:
    """The training rows of one seed, and the runs on them."""

    def __init__(self, seed: int, given: argparse.Namespace, warm: WarmModel, cache: Path) -> None:
        """Read and tokenise the rows, and count what each technique makes of them."""
        self.seed, self.given, self.warm = seed, given, warm
        self.prepared = prepared_for(seed, given, cache)
        self.augmenter = Augmenter(self.prepared.data, self.prepared.texts, warm.tokenizer)
        self.rows = {name: self._rows(name) for name in techniques(given)}

    def config(self, technique: str, epochs: int) -> TrainingConfig:
        """Return the settings of a run."""
        own = settings_of(technique, self.given.rate, self.given.copies)
        return self.prepared.config.training.with_params({**own, "max_epochs": epochs})

    def epochs(self, comparison: str, technique: str) -> int:
        """Return the epochs of a technique in a comparison."""
        longest = max(self.rows.values())
        return epochs_of(comparison, self.given.epochs, self.rows[technique], longest, self.given.batch_size)

    def run(self, technique: str, epochs: int) -> Outcome:
        """Train and judge one run."""
        started = time.monotonic()
        group, config, prepared = Group(default_device()), self.config(technique, epochs), self.prepared
        loaded = self.warm.pristine(config, group)
        data = self.augmenter.data_for(config)
        with tempfile.TemporaryDirectory(prefix="augmentation-") as folder, unsaved():
            plan = RunPlan(config, prepared.decode, prepared.task, "validation_loss", "min", Path(folder))
            progress = fine_tune(loaded, data, plan, group=group, report=lambda _: True, tick=lambda _: None)
        sample = fixed_sample(len(data.test), self.given.test_rows)
        judged = validate(loaded, data.test, data.test_references, plan.task, plan.decode, rows=sample, group=group)
        return Outcome(
            setup=setup_of(self.given),
            technique=technique,
            seed=self.seed,
            epochs=epochs,
            rows=len(data.train),
            steps=progress.step,
            value=judged.metrics[prepared.objective],
            seconds=round(time.monotonic() - started, 1),
        )

    def _rows(self, technique: str) -> int:
        data: TokenisedData = self.augmenter.data_for(self.config(technique, 1))
        return len(data.train)


def prepared_for(seed: int, given: argparse.Namespace, cache: Path) -> Prepared:
    """Read and tokenise the rows of a seed, and translate them where that was asked for."""
    config = RunConfig.model_validate(
        {
            "data": {"path": given.data, "max_train_rows": given.train_rows, "split_seed": seed},
            "task": given.task,
            "model": given.model,
            "back_translation": {"forward": given.model},
            "training": {
                "learning_rate": given.learning_rate,
                "batch_size": given.batch_size,
                "validation_rows": 1,  # nothing is chosen by them, so their time is saved
                "seed": seed,
            },
        }
    )
    prepared = prepare(config, cache, varied=["augment_back_translation_rate"])
    if not given.back_translation:
        return prepared
    from t5ray.back_translation import with_back_translations  # with Ray and the scoring job
    from t5ray.cluster import connect

    with connect(None) as cluster:
        return with_back_translations(prepared, cluster, cache)


def techniques(given: argparse.Namespace) -> list[str]:
    """Return what is compared, none first."""
    return [NONE, ALL, *WORD_TECHNIQUES, *[BACK_TRANSLATION] * given.back_translation]


def setup_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return all that must be equal for runs to be compared; paths by their last part."""
    names = ("task", "train_rows", "test_rows", "copies", "rate", "learning_rate", "batch_size")
    precision = resolve_precision("auto", default_device())
    files = {"data": Path(given.data).name, "model": Path(given.model).name}
    return {**files, "precision": precision, **{name: getattr(given, name) for name in names}}


def read_results(path: Path, setup: Mapping[str, Any]) -> dict[tuple[str, int, int], Outcome]:
    """Read the runs with this setup that are done."""
    if not path.exists():
        return {}
    found = [Outcome(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return {run.key: run for run in found if run.setup == setup}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="rows with a `split` column, or none: then 80/10/10 by seed")
    parser.add_argument("--model", required=True, help="directory or Hugging Face id of a T5")
    parser.add_argument("--task", default="classify")
    parser.add_argument("--train-rows", type=int, default=200)
    parser.add_argument("--test-rows", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3, help="2 or more")
    parser.add_argument("--epochs", type=int, default=2, help="of the runs with copies")
    parser.add_argument("--copies", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--back-translation", action="store_true", help="also translate with --model; starts Ray")
    parser.add_argument("--results", type=Path, default=Path("augmentation.jsonl"))
    parser.add_argument("--stop-after-s", type=float, default=float("inf"), help="start no run after so many seconds")
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error(f"--seeds: must be 2 or more, for there is no spread of one, but got {given.seeds}")
    return given


def run_all(seeds: Sequence[Seed], given: argparse.Namespace) -> tuple[dict[str, dict[str, list[Outcome]]], bool]:
    """Make the runs that are not done, until the time is over.

    Returns:
        comparison -> technique -> its runs, where all seeds are done; and whether all of them are.
    """
    done, started = read_results(given.results, setup_of(given)), time.monotonic()
    found: dict[str, dict[str, list[Outcome]]] = {name: {} for name in COMPARISONS}
    for comparison, technique, seed in itertools.product(COMPARISONS, techniques(given), seeds):
        key = (technique, seed.seed, seed.epochs(comparison, technique))
        if key not in done:
            if time.monotonic() - started > given.stop_after_s:
                break
            done[key] = seed.run(technique, key[2])
            with given.results.open("a", encoding="utf-8") as file:
                print(json.dumps(asdict(done[key])), file=file)
            print(f"{technique}, seed {seed.seed}, {key[2]} epochs: {done[key].value:.3f}", flush=True)
        found[comparison].setdefault(technique, []).append(done[key])
    whole = {c: {t: runs for t, runs in part.items() if len(runs) == len(seeds)} for c, part in found.items()}
    return whole, all(len(part) == len(techniques(given)) for part in whole.values())


def main() -> None:
    """Run what is not done yet, then print what can be compared."""
    given = arguments()
    warm = WarmModel(given.model)
    with tempfile.TemporaryDirectory(prefix="augmentation-cache-") as cache:
        seeds = [Seed(number, given, warm, Path(cache)) for number in range(given.seeds)]
        found, complete = run_all(seeds, given)
    print(f"{len(seeds)} seeds, {setup_of(given)}")
    for comparison, runs in found.items():
        if NONE in runs:
            print("", *table(comparison, summarise(runs)), sep="\n")
    if not complete:
        print(f"\nNot all runs are done. Those that are stand in {given.results}: the same command goes on.")


if __name__ == "__main__":
    main()
