"""How much a search has left to run, and how long that takes: numbers from a plan and a probe, before anything runs."""

from dataclasses import dataclass

from t5ray.config import SearchSpace
from t5ray.data.batches import num_steps
from t5ray.search.confirm import num_expected
from t5ray.search.ledger import Ledger
from t5ray.search.scheduler import bracket_shares, rung_epochs
from t5ray.training.prepare import Prepared
from t5ray.training.probe import Probe


def per_epoch(prepared: Prepared) -> tuple[int, int]:
    """Return the optimizer steps and tokens of an epoch of the default settings, copies of its rows included."""
    training, data = prepared.config.training, prepared.data.train
    times = 1 + training.copies_per_row
    return num_steps(round(len(data) * times), training.batch_size), round(data.num_tokens * times)


def num_judged(prepared: Prepared) -> int:
    """Return how many validation rows each epoch is judged on."""
    return min(prepared.config.training.validation_rows, len(prepared.data.validation))


def expected_rungs(space: SearchSpace, num_trials: int, max_epochs: int) -> list[tuple[int, int]]:
    """Return (epoch, trials that arrive there) for each rung, when the best 1 in `reduction_factor` goes on at each.

    Example:
        9 trials, rungs after epochs 1 and 3, factor 3 -> [(1, 9), (3, 3)]
    """
    arrivals: dict[int, float] = {}
    for _, rungs in _expected_brackets(space, num_trials, max_epochs):
        for epoch, trials in rungs:
            arrivals[epoch] = arrivals.get(epoch, 0.0) + trials
    return [(epoch, max(1, round(trials))) for epoch, trials in sorted(arrivals.items())]


def expected_epochs(space: SearchSpace, num_trials: int, max_epochs: int) -> int:
    """Return the epochs of all trials together, at those rungs.

    Example:
        9 trials of up to 9 epochs, rungs after epochs 1 and 3, factor 3 -> 9 * 1 + 3 * 2 + 1 * 6 = 21
    """
    total = 0.0
    for beyond, rungs in _expected_brackets(space, num_trials, max_epochs):
        before = 0
        for epoch, trials in (*rungs, (max_epochs, beyond)):
            total += trials * (epoch - before)
            before = epoch
    return round(total)


def _expected_brackets(
    space: SearchSpace, num_trials: int, max_epochs: int
) -> list[tuple[float, list[tuple[int, float]]]]:
    """Return, for each bracket, how many trials run to the end, and (epoch, trials that arrive there) of its rungs."""
    epochs, found = rung_epochs(space.scheduler, max_epochs), []
    for number, share in enumerate(bracket_shares(space.scheduler, max_epochs)):
        left = num_trials * share
        fewest, rungs = min(1.0, left), []
        for epoch in epochs[number:]:
            rungs.append((epoch, left))
            left = max(fewest, left / space.scheduler.reduction_factor)
        found.append((left, rungs))
    return found


@dataclass(frozen=True)
class Left:
    """Epochs that a search is still to run."""

    expected: int
    """Of trials, where those to come run as long as the mean of all is expected to."""
    trials: int
    """Of trials, where none of them is stopped."""
    longest: int
    """The most of one trial."""
    confirm: int
    """Of runs that confirm the best, at most."""

    @classmethod
    def of(cls, ledger: Ledger, space: SearchSpace, max_epochs: int) -> "Left":
        """Work out what an earlier session, where there was one, has left to run."""
        begun = [len(record.reports) for record in ledger.interrupted]
        done = begun + [0] * (ledger.num_to_come - len(begun))
        mean = expected_epochs(space, ledger.target, max_epochs) / max(1, ledger.target)
        again = sum(len(run.reports) for run in ledger.confirm_runs if run.state == "RUNNING")
        return cls(
            expected=round(sum(max(0.0, mean - epochs) for epochs in done)),
            trials=sum(max_epochs - epochs for epochs in done),
            longest=max((max_epochs - epochs for epochs in done), default=0),
            confirm=max(0, num_expected(ledger, ledger.target) * max_epochs - again),
        )


@dataclass(frozen=True)
class Estimate:
    """Seconds that a search would take."""

    epoch_s: float
    """One epoch of one trial: training and validation."""
    search_s: float
    """Of the trials, where as many of them are stopped early as is expected."""
    most_s: float
    """The same, where none is."""
    confirm_s: float


def estimate(prepared: Prepared, left: Left, slots: int, probe: Probe) -> Estimate:
    """Work out how long the rest of a search takes whose runs are like the probed one, the default settings."""
    config, training = prepared.config, prepared.config.training
    steps, _ = per_epoch(prepared)
    looks = -(-steps // training.evaluate_every_steps) if training.evaluate_every_steps else 1
    validate_s = probe.validate_row_s * num_judged(prepared) / config.resources.workers_per_trial
    epoch_s = steps * probe.step_s + looks * validate_s
    longest = min(left.confirm, training.max_epochs)  # no number of slots makes the search, or this, shorter than a run
    return Estimate(
        epoch_s,
        search_s=probe.load_s + epoch_s * max(left.expected / slots, left.longest),
        most_s=probe.load_s + epoch_s * max(left.trials / slots, left.longest),
        confirm_s=epoch_s * max(left.confirm / slots, longest),
    )
