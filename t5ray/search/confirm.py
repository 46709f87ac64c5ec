"""Winner honesty: the best trials trained again on fresh seeds, and compared before one is called the winner.

The best of many trials is partly the luckiest. So the best three and the default are trained again, as long as a full
run, on seeds that no trial has seen, and judged on the validation sample. The winner is the one with the best mean over
those seeds. The bundle is its run on the last of them: one whose seed was not chosen by its result. Only that run's
weights need to be kept, so confirming takes no more disk than searching.

Comes in: the ledger. Goes out: runs to do, then `confirm` of search.json. Must not know Tune.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from t5ray.counting import counted
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.text.bootstrap import Floats, Statistic, percentile_interval, resampled
from t5ray.text.comparison import are_behind, means_over_seeds
from t5ray.text.statistics import bounds

BEST_OF = 3
"""Trials that are confirmed, the default besides."""
RESAMPLES = 2000


def candidates(ledger: Ledger) -> list[int]:
    """Return the trials to confirm, the best first: the best of the search, the default, and those begun already.

    Of trials with equal settings there is one: the one begun, else the default, else the best.
    """
    scored = sorted((r for r in ledger.ended if r.best_value is not None and r.state != "FAIL"), key=ledger.rank)
    begun = {run.trial for run in ledger.confirm_runs}
    known = [ledger.trials[trial].params for trial in begun]
    default = next((record for record in scored if record.trial == 0), None)
    different: list[int] = []
    for found in scored:
        is_default = default is not None and found.params == default.params and found.trial not in begun
        record = default if default is not None and is_default else found
        if record.trial not in different and (record.trial in begun or record.params not in known):
            different.append(record.trial)
            known.append(record.params)
    return [trial for i, trial in enumerate(different) if i < BEST_OF or trial == 0 or trial in begun]


def means(ledger: Ledger) -> dict[int, float]:
    """Return candidate -> mean objective, for those whose runs have all come to their end."""
    seeds = ledger.confirm_seeds
    found: dict[int, dict[int, float]] = {}
    for run in ledger.confirm_runs:
        if run.state == "COMPLETE" and run.best_value is not None and run.seed in seeds:
            found.setdefault(run.trial, {})[run.seed] = run.best_value
    return {trial: fmean(values.values()) for trial, values in found.items() if seeds and len(values) == len(seeds)}


@dataclass(frozen=True)
class Standing:
    """Who leads, whose weights would be published now, and which must stay on disk for that.

    The best trial's weights are published until a candidate leads, and go then. Nobody leads before the candidate that
    the search ranked first has come to its end on every seed; else whoever is faster would win. One that failed on a
    seed is out. From then on somebody leads for good (`Ledger.has_leader`), whatever trials --extend adds: the weights
    of the best trial may be gone.
    """

    leader: int | None
    """The candidate with the best mean; at a tie the one that the search ranked higher. None: nobody leads yet."""
    source: TrialRecord | None
    """Run whose best epoch is published: the leader's on the last seed, else the best trial. None: there is none."""
    kept: frozenset[str]
    """Keys of what needs its weights: what runs, the source, and what has ended on the last seed and may yet win."""


def standing(ledger: Ledger) -> Standing:
    """Work out where a search stands."""
    found, failed, last = means(ledger), _failed(ledger), ledger.confirm_seeds[-1:]
    sign = -1 if ledger.mode == "max" else 1
    ahead = min(found, key=lambda trial: (sign * found[trial], ledger.rank(ledger.trials[trial])), default=None)
    first = next((trial for trial in candidates(ledger) if trial not in failed), None)
    leader = ahead if ledger.has_leader or first is None or first in found else None
    source = ledger.best if leader is None else ledger.confirm_run(leader, last[0])
    may_win = {run.trial for run in ledger.confirm_runs} - failed - found.keys() | {ahead}
    ended = {r.key for r in ledger.confirm_runs if r.state == "COMPLETE" and r.seed in last and r.trial in may_win}
    return Standing(leader, source, frozenset(_running(ledger) | ended | ({source.key} if source else set())))


