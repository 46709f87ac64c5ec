"""One contender of `benchmarks.training`: load, train one epoch, judge, and print what was measured as JSON.

Each runs in a process of its own, so that its peak memory is its own. Timed is what both sides do: from the call that
trains to the end of the last optimizer step.
"""

import argparse
import json
import resource
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

from t5ray.config import DataConfig, RunConfig, TrainingConfig
from t5ray.data.batches import collate
from t5ray.data.tokens import TokenisedSplit
from t5ray.model.loading import LoadedModel, load_model
from t5ray.model.numeric import default_device
from t5ray.training.group import Group
from t5ray.training.loop import fine_tune
from t5ray.training.plan import Pulse, RunPlan
from t5ray.training.prepare import Prepared, prepare

TRAINER: dict[str, dict[str, Any]] = {
    "trainer": {},
    "trainer-grouped": {"train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused"},
    "trainer-bf16": {"train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused", "bf16": True},
}
"""What each Seq2SeqTrainer gets beyond rows, rates and seed; the first is as it comes."""
T5RAY: dict[str, dict[str, Any]] = {"t5ray": {}, "t5ray-pure": {"precision": "bf16_pure"}}
"""Likewise; the second is for hardware that is fast at bf16."""
WORKERS = {"t5ray-1-worker": 1, "t5ray-2-workers": 2}
"""t5ray in so many processes of one thread each, to see what a second worker brings."""
CONTENDERS = (*TRAINER, "t5ray")
"""Who takes part unless asked otherwise."""
REDUCTIONS = 5


@dataclass(frozen=True)
class Outcome:
    """What one training run came to."""

    seconds: float
    losses: list[float]
    """Per optimizer step, per target token."""
    train_loss: float
    """Mean over the epoch's target tokens, while weights changed."""
    validation_loss: float
    """Mean over the validation rows' target tokens, in fp32, afterwards."""
    padding: float
    """Share of forwarded positions, source and target, that were padding."""
    peak_bytes: int
    """Of a single worker."""
    cpu_s: float = 0.0
    """Processor time of all threads in `seconds`: what other programs on the machine disturb less."""
    reduce_s: float = 0.0
    """Seconds that several workers take to add up gradients once, with nothing else to do."""


def prepared(args: argparse.Namespace, cache: Path) -> Prepared:
    """Read and tokenise the rows, or open what another process tokenised."""
    rows = DataConfig(path=args.data, max_train_rows=args.rows, max_validation_rows=args.validation_rows)
    return prepare(RunConfig(data=rows, task=args.task, model=args.model), cache)


def run(args: argparse.Namespace) -> None:
    """Be one contender."""
    torch.set_num_threads(args.threads)
    if args.worker in WORKERS:
        outcome = _by_workers(args, WORKERS[args.worker])
    else:
        by = _by_t5ray if args.worker in T5RAY else _by_trainer
        outcome = by(args, prepared(args, Path(args.cache)), load_model(args.model))
    print(json.dumps(asdict(outcome)), flush=True)


def _by_workers(args: argparse.Namespace, count: int) -> Outcome:
    """Train in several processes of one thread; the first tells."""
    prepared(args, Path(args.cache))
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_be_worker, (count, folder, args), nprocs=count)  # type: ignore[no-untyped-call]
        return Outcome(**json.loads((Path(folder) / "outcome").read_text(encoding="utf-8")))


