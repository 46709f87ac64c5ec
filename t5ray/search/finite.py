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


def untried(space: SearchSpace, known: Collection[Setting]) -> list[Params]:
    """Return the settings of a finite space that no trial has run, of the first `COUNTED` in it."""
    return [params for params in islice(_settings(space), COUNTED) if setting(params) not in known]


def most_trials(space: SearchSpace, prepared: Prepared, ledger: Ledger) -> int | None:
    """Return how many trials there can be: the points of a grid, or the settings in a space. None: no limit.

    First points may lie outside the space: they count besides.
    """
    if space.sampler.name == "grid" or not is_finite(space):
        return points.most_trials(space, prepared, ledger)
    inside = {setting(params) for params in islice(_settings(space), COUNTED + 1)}
    if len(inside) > COUNTED:
        return None
    first = [(point(space, params), params) for params in points.first_points(space, prepared, ledger)]
    settings = inside | {setting(params if placed is None else placed[0]) for placed, params in first}
    return max(len(settings), len(ledger.trials))  # an older search may have run some twice


def short_of(space: SearchSpace, asked: int, ledger: Ledger) -> list[str]:
    """Return what to tell who asks for more trials than there can be; of a grid the plan says so."""
    most = ledger.grid_points
    if most is None or asked <= most or space.sampler.name == "grid":
        return []
    has = counted(most, "different setting")
    return [f"there are no {asked} trials: the search space, with what runs first, has {has}"]


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
