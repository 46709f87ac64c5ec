"""What a search would do, and how long it would take, in words, before anything runs."""

import math
from collections.abc import Collection, Iterator, Sequence
from statistics import fmean

import ray

from t5ray.cluster import Cluster
from t5ray.config import SearchSpace
from t5ray.counting import counted
from t5ray.report.words import seconds
from t5ray.search.capacity import checkpoint_bytes, num_slots
from t5ray.search.confirm import BEST_OF, num_expected
from t5ray.search.contradictions import idle_parameters, outside_points
from t5ray.search.estimate import Estimate, Left, estimate, expected_rungs, num_judged, per_epoch
from t5ray.search.ledger import Ledger
from t5ray.search.study import budget_left_s
from t5ray.storage import free_bytes
from t5ray.training.footprint import costliest
from t5ray.training.plan import RunFailed
from t5ray.training.prepare import Prepared
from t5ray.training.probe import Probe, ProbeSpec, measure
from t5ray.training.room import unused_gpus
from t5ray.training.run import describe as describe_run

MOST_PROBES = 8
"""Probes at a time, at most: as many as trials would run, since trials that share a machine slow each other down."""
PROBE_WITHIN_S = 600.0
"""How long the probe may take, or wait for room in the cluster, in seconds."""


def describe(prepared: Prepared, space: SearchSpace, cluster: Cluster, ledger: Ledger) -> list[str]:
    """Return the plan of a search, one fact a line.

    Args:
        ledger: with its target settled, and what earlier sessions have run.
    """
    config, training = prepared.config, prepared.config.training
    slots, num_trials, ended = num_slots(prepared, cluster, ledger), ledger.target, len(ledger.ended)
    steps, tokens = (each * training.max_epochs for each in per_epoch(prepared))
    lines = [
        f"trials       {num_trials}{f', {ended} of them ended' if ended else ''} "
        f"({min(slots, num_trials)} at a time: {_room(prepared, cluster)}), "
        f"up to {counted(training.max_epochs, 'epoch')} each",
        f"objective    {prepared.objective} ({prepared.mode}) on {counted(num_judged(prepared), 'validation row')}",
        *describe_run(prepared),
        f"per trial    {counted(steps, 'step')} and {counted(tokens, 'token')}, where it runs to its end",
        f"sampler      {space.sampler.name}, {counted(len(space.parameters), 'parameter')}: "
        f"{', '.join(space.parameters)}",
        *(f"note         {note}" for note in _notes(prepared, space, cluster)),
        *_memory(prepared, cluster, slots),
    ]
    for epoch, arrive in expected_rungs(space, num_trials, training.max_epochs):
        arrives = "arrives" if arrive == 1 else "arrive"
        lines.append(f"rung         after epoch {epoch}: about {counted(arrive, 'trial')} {arrives}")
    if config.search.confirm_seeds:
        seeds = counted(config.search.confirm_seeds, "fresh seed")
        lines.append(
            f"confirm      the best {BEST_OF} and the default again on {seeds}: "
            f"{counted(num_expected(ledger, num_trials), 'full run')} at most{' are left' if ended else ''}"
        )
    return [*lines, *_budget(config.search.time_budget_s, ledger), *_disk(prepared, space.parameters, slots)]


def _budget(budget_s: float | None, ledger: Ledger) -> list[str]:
    left_s = budget_left_s(budget_s, ledger)
    if left_s is None:
        return []
    left = "" if left_s == budget_s else f", {seconds(left_s)} of it left,"
    return [f"time budget  {seconds(budget_s)}{left} for trials and the runs that confirm the best"]


def _room(prepared: Prepared, cluster: Cluster) -> str:
    """Say what one trial needs and what there is."""
    resources = prepared.config.resources
    workers, gpus = resources.workers_per_trial, resources.gpus_per_worker
    needs, has = counted(workers * prepared.cpus_per_worker, "CPU"), counted(cluster.num_cpus, "CPU")
    if gpus or cluster.num_gpus:
        needs, has = f"{needs} and {counted(workers * gpus, 'GPU')}", f"{has} and {counted(cluster.num_gpus, 'GPU')}"
    if math.isfinite(cluster.memory_bytes):
        needs = f"{needs} and about {_bytes(workers * prepared.worker_bytes)} of memory"
        has = f"{has} and {_bytes(cluster.memory_bytes)}"
    return f"each needs {needs} for {counted(workers, 'worker')}, the cluster has {has}"


def _notes(prepared: Prepared, space: SearchSpace, cluster: Cluster) -> Iterator[str]:
    """Yield what may not be meant."""
    training = prepared.config.training
    yield from idle_parameters(space, training)
    yield from outside_points(space, training)
    yield from unused_gpus(prepared, cluster)


