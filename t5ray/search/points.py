"""What a search runs before its sampler proposes: the defaults, the file's points, an earlier search's best, a grid.

Comes in: settings, space, ledger, and for `--warm-start` another search's folder. Goes out: full settings per trial,
and the earlier search's trials for the sampler to learn from.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna

from t5ray.config import SearchSpace
from t5ray.counting import counted
from t5ray.errors import ConfigError
from t5ray.search.journal import open_storage
from t5ray.search.ledger import Ledger
from t5ray.search.space import Params, completed, default_settings, grid, point
from t5ray.search.workspace import Workspace
from t5ray.sessions import search_identity
from t5ray.training.outcome import identity_of
from t5ray.training.prepare import Prepared

WARM_POINTS = 3
"""Trials of an earlier search that are run again first, at most."""
UNLIKE = ("training settings", "search space", "search seed", "experiment")
"""Parts of an identity that need not agree whole for an earlier search's values to mean the same."""
ALIKE = ("seed", "micro_batch_size", "micro_batch_tokens", "checkpoint_every_s", "log_every_steps", "parallel")
"""Training settings that need not: values do not depend on them, but for chance."""


def first_points(space: SearchSpace, prepared: Prepared, ledger: Ledger) -> list[Params]:
    """Return the settings of the first trials, in order and each run once; for a grid, of all of them.

    Trials that the ledger has keep their numbers, whatever they are; what they have run is not planned again, but for
    what the time budget cut off.
    """
    training = prepared.config.training
    planned = [default_settings(space, training)]
    planned += [completed(space, given, training) for given in (*space.start_from, *(ledger.warm_points or ()))]
    if space.sampler.name == "grid":
        planned += grid(space, prepared.config.search.seed)
    begun = [record for _, record in sorted(ledger.trials.items())]
    known, to_come = {frozenset(record.params.items()) for record in begun if not record.was_cut}, []
    for settings in planned:
        placed = point(space, settings)
        run = frozenset((settings if placed is None else placed[0]).items())  # outside the space all settings are run
        if run not in known:
            known.add(run)
            to_come.append(settings)
    return [*(record.params for record in begun), *to_come]


def look_up_warm_start(ledger: Ledger, prepared: Prepared, space: SearchSpace) -> list[str]:
    """Note the best points of the earlier search in the ledger, once; return what to tell the user.

    Raises:
        ConfigError: there is no such search, or it has no trial with a value.
    """
    if ledger.warm_points is not None or prepared.config.search.warm_start is None:
        return []
    with _earlier(prepared) as copy:
        earlier = _ledger(copy, prepared)
    training = prepared.config.training
    scored = sorted((r for r in earlier.ended if r.best_value is not None and r.state != "FAIL"), key=earlier.rank)
    found: list[Params] = []
    runs = [default_settings(space, training), *(completed(space, given, training) for given in space.start_from)]
    known = [placed[0] for placed in (point(space, settings) for settings in runs) if placed is not None]
    for record in scored:
        its = {name: value for name, value in record.params.items() if name in space.parameters}
        placed = point(space, completed(space, its, training))
        if placed is not None and placed[0] not in (*known, *found) and len(found) < WARM_POINTS:
            found.append(placed[0])
    ledger.warm_points = found
    name, differ = prepared.config.search.warm_start, differences(earlier, prepared, space)
    learns = f"not its history: {_why(differ, earlier)}" if differ else "and all its trials' history"
    return [f"warm start   {counted(len(found), 'best point')} of {name} within this space, {learns}"]


def _why(differ: Sequence[str], earlier: Ledger) -> str:
    """Tell parts of an identity that differ from those that an older search did not write down."""
    known = [part for part in differ if part in earlier.identity]
    unknown = [part for part in differ if part not in known]
    differs = f"{', '.join(known)} differ" if known else ""
    return "; ".join(filter(None, (differs, f"not known of it: {', '.join(unknown)}" if unknown else "")))


def differences(earlier: Ledger, prepared: Prepared, space: SearchSpace) -> list[str]:
    """Return why an earlier search's values cannot be learned from; empty where they can."""
    now, before = {**identity_of(prepared), **search_identity(space, prepared.config)}, earlier.identity
    differ = [name for name in now if name not in UNLIKE and before.get(name) != now[name]]
    if _effective(before, space) != _effective(now, space):
        differ.append("training settings")
    parameters = json.loads(before.get("search space", "{}")).get("parameters")
    return differ if parameters == space.model_dump(mode="json")["parameters"] else [*differ, "search space"]


def _effective(identity: Mapping[str, str], space: SearchSpace) -> dict[str, Any]:
    """Return the training settings that values depend on besides those that every trial draws."""
    settings = json.loads(identity.get("training settings", "{}"))
    drawn = {name for name, ranges in space.parameters.items() if not any(values.when for values in ranges)}
    return {name: value for name, value in settings.items() if name not in {*drawn, *ALIKE}}


def earlier_trials(ledger: Ledger, prepared: Prepared, space: SearchSpace) -> Sequence[optuna.trial.FrozenTrial]:
    """Return the finished trials of the earlier search, for a study that has none of its own yet."""
    if ledger.trials or prepared.config.search.warm_start is None:
        return ()
    told = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    with _earlier(prepared) as copy:
        if differences(_ledger(copy, prepared), prepared, space):
            return ()
        study = optuna.load_study(study_name="t5ray", storage=open_storage(copy.journal))
        trials = study.get_trials(deepcopy=False, states=told)
    return [
        optuna.trial.create_trial(
            state=trial.state,
            value=trial.value,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            user_attrs={"from": str(prepared.config.search.warm_start)},
        )
        for trial in trials
    ]


@contextmanager
def _earlier(prepared: Prepared) -> Iterator[Workspace]:
    """Give a copy of the earlier search's state: that search may be running, or may be another user's."""
    its = Workspace.of(prepared.config.model_copy(update={"name": prepared.config.search.warm_start}))
    with TemporaryDirectory(prefix="t5ray-warm-start-") as folder:
        yield its.copy_state(Path(folder))


def _ledger(workspace: Workspace, prepared: Prepared) -> Ledger:
    found = Ledger.load(workspace.ledger) if workspace.ledger.exists() else None
    if found is None or found.best is None:
        raise ConfigError(
            f"--warm-start: must name a search in {prepared.config.storage} that has a trial with a value, but "
            f"{prepared.config.search.warm_start!r} {'does not exist' if found is None else 'has none'}. "
            f"Look into {prepared.config.storage} for its name, or leave it out."
        )
    return found
