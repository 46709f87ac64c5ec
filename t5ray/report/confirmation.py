"""The best trials and the default trained again on fresh seeds: who won, by how much, and whether it is a tie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t5ray.report.charts import Scale, Tick, padded
from t5ray.report.trial_view import DEFAULT_TRIAL

LEFT, RIGHT, ROW = 150, 700, 34
TOP, BELOW = 10, 26
"""Pixels: the area of marks, the height of one candidate, the margins above and below."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One trial that was trained again."""

    name: str
    role: str
    """`winner`, `default` or nothing, as in `TrialView`."""
    trial: int
    mean: float
    low: float
    high: float
    values: Sequence[float]
    """One for each seed."""
    is_tie: bool
    """It cannot be told from the winner."""
    y: float


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What training again has shown, laid out as a chart: one line per candidate, best first."""

    candidates: list[Candidate]
    seeds: Sequence[int]
    rows: int
    gain_interval: Sequence[float] | None
    """Of the winner's mean over the default's; None where the default is out, or search.json is an older one."""
    x: Scale
    ticks: list[Tick]
    left: float
    right: float
    width: float
    height: float

    @property
    def winner(self) -> Candidate:
        """The candidate that won."""
        return next(candidate for candidate in self.candidates if candidate.role == "winner")

    @property
    def default(self) -> Candidate | None:
        """The default settings, where another trial won."""
        return next((candidate for candidate in self.candidates if candidate.role == "default"), None)

    @property
    def ties(self) -> list[Candidate]:
        """The candidates that cannot be told from the winner."""
        return [candidate for candidate in self.candidates if candidate.is_tie]


def view_confirmation(confirm: Mapping[str, Any] | None, mode: str) -> Confirmation | None:
    """Lay out search.json's `confirm`; None where nothing was confirmed."""
    if confirm is None or not confirm["candidates"]:
        return None
    sign = -1 if mode == "max" else 1
    ranked = sorted(
        confirm["candidates"], key=lambda found: (found["trial"] != confirm["winner"], sign * found["mean"])
    )
    everything = [v for found in ranked for v in (*found["values"], *found["interval"])]
    x = padded(everything, LEFT + 10, RIGHT)
    bottom = TOP + ROW * len(ranked)
    return Confirmation(
        candidates=[
            _candidate(found, confirm["winner"], confirm["tie_with"] or (), TOP + ROW * (i + 0.5))
            for i, found in enumerate(ranked)
        ],
        seeds=confirm["seeds"],
        rows=confirm["rows"],
        gain_interval=confirm.get("gain_interval"),
        x=x,
        ticks=x.ticks(),
        left=LEFT,
        right=RIGHT,
        width=RIGHT + 60,
        height=bottom + BELOW,
    )


def _candidate(found: Mapping[str, Any], winner: int, ties: Sequence[int], y: float) -> Candidate:
    number = found["trial"]
    role = "winner" if number == winner else "default" if number == DEFAULT_TRIAL else ""
    name = "default settings" if number == DEFAULT_TRIAL else f"trial {number}"
    low, high = found["interval"]
    return Candidate(name, role, number, found["mean"], low, high, found["values"], number in ties, y)
