"""What newer update rules are worth on T5: Lion and Muon against AdamW and Adafactor, each at its best learning rate.

    python -m benchmarks.optimizers --data ROWS.jsonl --model DIR --task classify --train-rows 320 --seeds 2

All runs train as many steps over the same rows of the split `train`; a seed draws the order and the dropout. Each rule
tries `--rates` of its own, and its line in the table is that of the rate whose validation loss is lowest in the mean
over seeds; the metric is that of a sample of the split `test`. Every run's outcome is a line of `--results`, and runs
that stand there already are skipped, so the same command goes on where an earlier one stopped.

Lion is Chen et al. 2023, algorithm 2. Muon is Jordan et al. 2024 with the step size of Liu et al. 2025 (0.2 times the
root of the longer side, so that AdamW's learning rates hold), in fp32; what is no matrix, and the embeddings and the
head, go to AdamW, as its authors have it.
"""

import argparse
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

import torch

from benchmarks.unsaved import unsaved
from t5ray.config import RunConfig, TrainingConfig
from t5ray.model.loading import load_model
from t5ray.model.numeric import default_device
from t5ray.model.optim import build_optimizer
from t5ray.model.optim.layers import EMBEDDINGS, decays
from t5ray.training import trainee
from t5ray.training.group import Group
from t5ray.training.loop import fine_tune
from t5ray.training.plan import RunPlan
from t5ray.training.prepare import Prepared, prepare
from t5ray.training.validation import fixed_sample, validate

RATES = {
    "adamw": (3e-4, 1e-3, 3e-3),
    "adafactor": (1e-3, 3e-3, 1e-2),
    "lion": (3e-5, 1e-4, 3e-4),
    "muon": (3e-4, 1e-3, 3e-3),
}
"""Learning rates that each rule tries."""
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


class Lion(torch.optim.Optimizer):
    """Steps of the sign of an interpolated momentum."""

    def __init__(self, groups: Any, lr: float, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group, weight in _weights(self.param_groups):
            momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            near, far = group["betas"]
            sign = momentum.lerp(weight.grad, 1 - near).sign_()
            weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(sign, alpha=group["lr"])
            momentum.lerp_(weight.grad, 1 - far)


class Muon(torch.optim.Optimizer):
    """Steps of an orthogonalised momentum, for matrices."""

    def __init__(self, groups: Any, lr: float, momentum: float = 0.95) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group, weight in _weights(self.param_groups):
            momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            momentum.mul_(group["momentum"]).add_(weight.grad)
            direction = orthogonal(weight.grad.add(momentum, alpha=group["momentum"]))
            size = group["lr"] * 0.2 * math.sqrt(max(weight.shape))
            weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=size)


class Both:
    """Two rules as one, each for its own weights."""

    def __init__(self, *rules: torch.optim.Optimizer) -> None:
        self.rules, self.param_groups = rules, [group for rule in rules for group in rule.param_groups]

    def step(self) -> None:
        for rule in self.rules:
            rule.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for rule in self.rules:
            rule.zero_grad(set_to_none)


def _weights(groups: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Any]]:
    return ((group, weight) for group in groups for weight in group["params"] if weight.grad is not None)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return about the nearest matrix with singular values of 1, by five steps of a quintic Newton-Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def rule_for(name: str) -> Callable[[torch.nn.Module, TrainingConfig], Any]:
    """Return what builds an optimizer in the place of t5ray's."""

    def build(model: torch.nn.Module, config: TrainingConfig) -> Any:
        if name in ("adamw", "adafactor"):
            return build_optimizer(model, config)
        rate = config.learning_rate
        groups: dict[bool, list[Any]] = {True: [], False: []}
        for label, weight in model.named_parameters():
            groups[_is_hidden_matrix(label, weight)].append(
                {"params": [weight], "lr_scale": 1.0, "weight_decay": config.weight_decay if decays(label) else 0.0}
            )
        if name == "lion":
            return Lion([*groups[True], *groups[False]], rate)
        return Both(Muon(groups[True], rate), torch.optim.AdamW(groups[False], rate, fused=True))

    return build


def _is_hidden_matrix(name: str, weight: torch.Tensor) -> bool:
    return weight.ndim == 2 and decays(name) and not EMBEDDINGS.search(name) and not name.startswith("lm_head")


@dataclass(frozen=True)
class Outcome:
    """What one run gave; a line of the results file."""

    setup: dict[str, Any]
    """All that must be equal for runs to be compared."""
    rule: str
    rate: float
    seed: int
    train_loss: float
    """Mean over the last epoch."""
    validation_loss: float
    value: float
    """The task's first metric on the sample of test rows."""
    step_s: float

    @property
    def key(self) -> tuple[str, float, int]:
        """What a run is found by."""
        return self.rule, self.rate, self.seed


