"""Optuna behind Tune's searcher interface, told the truth about every trial.

Ray's own `OptunaSearch` tells stopped trials as complete, with an early value; this one tells them as pruned, with all
their intermediate values, and failures as failures. It also gives out again the trials that an interruption cut off.
"""

import warnings
from typing import Any

import optuna
import ray.tune.search.optuna
from optuna.trial import TrialState

from t5ray.config import SamplerConfig, SearchSpace
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.space import Params, point, suggest

STATE_OF = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED, "FAIL": TrialState.FAIL}


def build_sampler(config: SamplerConfig, seed: int) -> optuna.samplers.BaseSampler:
    """Make the sampler; `constant_liar` keeps parallel trials from proposing the same point."""
    if config.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=config.startup_trials
        )


def open_storage(path: str) -> optuna.storages.BaseStorage:
    """Open the study's journal: one file, one writer, every line a fact."""
    backend = optuna.storages.journal.JournalFileBackend(path)
    return optuna.storages.JournalStorage(backend)


class StudySearch(ray.tune.search.optuna.OptunaSearch):
    """Proposes `{"trial": number, "params": {...}}` and tells the study how each trial ended."""

    def __init__(
        self,
        space: SearchSpace,
        ledger: Ledger,
        *,
        storage: optuna.storages.BaseStorage,
        first_points: list[Params],
        seed: int,
    ) -> None:
        """Open or create the study.

        Args:
            first_points: full settings of the trials to run before any is proposed; only for a new study.
            seed: with the trial's number, seeds the sampler, so that a resumed search proposes what it would have.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.ledger, self.seed_base = space, ledger, seed
        super().__init__(
            space=lambda trial: suggest(trial, space),
            metric="value",
            mode=ledger.mode,
            sampler=build_sampler(space.sampler, seed),
            study_name="t5ray",
            storage=storage,
        )
        self._again = list(ledger.interrupted)
        self._first = first_points[len(ledger.trials) :]
        self._number_of: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Give out an interrupted trial, or a first point, or what the sampler proposes."""
        record = self._again.pop(0) if self._again else self._new_trial(trial_id)
        if trial_id not in self._ot_trials:
            self._ot_trials[trial_id] = self._optuna_trial(record.trial)
        self._number_of[trial_id] = record.trial
        self.ledger.trials[record.trial] = record
        self.ledger.save()
        return {"trial": record.trial, "params": record.params}

    def _new_trial(self, trial_id: str) -> TrialRecord:
        first = self._first.pop(0) if self._first else None
        placed = point(self.space, first) if first is not None else None
        if placed is not None:
            self._ot_study.enqueue_trial(placed[1])
        self._ot_study.sampler = build_sampler(self.space.sampler, self.seed_base + len(self.ledger.trials))
        trial = self._ot_study.ask()
        self._ot_trials[trial_id] = trial
        if first is not None and placed is None:
            trial.set_user_attr("outside_space", True)
            return TrialRecord(trial.number, first)
        return TrialRecord(trial.number, suggest(trial, self.space))

    def _optuna_trial(self, number: int) -> optuna.Trial:
        study = self._ot_study
        return optuna.Trial(study, study.trials[number]._trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass an intermediate value on."""
        self._report(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell how the trial ended. The observer has settled its state before."""
        if result is not None and not error:
            self._report(trial_id, result)
        trial = self._ot_trials[trial_id]
        state = STATE_OF[verdict(result, error)]
        if trial.user_attrs.get("outside_space"):
            state = TrialState.FAIL  # its parameters are not in the space, so nothing can be learned from its value
        value = result.get("best_value") if result is not None else None
        self._ot_study.tell(trial, value if state == TrialState.COMPLETE else None, state=state, skip_if_finished=True)

    def cut_off(self, record: TrialRecord) -> None:
        """Tell how a trial ended that Tune dropped without a word, as it does when the time budget is used up."""
        trial = self._optuna_trial(record.trial)
        self._ot_study.tell(trial, None, state=STATE_OF[record.state], skip_if_finished=True)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing through Tune: journal and ledger hold the state."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave Tune nothing to pickle: its own restore is not used."""
        return {}

    def _report(self, trial_id: str, result: dict[str, Any]) -> None:
        if "value" not in result:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a resumed trial repeats its epochs
            self._ot_trials[trial_id].report(result["value"], result["epoch"])


def verdict(result: dict[str, Any] | None, error: bool) -> str:
    """Return the state of a trial that has ended with this last result.

    Example:
        verdict({"epoch": 1, "value": 0.3, "final": False}, error=False) -> "PRUNED"
    """
    if error or result is None or result.get("failure"):
        return "FAIL"
    return "COMPLETE" if result.get("final") else "PRUNED"