def _failed(ledger: Ledger) -> set[int]:
    """Return the candidates that failed on a seed."""
    return {run.trial for run in ledger.confirm_runs if run.state == "FAIL"}


def _running(ledger: Ledger) -> set[str]:
    return {r.key for r in (*ledger.interrupted, *ledger.confirm_runs) if r.state == "RUNNING"}


class Confirmation:
    """Gives out one run after the other: interrupted ones first, then seed by seed, the best candidate first."""

    def __init__(self, ledger: Ledger) -> None:
        """Begin, or go on after an interruption."""
        self._ledger = ledger
        self._again = [run for run in ledger.confirm_runs if run.state == "RUNNING"]

    @property
    def is_waiting(self) -> bool:
        """Whether what runs next depends on how something ends that runs now."""
        return bool(self._ledger.interrupted or (self._following() and _running(self._ledger)))

    def next_run(self) -> TrialRecord | None:
        """Return the next run, noted in the ledger; None where there is none, or none that is certain yet.

        While trials are still running, only the default is sure to be a candidate; its runs fill idle slots, but for
        the last, whose weights would have to be kept. For the same reason none begins its last run while others run and
        one that has ended waits to be compared.
        """
        if self._again:
            return self._again.pop(0)
        ledger, following = self._ledger, self._following()
        if following is None:
            return None
        trial, seed = following
        running = _running(ledger)
        if seed == ledger.confirm_seeds[-1] and running and len(standing(ledger).kept - running) > 1:
            return None
        record = TrialRecord(trial, ledger.trials[trial].params, seed=seed)
        ledger.confirm_runs.append(record)
        return record

    def _following(self) -> tuple[int, int] | None:
        """Return trial and seed of the next run to begin."""
        ledger = self._ledger
        chosen, seeds = candidates(ledger), ledger.confirm_seeds
        if len(chosen) < 2:
            return None
        if ledger.interrupted:
            chosen, seeds = [n for n in chosen if n == 0], seeds[:-1]
        begun, failed = {(run.trial, run.seed) for run in ledger.confirm_runs}, _failed(ledger)
        left = [trial for trial in chosen if trial not in failed]  # those cannot win any more
        wanted = ((trial, seed) for seed in seeds for trial in left if (trial, seed) not in begun)
        return next(wanted, None)


def num_missing(ledger: Ledger) -> int:
    """Return how many confirming runs are still to be done, as far as is known now."""
    chosen = candidates(ledger)
    ended = {(run.trial, run.seed) for run in ledger.confirm_runs if run.state != "RUNNING"}
    wanted = {(trial, seed) for seed in ledger.confirm_seeds for trial in chosen if trial not in _failed(ledger)}
    return len(wanted - ended) if len(chosen) > 1 else 0


def num_expected(ledger: Ledger, num_trials: int) -> int:
    """Return how many confirming runs are still to be done, at most, in a search of so many trials."""
    if len(ledger.ended) >= num_trials or num_trials < 2:
        return num_missing(ledger)
    leading = candidates(ledger)
    ended = sum(run.state != "RUNNING" and run.trial in leading for run in ledger.confirm_runs)
    return max(0, min(BEST_OF + 1, num_trials) * len(ledger.confirm_seeds) - ended)


def why_unconfirmed(ledger: Ledger) -> str | None:
    """Return why nothing was confirmed though it was asked for; None where it was, or was not asked for."""
    if not ledger.confirm_seeds or ledger.confirm is not None:
        return None
    if len(candidates(ledger)) < 2:
        return "fewer than two different trials have a value"
    if num_missing(ledger):
        seeds = counted(len(ledger.confirm_seeds), "fresh seed")
        return f"the search ended before its best trial and another had run on {seeds}; --resume runs the rest"
    causes = [f"{run['reason']} (trial {run['trial']} on seed {run['seed']})" for run in failures(ledger)]
    why = "fewer than two candidates reached the end on every fresh seed"
    return f"{why}: {'; '.join(causes)}" if causes else why


