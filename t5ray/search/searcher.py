"""Optuna behind Tune's searcher interface, told the truth about every trial.

Ray's own `OptunaSearch` tells stopped trials as complete, with an early value; this one tells them as pruned, with all
their intermediate values, and failures as failures. It gives out again what an interruption cut off, and, when the
last trial has ended, the runs that confirm the best.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import ray.tune.search
from optuna.trial import TrialState

from t5ray.config import SearchSpace
from t5ray.search.confirm import Confirmation
from t5ray.search.finite import is_finite, setting, tried, untried
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.samplers import build_sampler
from t5ray.search.space import Params, point, suggest

STATE_OF = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED, "FAIL": TrialState.FAIL}
TRIALS_APART = 1_000_003
"""Between the sampler seeds of two searches whose seeds follow each other: more than a search has trials."""
DRAWS = 5
"""Of the sampler for one trial, where it proposes what has run, before any other setting is taken, at most."""
OUTSIDE, HISTORY = "outside_space", "trials of an earlier search"


class StudySearch(ray.tune.search.Searcher):
    """Proposes trials, and tells how they ended.

    Example:
        {"trial": 3, "key": "3.5f2a90c1", "params": {"learning_rate": 1e-3}}, with `seed` for a confirming run
    """

    def __init__(
        self,
        space: SearchSpace,
        ledger: Ledger,
        *,
        storage: optuna.storages.BaseStorage,
        first_points: Sequence[Params],
        num_trials: int,
        seed: int,
        confirmation: Confirmation | None = None,
        history: Sequence[optuna.trial.FrozenTrial] = (),
    ) -> None:
        """Open or create the study, and set right what an interruption left half done.

        Args:
            first_points: full settings of the trials to run before any is proposed.
            num_trials: trials in all, those of earlier sessions included.
            seed: with the trial's number, seeds the sampler, so that a resumed search proposes what it would have.
            confirmation: what to run when the trials have ended.
            history: trials of an earlier search over the same space, for a new study to learn from.
        """
        super().__init__(metric="value", mode=ledger.mode)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.ledger, self.num_trials = space, ledger, num_trials
        self.confirmation = confirmation
        self._seed, self._first_points = seed, first_points
        self._study = optuna.create_study(
            study_name="t5ray",
            storage=storage,
            direction="maximize" if ledger.mode == "max" else "minimize",
            load_if_exists=True,
        )
        self._offset = self._take_over(history)
        self._again = list(ledger.interrupted)
        self._trials: dict[str, optuna.Trial | None] = {}
        self._settle()

    def _take_over(self, history: Sequence[optuna.trial.FrozenTrial]) -> int:
        """Put an earlier search's trials before our own, once, and return how many there are."""
        study = self._study
        if HISTORY not in study.user_attrs:
            study.set_user_attr(HISTORY, 0 if study.trials else len(history))
        count = int(study.user_attrs[HISTORY])
        if not self.ledger.trials:
            study.add_trials(history[len(study.trials) : count])
        return count

    def _settle(self) -> None:
        """Tell how trials ended whose end was noted in the ledger, but not told, when a search was killed."""
        for record in self.ledger.ended:
            told = self._study.trials[record.trial + self._offset]
            if not told.state.is_finished():
                trial = self._optuna_trial(record.trial)
                for report in record.reports[len(told.intermediate_values) :]:
                    trial.report(report["value"], report["epoch"])
                self._tell(trial, told_state(record), record.best_value, record.reason)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Give out an interrupted trial, a new one, or a confirming run; None: ask again later."""
        if self._again:
            record = self._again.pop(0)
            trial = self._unfinished(record.trial)
        elif (new := self._new_trial()) is not None:
            trial, record = new
        else:
            return self._confirm(trial_id)
        self._trials[trial_id] = trial
        self.ledger.trials[record.trial] = record
        return self._noted(record)

    def _confirm(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.confirmation is not None and (record := self.confirmation.next_run()) is not None:
            self._trials[trial_id] = None
            return {**self._noted(record), "seed": record.seed}
        waiting = self.confirmation is not None and self.confirmation.is_waiting
        return None if waiting else str(ray.tune.search.Searcher.FINISHED)

    def _noted(self, record: TrialRecord) -> dict[str, Any]:
        """Note that a run begins, and return what its worker is told."""
        if not record.reports:  # what has some goes on from the folder it has
            self.ledger.mark(record)
        self.ledger.save()
        return {"trial": record.trial, "key": record.key, "params": record.params}

    def _new_trial(self) -> tuple[optuna.Trial, TrialRecord] | None:
        """Make the next trial; None where there are enough.

        A trial that a killed search had asked Optuna for, and not noted yet, is taken up under its number.
        """
        number = len(self.ledger.trials)
        if number >= self.num_trials:
            return None
        first = self._first_points[number] if number < len(self._first_points) else None
        placed = point(self.space, first) if first is not None else None
        self._study.sampler = self._sampler(number)
        known = self._study.get_trials(deepcopy=False)[number + self._offset :]  # copies of all cost more than the rest
        if known and known[0].state == TrialState.RUNNING:
            trial = self._asked_before(number)
        else:
            values = placed[1] if placed is not None else None
            if first is None and not known:
                values = self._in_place_of_proposal(number)
            if values is not None and not known:
                self._study.enqueue_trial(values)
            trial = self._study.ask()
        if first is not None and placed is None:
            trial.set_user_attr(OUTSIDE, True)
            return trial, TrialRecord(number, first)
        return trial, TrialRecord(number, suggest(trial, self.space))

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        return build_sampler(self.space.sampler, self.space, sampler_seed(self._seed, number))

    def _in_place_of_proposal(self, number: int) -> Params | None:
        """Return Optuna name -> value of what to run in place of the sampler's proposal; None where that stands.

        It does where it is new, and where all has run. What the sampler would say is found in a copy of the study,
        which hears of no other draws. A sampler that says the same twice is not asked on: GP fits its model for each.
        """
        if not is_finite(self.space):
            return None
        known, copy = tried(self.ledger), self._copy(number, self._sampler(number))
        before = setting(suggest(copy.ask(), self.space))
        if before not in known:
            return None
        for _ in range(DRAWS - 1):
            again = copy.ask()
            drawn = setting(suggest(again, self.space))
            if drawn not in known:
                found: Params = again.params
                return found
            if drawn == before:
                break
            before = drawn
        left = untried(self.space, known)
        chosen = np.random.default_rng(sampler_seed(self._seed, number)).integers(max(1, len(left)))
        placed = point(self.space, left[chosen]) if left else None
        return None if placed is None else placed[1]

    def _copy(self, number: int, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
        """Return a study in memory that knows of what came before a trial."""
        study = self._study
        copy = optuna.create_study(sampler=sampler, direction=study.direction.name.lower())
        copy.add_trials(study.trials[: number + self._offset])
        return copy

    def _asked_before(self, number: int) -> optuna.Trial:
        """Return a trial of which only some parameters may be on disk; the rest are what they would have been."""
        index, study = number + self._offset, self._study
        trial = self._optuna_trial(number)
        if "fixed_params" not in study.trials[index].system_attrs:
            copy = self._copy(number, study.sampler)
            again = copy.ask()
            suggest(again, self.space)
            trial._fixed_params = again.params
            for name, value in copy.trials[index].system_attrs.items():  # CMA-ES knows its generations by them
                study._storage.set_trial_system_attr(trial._trial_id, name, value)
        return trial

    def _unfinished(self, number: int) -> optuna.Trial | None:
        """Return the Optuna trial; None where it was told its end before a kill, and hears no more."""
        finished = self._study.trials[number + self._offset].state.is_finished()
        return None if finished else self._optuna_trial(number)

    def _optuna_trial(self, number: int) -> optuna.Trial:
        study = self._study
        return optuna.Trial(study, study.get_trials(deepcopy=False)[number + self._offset]._trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass an intermediate value on."""
        trial = self._trials[trial_id]
        if trial is not None and "value" in result:
            _pass_on(trial, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell how the trial ended. Why a process died is not said here: `tell_end` does."""
        if error:
            return
        if result is not None:
            self.on_trial_result(trial_id, result)
        trial = self._trials[trial_id]
        if trial is not None:
            known = result or {}
            self._tell(trial, verdict(result, error), known.get("best_value"), known.get("failure"))

    def tell_end(self, record: TrialRecord) -> None:
        """Tell how a trial ended whose process died for good, or that Tune dropped when the time budget was used up."""
        trial = self._unfinished(record.trial) if record.seed is None else None
        if trial is not None:
            for report in record.reports[-1:]:  # Tune need not have told of it
                _pass_on(trial, report)
            self._tell(trial, told_state(record), record.best_value, record.reason)

    def _tell(self, trial: optuna.Trial, state: str, value: float | None, cause: str | None) -> None:
        outside = trial.user_attrs.get(OUTSIDE)  # its parameters are not in the space: nothing can be learned from it
        told = TrialState.FAIL if outside else STATE_OF[state]
        if told == TrialState.FAIL:
            trial.set_user_attr("cause", "its parameters lie outside the space" if outside else cause)
        self._study.tell(trial, value if told == TrialState.COMPLETE else None, state=told, skip_if_finished=True)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing through Tune: journal and ledger hold the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing through Tune."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave Tune nothing to pickle: its own restore is not used."""
        return {}


def _pass_on(trial: optuna.Trial, report: Mapping[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a resumed trial repeats its epochs
        trial.report(report["value"], report["epoch"])


def sampler_seed(seed: int, number: int) -> int:
    """Return the seed of a trial's proposal: no trial of a search whose seed is near has the same."""
    return (seed * TRIALS_APART + number) % 2**32


def told_state(record: TrialRecord) -> str:
    """Return what Optuna hears of a trial that has ended: pruned are those alone that the scheduler stopped.

    One that the clock cut off says nothing about its parameters. Optuna, too, fails what it could not see end.
    """
    return "FAIL" if record.was_cut else record.state


def verdict(result: dict[str, Any] | None, error: bool) -> str:
    """Return the state of a trial that has ended with this last result.

    Example:
        verdict({"epoch": 1, "value": 0.3, "final": False}, error=False) -> "PRUNED"
    """
    if error or result is None or result.get("failure"):
        return "FAIL"
    return "COMPLETE" if result.get("final") else "PRUNED"