def _memory(prepared: Prepared, cluster: Cluster, slots: int) -> list[str]:
    """Warn where the trials at a time may take more memory than there is."""
    resources = prepared.config.resources
    needed = slots * resources.workers_per_trial * prepared.worker_bytes
    run_now = cluster.num_workers(prepared.cpus_per_worker, resources.gpus_per_worker) // resources.workers_per_trial
    if slots > run_now or cluster.memory_bytes >= needed:  # nodes to come bring memory
        return []
    return [
        f"note         {counted(slots, 'trial')} at a time may take {_bytes(needed)} of memory, but there are "
        f"{_bytes(cluster.memory_bytes)}. Should they be killed for it, lower --max-concurrent, "
        "training.micro_batch_tokens or data.max_input_tokens, or set training.gradient_checkpointing."
    ]


def _disk(prepared: Prepared, varied: Collection[str], slots: int) -> list[str]:
    needed = checkpoint_bytes(prepared.model, costliest(prepared.config.training, varied), slots)
    free = free_bytes(prepared.config.storage)
    has = "" if free is None else f", of {_bytes(free)} free"
    return [f"disk         {_bytes(needed)} for checkpoints at most{has}"]


def _bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def foresee(prepared: Prepared, space: SearchSpace, cluster: Cluster, ledger: Ledger) -> list[str]:
    """Measure a few steps of the default settings where trials would run; return what a search would take."""
    left = Left.of(ledger, space, prepared.config.training.max_epochs)
    if not (left.trials or left.confirm):
        return ["estimate     nothing is left to train: the winner is judged on test"]
    slots = num_slots(prepared, cluster, ledger)
    together = min(slots, MOST_PROBES)
    try:
        probes = _measure(prepared, together)
    except RunFailed as exc:
        return [f"probe        the default settings cannot train: {exc}"]
    if not probes:
        return [f"probe        none: the cluster had no room for it within {seconds(PROBE_WITHIN_S)}"]
    probe = Probe(*(fmean(getattr(p, name) for p in probes) for name in ("load_s", "step_s", "validate_row_s")))
    found = estimate(prepared, left, slots, probe)
    confirming = f", {seconds(found.confirm_s)} to confirm the best" if found.confirm_s else ""
    return [
        f"probe        {probe.step_s:.3g} s a step, {probe.validate_row_s:.2g} s a validation row, "
        f"{probe.load_s:.1f} s to load the model; {together} at a time",
        f"estimate     about {seconds(found.search_s + found.confirm_s)} of training and judging, start-up and the end "
        f"apart: {seconds(found.epoch_s)} an epoch; "
        f"{seconds(found.search_s)} for some {left.expected} of {counted(left.trials, 'epoch')}"
        f"{confirming}",
        *_bound(left, found),
        *_end(found, budget_left_s(prepared.config.search.time_budget_s, ledger)),
    ]


def _bound(left: Left, found: Estimate) -> list[str]:
    """Say what the trials come to where the scheduler stops none."""
    if left.expected >= left.trials:
        return []
    first = " before the best are confirmed" if found.confirm_s else ""
    whole = f"{counted(left.trials, 'epoch')} in {seconds(found.most_s)}{first}"
    return [f"at most      {whole}, if nothing is pruned: ASHA keeps trials that tie"]


def _end(found: Estimate, left_s: float | None) -> list[str]:
    """Say whether the time budget ends the search; nothing where there is no budget."""
    if left_s is None:
        return []
    if found.most_s + found.confirm_s <= left_s:
        return ["ends         with its last run, before the time budget is used up"]
    if found.search_s + found.confirm_s <= left_s:
        return ["ends         with its last run as estimated, but by the time budget if nothing is pruned"]
    during = "trials still run" if found.search_s > left_s else "the best are confirmed"
    return [f"ends         by the time budget, while {during}"]


def _measure(prepared: Prepared, together: int) -> Sequence[Probe]:
    """Run probes side by side with the resources of a worker each; none where they find no room in time.

    Raises:
        RunFailed: the settings cannot train.
    """
    config, resources = prepared.config, prepared.config.resources
    spec = ProbeSpec(
        prepared.model,
        config.training,
        prepared.task,
        prepared.decode,
        num_workers=resources.workers_per_trial,
        threads=prepared.cpus_per_worker,
        gpus=resources.gpus_per_worker,
    )
    task = ray.remote(num_cpus=prepared.cpus_per_worker, num_gpus=resources.gpus_per_worker, max_retries=0)(measure)
    data = ray.put(prepared.data.without_test())
    running = [task.remote(spec, data) for _ in range(together)]
    done, waiting = ray.wait(running, num_returns=together, timeout=PROBE_WITHIN_S)
    for reference in waiting:
        ray.cancel(reference, force=True)
    try:
        return ray.get(done)  # type: ignore[no-any-return]
    except ray.exceptions.RayTaskError as exc:
        if isinstance(exc.cause, RunFailed):
            raise exc.cause from exc
        raise
    except ray.exceptions.RayError as exc:  # the operating system ends a process that takes all memory
        raise RunFailed(f"its process died, as it does where memory runs out: {exc}") from exc
