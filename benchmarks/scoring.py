"""Rows per second of the engine and its peers, in turn, at what quality.

    python -m benchmarks.scoring --model google/flan-t5-small --data translate=rows.jsonl --data classify=topics.jsonl

Each contender has a process and is timed in turn with the others, round after round; the median counts. A workload is a
built-in task over JSON lines with its columns; all contenders get the texts sorted by tokens. `--peers` narrows the
contenders; CTranslate2 runs where it is installed. Prints rows/s, the ratio to `generate` as it comes, the task's first
metric, the share of texts equal to `generate` in fp32, the padding share, and the share of the ceiling: the time that
the products of these inputs and outputs alone take in fp32, at the speed that one large product has on all threads; and
rows per second of a core, which other work on the machine disturbs less.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.names import names_of

CAP = 32
STREAMS = "-streams"
"""End of the name of a peer whose threads work on batches of their own, as t5ray's do, and not together on one."""
CONTENDERS = (
    *("generate", "generate-64", "generate-bf16", "generate-bf16-64"),
    *("ct2-int8", f"ct2-int8{STREAMS}", "ct2-float32", f"ct2-float32{STREAMS}"),
    *("t5ray", "t5ray-bf16"),
)


def main() -> None:
    args = _arguments()
    if args.worker:
        _work(args)
        return
    peers = [name for name in args.peers if "ct2" not in name or importlib.util.find_spec("ctranslate2")]
    for workload in args.data:
        _compare(args, workload, peers)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", action="append", required=True, metavar="TASK=FILE")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", type=names_of(CONTENDERS), default=",".join(CONTENDERS))
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _compare(args: argparse.Namespace, workload: str, peers: Sequence[str]) -> None:
    from t5ray.text.metrics import score
    from t5ray.text.tasks import render_references

    task, rows, labels = read_workload(workload, args.rows)
    references = [render_references(task, row) for row in rows]
    found = _race(args, workload, peers)
    exact = found.get("generate", {}).get("texts")
    slowest = found.get("generate", {}).get("seconds")
    ceiling_s = min(result["ceiling_s"] for result in found.values())
    print(f"\n{task.name}: {len(rows)} rows, at most {CAP} new tokens, median of {args.rounds}")
    heads = "".join(f"{name:>11}" for name in ("ratio", task.metrics[0], "equal", "padding", "ceiling", "per CPU s"))
    print(f"{'':16}{'rows/s':>9}{heads}")
    for name, result in found.items():
        values = score(task.metrics, result["texts"], references, labels)
        same = sum(a == b for a, b in zip(result["texts"], exact, strict=True)) / len(rows) if exact else float("nan")
        ratio = slowest / result["seconds"] if slowest else float("nan")
        print(
            f"{name:16}{len(rows) / result['seconds']:9.1f}{ratio:11.2f}{values[task.metrics[0]]:11.3f}{same:11.1%}"
            f"{result['padding']:11.1%}{ceiling_s / result['seconds']:11.1%}{len(rows) / result['cpu_s']:11.1f}   "
            + ", ".join(f"{len(rows) / seconds:.1f}" for seconds in result["each"]),
            flush=True,
        )


