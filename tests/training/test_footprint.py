"""What is foretold of a worker's memory, against the peak of a process that trains."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from transformers import T5Config, T5ForConditionalGeneration

from benchmarks.micro_batch import measure
from t5ray.config import TrainingConfig
from t5ray.training.footprint import GPU_PROCESS_BYTES, gpu_worker_bytes, worker_bytes
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


@pytest.mark.parametrize(
    ("settings", "rows", "length", "target"),
    [
        ({}, 8, 384, 4),
        pytest.param({}, 8, 16, 384, marks=pytest.mark.long),
        pytest.param({"gradient_checkpointing": True}, 32, 96, 4, marks=pytest.mark.long),
    ],
)
def test_a_worker_takes_about_what_is_foretold(
    tmp_path: Path, settings: dict[str, object], rows: int, length: int, target: int
) -> None:
    model = T5ForConditionalGeneration(CONFIG)
    model.save_pretrained(tmp_path)
    character_tokenizer().save_pretrained(tmp_path)
    numbers = sum(weight.numel() for weight in model.parameters())
    asked = TrainingConfig.model_validate({**settings, "batch_size": rows, "micro_batch_tokens": 100_000})
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        _, found = pool.submit(measure, str(tmp_path), asked, length, target, 1).result()
    foretold = worker_bytes(CONFIG, numbers, asked, rows, length, target)
    assert 0.6 * foretold < found < 1.1 * foretold


def test_a_worker_with_a_gpu_takes_its_weights_once() -> None:
    assert gpu_worker_bytes(10**9) == GPU_PROCESS_BYTES + 4 * 10**9
