"""What is foretold of a worker's memory, against the peak of a process that trains."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from t5ray.config import TrainingConfig
from t5ray.data.batches import epoch_steps, token_budget
from t5ray.data.token_cache import TokenisedSplit
from t5ray.training.footprint import GPU_PROCESS_BYTES, gpu_worker_bytes, worker_bytes
from t5ray.training.group import Group
from t5ray.training.step import EpochSums, optimizer_step
from t5ray.training.trainee import made_ready
from t5ray.training.worker import WarmModel
from tests.tiny import character_tokenizer

CONFIG = T5Config(
    vocab_size=1000,
    d_model=384,
    d_kv=64,
    d_ff=1024,
    num_layers=6,
    num_heads=6,
    feed_forward_proj="gated-gelu",
    decoder_start_token_id=0,
)


def peak(model: str, settings: dict[str, object], rows: int, length: int, target: int) -> int:
    """Train two steps of so many rows at once, and return the most memory that this process had."""
    torch.set_num_threads(1)
    config, group = TrainingConfig.model_validate({**settings, "batch_size": rows}), Group(torch.device("cpu"))

    def texts(tokens: int) -> tuple[np.ndarray, np.ndarray]:
        count = 2 * rows
        return np.full(count * tokens, 7, np.int32), np.arange(count + 1, dtype=np.int64) * tokens

    split = TokenisedSplit(*texts(length), *texts(target))
    with made_ready(WarmModel(model).pristine(config, group), config, group) as trainee:
        for step in epoch_steps(split, batch_size=rows, limit=token_budget(100_000), seed=0, epoch=1):
            optimizer_step(trainee.forward, trainee.optimizer, split, step, config, group, EpochSums())
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(
    ("settings", "rows", "length", "target"),
    [({}, 8, 384, 4), ({}, 8, 16, 384), ({"gradient_checkpointing": True}, 32, 96, 4)],
)
def test_a_worker_takes_about_what_is_foretold(
    tmp_path: Path, settings: dict[str, object], rows: int, length: int, target: int
) -> None:
    model = T5ForConditionalGeneration(CONFIG)
    model.save_pretrained(tmp_path)
    character_tokenizer().save_pretrained(tmp_path)
    numbers, training = sum(weight.numel() for weight in model.parameters()), TrainingConfig.model_validate(settings)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(peak, str(tmp_path), settings, rows, length, target).result()
    foretold = worker_bytes(CONFIG, numbers, training, rows, length, target)
    assert 0.6 * foretold < found < 1.1 * foretold


def test_a_worker_with_a_gpu_takes_its_weights_once() -> None:
    assert gpu_worker_bytes(10**9) == GPU_PROCESS_BYTES + 4 * 10**9
