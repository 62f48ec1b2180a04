"""Plots of the emission curves as self-contained SVG text; a command writes them to a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from chain.mining import MINING_TOTAL, node_mined, task_mined
from chain.primitives import FUNC

WIDTH: Final = 760
HEIGHT: Final = 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 50
COLOURS: Final = ("#1f6feb", "#d1572a", "#2e8b57", "#8250df")


def svg_curves(title: str, x_label: str, y_label: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines over common axes that start at zero; coordinates are data, in the units the labels name.

    Raises:
        ValueError: no points.
    """
    points = [point for curve in curves.values() for point in curve]
    if not points:
        raise ValueError("nothing to plot")
    x_end = max(x for x, _ in points) or 1.0
    y_end = max(y for _, y in points) or 1.0

    def place(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / x_end
        return f"{across:.1f},{HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / y_end:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]
    for step in range(6):
        x, y = x_end * step / 5, y_end * step / 5
        for ends in ((place(x, 0), place(x, y_end)), (place(0, y), place(x_end, y))):
            parts.append(f'<polyline points="{" ".join(ends)}" stroke="#ddd" fill="none"/>')
        across, down = place(x, 0).split(",")
        parts.append(f'<text x="{across}" y="{float(down) + 18}" text-anchor="middle">{x:,.4g}</text>')
        across, down = place(0, y).split(",")
        parts.append(f'<text x="{float(across) - 6}" y="{float(down) + 4}" text-anchor="end">{y:,.4g}</text>')
    for i, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        line = " ".join(place(x, y) for x, y in curve)
        parts.append(f'<polyline points="{line}" stroke="{colour}" stroke-width="2" fill="none"/>')
        parts.append(f'<text x="{LEFT + 10}" y="{TOP + 16 * (i + 1)}" fill="{colour}">{escape(name)}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 6}" fill="#555">{escape(y_label)}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def mining_plot(months: int = 240) -> str:
    """Cumulative node mining and task mining over the months, in millions of FUNC, as SVG.

    Raises:
        ValueError: not at least one month.
    """
    if months < 1:
        raise ValueError("a plot needs at least one month")
    million = FUNC * 10**6
    curves = {
        "node mining: T·(1 − 2^(−a/60))": [(float(a), node_mined(a) / million) for a in range(months + 1)],
        "task mining: T·(1 − e^(−0.0003·(0.5a+0.8)²))": [
            (float(a), task_mined(a) / million) for a in range(months + 1)
        ],
    }
    title = f"Mined in all, T = {MINING_TOTAL // FUNC:,} FUNC each"
    return svg_curves(title, "month a", "million FUNC", curves)
