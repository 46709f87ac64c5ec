"""Loss curves as an SVG file: losses per step in, text out."""

from collections.abc import Mapping, Sequence

from t5ray.report.charts import Scale, padded, path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 320, 56, 44, 18, 150
COLOURS = ("#2563eb", "#d97706")


def smooth(losses: Sequence[float], window: int) -> list[float]:
    """Return the mean of each step and those before it, `window` in all where there are as many."""
    parts = [losses[max(0, i + 1 - window) : i + 1] for i in range(len(losses))]
    return [sum(part) / len(part) for part in parts]


def drawing(curves: Mapping[str, Sequence[float]]) -> str:
    """Draw the running means over a fifth of the steps, and their last values."""
    steps = max(map(len, curves.values()))
    window = max(1, steps // 5)
    smoothed = {name: smooth(losses, window)[window - 1 :] for name, losses in curves.items()}
    x = Scale(window, max(steps, window + 1), LEFT, WIDTH - RIGHT)
    y = padded([loss for losses in smoothed.values() for loss in losses], HEIGHT - BOTTOM, TOP)
    ends = sorted(smoothed, key=lambda name: smoothed[name][-1], reverse=True)
    parts = [*_axes(x, y, window)]
    for (name, losses), colour in zip(smoothed.items(), COLOURS, strict=False):
        points = [(x(window + i), y(loss)) for i, loss in enumerate(losses)]
        parts.append(f'<path d="{path(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        below = 14 * ends.index(name)
        at = (y(smoothed[ends[0]][-1]) + below) if len(ends) > 1 else points[-1][1]
        parts.append(_text(WIDTH - RIGHT + 8, at, f"{name} {losses[-1]:.3f}", fill=colour))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _axes(x: Scale, y: Scale, window: int) -> list[str]:
    parts = []
    for tick in y.ticks(5):
        line = f'<path d="M{LEFT},{tick.at}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>'
        parts.append(line + _text(LEFT - 8, tick.at + 4, tick.label, anchor="end"))
    parts += [_text(tick.at, HEIGHT - BOTTOM + 18, tick.label, anchor="middle") for tick in x.ticks(6)]
    title = f"optimizer step (training loss, running mean of {window})"
    return [*parts, _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, title, anchor="middle")]


def _text(x: float, y: float, text: str, *, anchor: str = "start", fill: str = "#374151") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{fill}">{text}</text>'