def read_workload(workload: str, limit: int) -> tuple[Any, list[dict[str, Any]], tuple[str, ...]]:
    """Return the task, its rows and the closed labels of the whole file."""
    from t5ray.text.tasks import collect_labels, render_references, resolve_task

    name, path = workload.split("=", 1)
    task = resolve_task(name)
    with open(path, encoding="utf-8") as file:
        everything = [json.loads(line) for line in file]
    labels = collect_labels(render_references(task, row) for row in everything) if task.closed_labels else ()
    return task, everything[:: max(1, len(everything) // limit)][:limit], labels


def _race(args: argparse.Namespace, workload: str, peers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Run each contender once a round; return what it gave last, with its seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    common = [sys.executable, "-m", "benchmarks.scoring", "--model", args.model, "--data", workload]
    common += ["--rows", str(args.rows), "--threads", str(args.threads), "--worker"]
    running: dict[str, subprocess.Popen[str]] = {}
    for name in peers:  # one after another, as each measures the machine's speed
        process = subprocess.Popen(
            [*common, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            print(f"{name}: did not start, left out", file=sys.stderr)
        running[name] = process
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
    for _ in range(args.rounds):
        for name, process in running.items():
            if process.poll() is not None:
                continue
            assert process.stdin is not None
            assert process.stdout is not None
            print("go", file=process.stdin, flush=True)
            results[name].append(json.loads(process.stdout.readline()))
    for process in running.values():
        process.communicate()
    return {name: _medians(found) for name, found in results.items() if found}


def _medians(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    each = [found["seconds"] for found in rounds]
    cpu_s = statistics.median(found["cpu_s"] for found in rounds)
    return {**rounds[-1], "seconds": statistics.median(each), "cpu_s": cpu_s, "each": each}


def _work(args: argparse.Namespace) -> None:
    """Be one contender: load, warm up, and score all rows for every line that comes in."""
    import torch

    torch.set_num_threads(args.threads)
    from benchmarks.flops import forward_flops, machine_flops
    from t5ray.model.loading import load_config, load_tokenizer
    from t5ray.model.numeric import default_device
    from t5ray.text.tasks import render_input

    (workload,) = args.data
    task, rows, labels = read_workload(workload, args.rows)
    inputs = [render_input(task, row) for row in rows]
    tokenizer = load_tokenizer(args.model)
    lengths = [len(ids) for ids in tokenizer(inputs).input_ids]
    order = sorted(range(len(rows)), key=lambda number: -lengths[number])
    texts = [inputs[number] for number in order]
    run = _contender(args.worker, args.model, labels)
    run(texts[-8:])
    speed = machine_flops(default_device(), "fp32")
    print("ready", flush=True)
    for _ in sys.stdin:
        started, cpu = time.perf_counter(), time.process_time()
        found, padding = run(texts)
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        back = {number: text.strip() for number, text in zip(order, found, strict=True)}
        result = [back[number] for number in range(len(rows))]
        targets = [min(CAP, len(ids)) for ids in tokenizer(result).input_ids]
        operations = sum(map(partial(forward_flops, load_config(args.model)), lengths, targets))
        line = {
            "seconds": seconds,
            "cpu_s": cpu_s,
            "texts": result,
            "padding": padding,
            "ceiling_s": operations / speed,
        }
        print(json.dumps(line), flush=True)


Run = Callable[[Sequence[str]], tuple[list[str], float]]
"""Takes texts, those of most tokens first; returns predictions and the share of input positions that were padding."""


def _contender(name: str, model: str, labels: tuple[str, ...]) -> Run:
    if name.startswith("t5ray"):
        return _own(name, model, labels)
    return _ctranslate2(name, model) if name.startswith("ct2") else _generate(name, model)


def _own(name: str, model: str, labels: tuple[str, ...]) -> Run:
    from t5ray.config import DecodeConfig
    from t5ray.model.engine import Engine

    decode = DecodeConfig(max_new_tokens=CAP)
    engine = Engine(model, decode=decode, labels=labels, precision="bf16" if name.endswith("bf16") else "fp32")

    def run(texts: Sequence[str]) -> tuple[list[str], float]:
        before = engine.tally.real_tokens, engine.tally.padded_tokens
        found = [prediction.text for prediction in engine.predict(texts)]
        real, padded = engine.tally.real_tokens - before[0], engine.tally.padded_tokens - before[1]
        return found, 1 - real / padded

    return run


def _generate(name: str, source: str) -> Run:
    import torch

    from t5ray.model.loading import load_model
    from t5ray.model.numeric import default_device

    loaded = load_model(source, dtype=torch.bfloat16 if "bf16" in name else torch.float32)
    model, size = loaded.model.to(default_device()), 64 if name.endswith("64") else 32

    @torch.inference_mode()
    def run(texts: Sequence[str]) -> tuple[list[str], float]:
        found, real, padded = [], 0, 0
        for start in range(0, len(texts), size):
            batch = loaded.tokenizer(list(texts[start : start + size]), return_tensors="pt", padding=True)
            output = model.generate(**batch.to(model.device), max_new_tokens=CAP, do_sample=False)
            found += loaded.tokenizer.batch_decode(output, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            real, padded = real + int(batch.attention_mask.sum()), padded + batch.attention_mask.numel()
        return found, 1 - real / padded

    return run


def _ctranslate2(name: str, source: str) -> Run:
    import ctranslate2
    import torch

    from t5ray.model.loading import load_tokenizer

    tokenizer = load_tokenizer(source)
    folder = tempfile.mkdtemp(prefix="ct2-")
    kind = name.removeprefix("ct2-").removesuffix(STREAMS)
    ctranslate2.converters.TransformersConverter(source).convert(folder, quantization=kind, force=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    streams = threads if name.endswith(STREAMS) else 1
    translator = ctranslate2.Translator(
        folder, device=device, inter_threads=streams, intra_threads=max(1, threads // streams)
    )

    def run(texts: Sequence[str]) -> tuple[list[str], float]:
        rows = [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer(list(texts)).input_ids]
        results = translator.translate_batch(
            rows, beam_size=1, max_decoding_length=CAP, max_input_length=0, max_batch_size=4096, batch_type="tokens"
        )
        ids = [tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]
        found = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return list(found), float("nan")

    return run


if __name__ == "__main__":
    main()