def _be_worker(rank: int, count: int, folder: str, args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    loaded = load_model(args.model)  # its own: a model that is handed over would be one in shared memory
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    outcome = _by_t5ray(args, prepared(args, Path(args.cache)), loaded)
    reduce_s = _reduction_s(loaded.model) if count > 1 else 0.0
    if rank == 0:
        told = json.dumps(asdict(replace(outcome, reduce_s=reduce_s)))
        (Path(folder) / "outcome").write_text(told, encoding="utf-8")
    dist.destroy_process_group()


def _reduction_s(model: Any) -> float:
    """Time the sum of gradients over workers: the best of some tries, for the first connect."""
    gradients, best = torch.zeros(sum(weight.numel() for weight in model.parameters())), float("inf")
    for _ in range(REDUCTIONS):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(gradients)
        best = min(best, time.perf_counter() - started)
    return best


def _by_t5ray(args: argparse.Namespace, found: Prepared, loaded: LoadedModel) -> Outcome:
    config = TrainingConfig(
        learning_rate=args.learning_rate,
        batch_size=args.batch_size,
        max_epochs=1,
        warmup_share=0.0,
        validation_rows=1,
        seed=args.seed,
        **T5RAY.get(args.worker, {}),
    )
    loaded.model.to(default_device())
    losses: list[float] = []
    ends: list[tuple[float, float, int]] = []
    reports: list[dict[str, Any]] = []

    def tick(pulse: Pulse) -> None:
        losses.append(pulse.loss)
        if pulse.step == pulse.num_steps:
            ends.append((time.perf_counter(), time.process_time(), peak_bytes()))

    def report(epoch: dict[str, Any]) -> bool:
        reports.append(epoch)
        return True

    with tempfile.TemporaryDirectory() as folder:
        plan = RunPlan(config, found.decode, found.task, "validation_loss", "min", Path(folder))
        group = Group(device=default_device())
        started, cpu_started = time.perf_counter(), time.process_time()
        fine_tune(loaded, found.data, plan, group=group, report=report, tick=tick)
    after = validation_loss(loaded.model, found.data.validation)
    if group.rank > 0:  # only the first worker is told
        return Outcome(0.0, [], 0.0, after, 0.0, peak_bytes())
    (ended, cpu_ended, peak), (epoch,) = ends[0], reports
    return Outcome(
        seconds=ended - started,
        losses=losses,
        train_loss=epoch["train_loss"],
        validation_loss=after,
        padding=epoch["padding_share"],
        peak_bytes=peak,
        cpu_s=cpu_ended - cpu_started,
    )


class _Counting(Seq2SeqTrainer):  # type: ignore[misc]
    """Seq2SeqTrainer that keeps each step's loss and counts tokens, which costs it next to nothing."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.steps: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.real: list[torch.Tensor] = []
        self.padded = 0

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        tokens = (inputs["labels"] >= 0).sum()
        self.real.append(tokens + inputs["attention_mask"].sum())
        self.padded += inputs["labels"].numel() + inputs["input_ids"].numel()
        loss = super().training_step(model, inputs, *rest, **named)
        self.steps.append((loss, tokens))
        return loss


def _by_trainer(args: argparse.Namespace, found: Prepared, loaded: LoadedModel) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        settings = Seq2SeqTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            weight_decay=TrainingConfig().weight_decay,
            num_train_epochs=1,
            seed=args.seed,
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=True,
            **TRAINER[args.worker],
        )
        trainer = _Counting(
            model=loaded.model,
            args=settings,
            train_dataset=_rows(found.data.train),
            data_collator=DataCollatorForSeq2Seq(loaded.tokenizer, model=loaded.model),
        )
        started, cpu_started = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, cpu_s, peak = time.perf_counter() - started, time.process_time() - cpu_started, peak_bytes()
    losses, tokens = (np.array([float(value) for value in column]) for column in zip(*trainer.steps, strict=True))
    return Outcome(
        seconds=seconds,
        losses=losses.tolist(),
        train_loss=float(losses @ tokens / tokens.sum()),
        validation_loss=validation_loss(loaded.model, found.data.validation),
        padding=1 - sum(map(int, trainer.real)) / trainer.padded,
        peak_bytes=peak,
        cpu_s=cpu_s,
    )


def _rows(split: TokenisedSplit) -> list[dict[str, Any]]:
    """Return what Seq2SeqTrainer's collator pads."""
    rows = []
    for i in range(len(split)):
        ids = split.input_ids[split.input_offsets[i] : split.input_offsets[i + 1]].tolist()
        labels = split.labels[split.label_offsets[i] : split.label_offsets[i + 1]].tolist()
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return rows


@torch.inference_mode()
def validation_loss(model: Any, split: TokenisedSplit) -> float:
    """Return transformers' own loss per target token: one judge for all."""
    model.eval()
    total = tokens = 0.0
    for start in range(0, len(split), 16):
        batch = collate(split, range(start, min(start + 16, len(split))), pad_id=model.config.pad_token_id)
        batch = batch.to(model.device)
        count = float((batch.labels >= 0).sum())
        named = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
        total += float(model(**named).loss) * count
        tokens += count
    return total / tokens


def peak_bytes() -> int:
    """Return the most memory so far: what tensors took of the GPU, or this process of the machine (RSS)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
