"""Memory of weights, gradients and moments per GPU under FSDP2: by formula for large T5s, measured for a small one.

    python -m benchmarks.memory

The formula: N parameters in fp32 over W workers take 4 (weights) + 4 (gradients) + 8 (moments) bytes each, 16 N / W per
worker; whatever W is, validation holds all N once more in the dtype that is computed in (2 N bytes in bf16).
The check: two CPU workers (gloo) shard a small T5, make one step, and count the bytes of what they hold.

In pure bf16 a worker, which then holds all N, takes 4 (master weights) + 2 (twins) + 2 (gradients) + 8 (moments) bytes
each; within the optimizer's step the gradients are fp32 and take 4. Checked in the same way, in this process.
"""

import argparse
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import start_processes
from transformers import T5Config, T5ForConditionalGeneration

from t5ray.config import TrainingConfig
from t5ray.model.optim import Twins, build_optimizer
from t5ray.training.group import Group
from t5ray.training.sharding import STATE_BYTES, spread

WORKERS = 2
LARGE = {
    "T5-3B": T5Config(d_model=1024, d_kv=128, d_ff=16384, num_layers=24, num_heads=32),
    "T5-11B": T5Config(d_model=1024, d_kv=128, d_ff=65536, num_layers=24, num_heads=128),
}
SMALL = T5Config(vocab_size=1000, d_model=128, d_kv=32, d_ff=512, num_layers=4, num_heads=4, decoder_start_token_id=0)


def num_parameters(config: T5Config) -> int:
    """Count a T5's parameters without making them."""
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
    return sum(parameter.numel() for parameter in model.parameters())


def local_bytes(value: torch.Tensor) -> int:
    """Return the bytes of the part of a tensor that this worker holds."""
    part = value.to_local() if isinstance(value, DTensor) else value
    return part.numel() * part.element_size()


def measure(rank: int, folder: str) -> None:
    """Shard the small T5, make a step, and write down what this worker holds."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    config = TrainingConfig(parallel="fsdp", precision="fp32")
    model = T5ForConditionalGeneration(SMALL)
    spread(model, config, Group())
    optimizer = build_optimizer(model, config)
    ids = torch.arange(2, 18)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    held = [t for p in model.parameters() for t in (p, p.grad, *optimizer.state[p].values()) if t is not None]
    Path(folder, f"{rank}.txt").write_text(str(sum(map(local_bytes, held))))
    dist.destroy_process_group()


def measure_pure() -> tuple[int, int]:
    """Make a step in pure bf16, and return what is held after the next backward pass and within the next step."""
    model, held = T5ForConditionalGeneration(SMALL), list[int]()
    optimizer = build_optimizer(model, TrainingConfig(precision="bf16_pure"))
    masters, twins = list(model.parameters()), Twins(model)
    ids = torch.arange(2, 18)[None]

    def note(*_: object) -> None:
        parameters = [*masters, *model.parameters()]
        grads = [p.grad for p in parameters if p.grad is not None]
        moments = [t for p in masters for t in optimizer.state[p].values()]
        held.append(sum(map(local_bytes, [*parameters, *grads, *moments])))

    with twins.in_place():
        twins.follow(optimizer)
        optimizer.register_step_pre_hook(note)
        for _ in range(2):
            model(input_ids=ids, labels=ids).loss.backward()
            note()
            optimizer.step()
    return held[2], held[3]


def main() -> None:
    """Print the table and the check."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print("model    parameters   " + "".join(f"{f'{w} GPUs':>12}" for w in (2, 4, 8, 16)) + "   validation adds (bf16)")
    for name, config in LARGE.items():
        n = num_parameters(config)
        sizes = "".join(f"{STATE_BYTES * n / w / 2**30:8.1f} GiB" for w in (2, 4, 8, 16))
        print(f"{name:8} {n:14,}{sizes}   {2 * n / 2**30:.1f} GiB")
    with tempfile.TemporaryDirectory() as folder:
        start_processes(measure, (folder,), nprocs=WORKERS, start_method="spawn")  # type: ignore[no-untyped-call]
        held = [int(Path(folder, f"{rank}.txt").read_text()) for rank in range(WORKERS)]
    n = num_parameters(SMALL)
    expected = STATE_BYTES * n / WORKERS
    print(f"small    {n:14,}  formula {expected:,.0f} bytes a worker, measured {held[0]:,} and {held[1]:,} "
          f"({max(held) / expected - 1:+.2%})")  # fmt: skip
    for when, each, found in zip(("after backward", "in the step"), (16, 18), measure_pure(), strict=True):
        print(f"bf16_pure, {when}: formula {each * n:,} bytes, measured {found:,} ({found / each / n - 1:+.2%})")


if __name__ == "__main__":
    main()
