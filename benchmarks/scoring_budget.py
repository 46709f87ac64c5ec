"""Where the engine's time goes on one core, by kind of operation, as torch's profiler counts it.

    python -m benchmarks.scoring_budget --model google/flan-t5-small --data translate=rows.jsonl

The profiler costs a microsecond or two a call, so many small operations look dearer than they are. Batched products are
the decoder's attention and the short rows of the encoder's. In bf16 with AMX the products with weights hold GELU and
its gate.
"""

import argparse
from collections.abc import Sequence

import torch

from benchmarks.scoring import CAP, read_workload
from t5ray.config import DecodeConfig
from t5ray.model.engine import Engine
from t5ray.text.tasks import render_input

KINDS = {
    "products with weights": ("mm", "addmm_", "_linear_pointwise"),
    "attention": ("bmm", "_scaled_dot_product_flash_attention_for_cpu", "_softmax"),
    "copies and caches": ("copy_", "index", "_index_put_impl_", "cat", "fill_", "zero_", "index_copy_", "embedding"),
    "between the products": (
        *("addcmul", "sigmoid_", "mul", "mul_", "add", "add_", "div_", "pow_", "rsqrt_", "linalg_vector_norm"),
        *("gelu", "relu"),
    ),
    "the best words": (
        *("amax", "amin", "argmax", "where", "lt", "gather"),
        *("logsumexp", "sub_", "exp", "exp_", "log_", "sum"),
    ),
}
"""What a line counts -> operations of ATen, and of oneDNN."""
REST = "the rest: views, allocation, small operations"


def shares(times: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return each kind's share of the time of operations, given as (name, seconds)."""
    found = dict.fromkeys([*KINDS, REST], 0.0)
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    for name, seconds in times:
        found[kind_of.get(name.rpartition("::")[2], REST)] += seconds
    whole = sum(found.values())
    return {kind: seconds / whole for kind, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, metavar="TASK=FILE")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    given = parser.parse_args()
    torch.set_num_threads(1)
    task, rows, labels = read_workload(given.data, given.rows)
    texts = [render_input(task, row) for row in rows]
    decode = DecodeConfig(max_new_tokens=CAP)
    engine = Engine(given.model, decode=decode, labels=labels, precision=given.precision)
    engine.predict(texts)
    with torch.profiler.profile() as profile:
        engine.predict(texts)
    times = [(event.key, event.self_cpu_time_total / 1e6) for event in profile.key_averages()]
    whole = sum(seconds for _, seconds in times)
    print(f"{task.name} in {given.precision}: {len(rows)} rows, {whole:.2f} s in operations")
    for kind, share in shares(times).items():
        print(f"{kind:48}{share:7.1%}")


if __name__ == "__main__":
    main()