def run(rule: str, rate: float, seed: int, prepared: Prepared, given: argparse.Namespace) -> Outcome:
    """Train and judge one run."""
    config = TrainingConfig.model_validate(
        {
            "optimizer": "adafactor" if rule == "adafactor" else "adamw",
            "schedule": "constant" if rule == "adafactor" else "linear",
            "max_grad_norm": None if rule == "adafactor" else 1.0,
            "learning_rate": rate,
            "batch_size": given.batch_size,
            "max_epochs": given.epochs,
            "validation_rows": given.validation_rows,
            "seed": seed,
        }
    )
    loaded, group, data, reports = load_model(given.model), Group(default_device()), prepared.data, []
    with tempfile.TemporaryDirectory(prefix="optimizers-") as folder:
        plan = RunPlan(config, prepared.decode, prepared.task, "validation_loss", "min", Path(folder))

        def report(told: dict[str, Any]) -> bool:
            reports.append(told)
            return True

        with mock.patch.object(trainee, "build_optimizer", rule_for(rule)), unsaved():
            fine_tune(loaded, data, plan, group=group, report=report, tick=lambda _: None)
    sample = fixed_sample(len(data.test), given.test_rows)
    judged = validate(loaded, data.test, data.test_references, plan.task, plan.decode, rows=sample, group=group)
    return Outcome(
        setup_of(given),
        rule,
        rate,
        seed,
        reports[-1]["train_loss"],
        reports[-1]["validation_loss"],
        judged.metrics[prepared.objective],
        round(sum(told["train_s"] for told in reports) / reports[-1]["step"], 3),
    )


def setup_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return all that must be equal for runs to be compared; paths by their last part."""
    names = ("task", "train_rows", "validation_rows", "test_rows", "batch_size", "epochs")
    return {"data": Path(given.data).name, "model": Path(given.model).name, **{n: getattr(given, n) for n in names}}


def best_rates(runs: Sequence[Outcome]) -> list[list[Outcome]]:
    """Return for each rule its runs at the rate with the lowest mean validation loss."""
    chosen = []
    for rule in dict.fromkeys(run.rule for run in runs):
        of_rate: dict[float, list[Outcome]] = {}
        for found in (run for run in runs if run.rule == rule):
            of_rate.setdefault(found.rate, []).append(found)
        chosen.append(min(of_rate.values(), key=lambda found: mean(run.validation_loss for run in found)))
    return chosen


def table(runs: Sequence[Outcome]) -> Iterator[str]:
    """Yield the lines of a Markdown table; what follows a number in brackets are its seeds."""
    yield "| rule | best rate | validation loss | train loss | test | s a step |"
    yield "|---|---|---|---|---|---|"
    for found in best_rates(runs):
        cells = [_cell([getattr(run, name) for run in found]) for name in ("validation_loss", "train_loss", "value")]
        yield f"| {found[0].rule} | {found[0].rate:g} | {' | '.join(cells)} | {mean(r.step_s for r in found):.2f} |"


def _cell(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="rows with a `split` column, or none: then 80/10/10")
    parser.add_argument("--model", required=True, help="directory or Hugging Face id of a T5")
    parser.add_argument("--task", default="classify")
    parser.add_argument("--rules", default=",".join(RATES))
    parser.add_argument("--train-rows", type=int, default=320)
    parser.add_argument("--validation-rows", type=int, default=300)
    parser.add_argument("--test-rows", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--results", type=Path, default=Path("optimizers.jsonl"))
    parser.add_argument("--stop-after-s", type=float, default=float("inf"), help="start no run after so many seconds")
    return parser.parse_args()


def main() -> None:
    """Run what is not done yet, then print what can be compared."""
    given, started = arguments(), time.monotonic()
    lines = given.results.read_text(encoding="utf-8").splitlines() if given.results.exists() else []
    done = {run.key: run for run in (Outcome(**json.loads(line)) for line in lines) if run.setup == setup_of(given)}
    wanted = [
        (rule, rate, seed)
        for seed, rule in itertools.product(range(given.seeds), given.rules.split(","))
        for rate in RATES[rule]
    ]
    with tempfile.TemporaryDirectory(prefix="optimizers-cache-") as cache:
        rows = {"path": given.data, "max_train_rows": given.train_rows}
        prepared = prepare(
            RunConfig.model_validate({"data": rows, "task": given.task, "model": given.model}), Path(cache)
        )
        for key in (key for key in wanted if key not in done):
            if time.monotonic() - started > given.stop_after_s:
                print(f"Not all runs are done. Those that are stand in {given.results}: the same command goes on.")
                break
            done[key] = run(*key, prepared, given)
            with given.results.open("a", encoding="utf-8") as file:
                print(json.dumps(asdict(done[key])), file=file)
            print(*key, f"{done[key].validation_loss:.3f} {done[key].value:.3f} {done[key].step_s} s", flush=True)
    print(setup_of(given), *table([done[key] for key in wanted if key in done]), sep="\n")


if __name__ == "__main__":
    main()
