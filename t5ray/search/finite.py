"""Spaces that hold so many settings and no more: how many trials there can be, and which settings are left.

The seed of training is every trial's, so equal settings give equal results: to run some again would teach nothing.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from t5ray.config import Range, SearchSpace
from t5ray.counting import counted
from t5ray.search import points
from t5ray.search.ledger import Ledger
from t5ray.search.space import Params, point
from t5ray.training.prepare import Prepared

COUNTED = 10_000
"""Settings that are counted at most: no search has as many trials."""
Setting = frozenset[tuple[str, object]]


def setting(params: Params) -> Setting:
    """Return what two trials have in common that run the same."""
    return frozenset(params.items())


def is_finite(space: SearchSpace) -> bool:
    """Say whether no parameter has an endless range."""
    return all(r.kind not in ("uniform", "loguniform") for ranges in space.parameters.values() for r in ranges)


def tried(ledger: Ledger) -> set[Setting]:
    """Return the settings that have run, or run now; what the time budget cut off has told nothing, and may."""
    return {setting(record.params) for record in ledger.trials.values() if not record.was_cut}


def untried(space: SearchSpace, known: Collection[Setting]) -> list[Params]:
    """Return the settings of a finite space that are not among these, of the first `COUNTED` in it."""
    return [params for params in islice(_settings(space), COUNTED) if setting(params) not in known]


def most_trials(space: SearchSpace, prepared: Prepared, ledger: Ledger) -> int | None:
    """Return how many trials there can be besides those that the time budget cut off. None: no limit.

    They are the points of a grid, or the settings in a space; first points may lie outside the space, and count
    besides. So do trials of an older search that ran some twice.
    """
    first = points.first_points(space, prepared, ledger)
    if space.sampler.name == "grid":
        return len(first) - ledger.num_cut
    inside = {setting(params) for params in islice(_settings(space), COUNTED + 1)} if is_finite(space) else set()
    if not inside or len(inside) > COUNTED:
        return None
    placed = ((point(space, params), params) for params in first)
    settings = inside | {setting(params if found is None else found[0]) for found, params in placed}
    return len(ledger.trials) - ledger.num_cut + len(settings - tried(ledger))


def short_of(space: SearchSpace, wanted: int, ledger: Ledger) -> list[str]:
    """Return what to tell who wants more trials than there can be; the ledger's target is settled."""
    if ledger.most_trials is None or wanted <= ledger.target:
        return []
    is_grid = space.sampler.name == "grid"
    what, kind = ("grid", "point") if is_grid else ("search space", "different setting")
    has = counted(ledger.most_trials, kind)
    return [f"there are no {wanted} trials: the {what}, with what runs first, has {has}"]


def _settings(space: SearchSpace) -> Iterator[Params]:
    """Yield every setting of a finite space once; conditions hold."""
    return _grown({}, list(space.parameters.items()))


def _grown(params: Params, left: Sequence[tuple[str, Sequence[Range]]]) -> Iterator[Params]:
    if not left:
        yield params
        return
    (name, ranges), *others = left
    fitting = next((values for values in ranges if values.holds(params)), None)
    if fitting is None:
        yield from _grown(params, others)
        return
    low, high = fitting.bounds[0], fitting.bounds[-1]
    for value in fitting.bounds if fitting.is_listed else range(low, high + 1):
        yield from _grown({**params, name: value}, others)