def failures(ledger: Ledger) -> list[dict[str, Any]]:
    """Return trial, seed and cause of each confirming run that failed: those trials are out."""
    failed = [run for run in ledger.confirm_runs if run.state == "FAIL"]
    causes = [(run.reason or "no reason known").removesuffix(".") for run in failed]
    return [{"trial": r.trial, "seed": r.seed, "reason": cause} for r, cause in zip(failed, causes, strict=True)]


def compare(
    ledger: Ledger,
    statistics: Mapping[tuple[int, int], Sequence[Statistic]],
    metric: str,
    rows: int,
) -> dict[str, Any] | None:
    """Return `confirm` of search.json; None where fewer than two candidates came to their end.

    Intervals: 95 %, bootstrap of the mean over seeds (`means_over_seeds`), within the bounds of the metric. Rows are
    drawn together for all candidates (paired), seeds for each by itself. A tie: the difference to the winner is within
    chance (`are_behind`). The interval of the gain, the winner's mean over the default's, is of that one difference:
    where it leaves 0 out there may be a tie all the same, which also allows for the best of several being picked.

    Args:
        statistics: (trial, seed) -> the objective over the validation sample's `rows` rows.
    """
    found, winner, seeds = means(ledger), standing(ledger).leader, ledger.confirm_seeds
    if winner is None or len(found) < 2:
        return None
    order = [trial for trial in candidates(ledger) if trial in found]
    values = {trial: _on_seeds([statistics[trial, seed] for seed in seeds], metric, rows) for trial in order}
    pairs = np.stack([_drawn(values[trial], trial, degrees=2 * (len(seeds) - 1)) for trial in order])
    behind = are_behind(pairs, np.array([found[trial] for trial in order]), order.index(winner))
    return {
        "seeds": list(seeds),
        "rows": rows,
        "candidates": [
            {
                "trial": trial,
                "values": [ledger.confirm_run(trial, seed).best_value for seed in seeds],
                "mean": found[trial],
                "interval": np.clip(
                    percentile_interval(_drawn(values[trial], trial, degrees=len(seeds) - 1)), *bounds(metric)
                ).tolist(),
            }
            for trial in order
        ],
        "winner": winner,
        "tie_with": [t for t, is_behind in zip(order, behind, strict=True) if t != winner and not is_behind],
        **_gain(ledger, winner, dict(zip(order, pairs, strict=True)), metric),
        "failed": failures(ledger),
    }


def _gain(ledger: Ledger, winner: int, drawn: Mapping[int, Floats], metric: str) -> dict[str, Any]:
    """Return how much better the winner is than the default, with its interval; nulls where the default is out.

    Args:
        drawn: candidate -> its mean over seeds in resamples, in pairs.
    """
    if 0 not in drawn:
        return {"gain": None, "gain_interval": None}
    found, sign, (least, most) = means(ledger), 1 if ledger.mode == "max" else -1, bounds(metric)
    interval = np.clip(percentile_interval(sign * (drawn[winner] - drawn[0])), least - most, most - least)
    return {"gain": sign * (found[winner] - found[0]), "gain_interval": interval.tolist()}


def _on_seeds(statistics: Sequence[Sequence[Statistic]], metric: str, rows: int) -> Floats:
    """Return a candidate's objective on each seed in each resample of the rows, [S, RESAMPLES]."""
    return np.stack([resampled(found, rows, samples=RESAMPLES, seed=0)[metric] for found in statistics])  # type: ignore[index]


def _drawn(values: Floats, trial: int, *, degrees: int) -> Floats:
    return means_over_seeds(values, degrees=degrees, seed=trial + 1)
