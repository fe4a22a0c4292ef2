"""Figures of the report as inline SVG that follows the page's colours, light, dark and in print.

Matplotlib draws in placeholder colours that become CSS variables; text stays text. Nothing carries a date, a link
or an id of another figure. Left out: what is drawn (`report`) and the colours themselves (templates/report.css).
"""

import hashlib
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

INK, MUTED, GRID, SURFACE = "#000101", "#000102", "#000103", "#000104"
SERIES = ("#000201", "#000202", "#000203", "#000204", "#000205", "#000206")
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface"} | {
    colour: f"series-{i}" for i, colour in enumerate(SERIES, 1)
}
MARKERS = ("o", "s", "D", "^", "v", "P")
_WIDTH = 3.8  # inches; 365 px, so a phone shows it at about its own size
_SCALE = 1.15  # of a figure on a wide screen
_CHARACTERS = 50  # of a legend, that fit into the width
_LABEL, _LINE, _GAP = 0.2, 0.16, 0.1  # inches of a forest plot's row: its label, each estimate, the space below
_MOST_POINTS = 240
_ROOT_TICKS = (0, 0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1)
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "equipoise",
    "text.parse_math": False,
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.4,
    "legend.borderaxespad": 0,
}
"""Settings of matplotlib that every figure is drawn with."""


class Estimate(NamedTuple):
    """A number with an interval; a None end is open, a None value does not exist."""

    value: float | None
    low: float | None
    high: float | None


class Curve(NamedTuple):
    """A series over training steps."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


class Spot(NamedTuple):
    """A policy in the plane of harm (right) and helpfulness (up)."""

    name: str
    harm: Estimate
    helpfulness: Estimate
    is_dominated: bool
    is_on_front: bool


class Row(NamedTuple):
    """A line of a forest plot: one estimate for each series, None where it was not measured."""

    label: str
    estimates: Sequence[Estimate | None]


def rates(names: Sequence[str], series: Mapping[str, Sequence[Estimate | None]], label: str) -> str:
    """Shares with closed intervals, policy by policy; `series` maps a name to one estimate per policy."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(3.1)
        for i, (name, estimates) in enumerate(series.items()):
            shift = (i - (len(series) - 1) / 2) * 0.14
            places = [x + shift for x in range(len(names))]
            unknown = Estimate(None, None, None)  # becomes NaN, a gap in the line
            value, low, high = np.array([e or unknown for e in estimates], dtype=float).T
            style: Any = {**_look(i), "clip_on": False}
            axes.plot(places, value, lw=1 if i else 1.8, ms=5 if i else 6.5, label=name, **style)
            axes.vlines(places, low, high, color=style["color"], lw=1.6)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.4, len(names) - 0.6)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.grid(axis="y")
        _legend(figure, axes)
        return to_svg(figure, label)


def fits_as_rates(names: Sequence[str]) -> bool:
    """Whether `rates` has the room to write these names side by side; else a `forest` does."""
    return sum(map(len, names)) <= 40


def forest(
    rows: Sequence[Row],
    names: Sequence[str],
    axis: str,
    label: str,
    *,
    percent: bool = False,
    span: tuple[float, float] | None = None,
) -> str:
    """Estimates and intervals, one line per row with its label above, one colour and marker per series.

    Args:
        rows: From top to bottom.
        names: Of the series.
        axis: What the horizontal axis shows.
        label: The figure in words, for readers who do not see it.
        percent: Show the axis in percent.
        span: Ends of the axis, where several figures share it.
    """
    with mpl.rc_context(STYLE):
        pitch = _LABEL + _LINE * len(names) + _GAP
        figure, axes = _figure(0.6 + pitch * len(rows))
        ends = [x for row in rows for e in row.estimates if e for x in e if x is not None]
        wide = max(ends, default=1.0) - min([*ends, 0.0]) or 1.0
        for y, row in enumerate(rows):
            _row_label(axes, y + 0.5 * _LABEL / pitch, row.label)
            for i, estimate in enumerate(row.estimates):
                if estimate is not None:
                    _whisker(axes, y + (_LABEL + _LINE * (i + 0.5)) / pitch, estimate, i, wide)
        for i, name in enumerate(names):
            axes.plot([], [], ls="", label=name, ms=5, **_look(i))
        axes.axvline(0, color=MUTED, lw=0.8, zorder=1)
        axes.set_ylim(len(rows), 0)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(axis)
        axes.grid(axis="x")
        if percent:
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
            axes.set_xlim(left=-0.01 * wide)
        if span:
            axes.set_xlim(*span)
        _legend(figure, axes)
        return to_svg(figure, label)


def curves(lines: Sequence[Curve], label: str, *, limits: Sequence[Curve | None] = (), smooth: bool = True) -> str:
    """Training curves, a colour and marker per line; `limits` are dashed in the colour of the line at their place.

    Args:
        lines: Drawn thin as they are, and thick as a moving mean over a twentieth of the run.
        label: The figure in words.
        limits: What each line should end near; None: it has no such limit.
        smooth: Draw the moving mean.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _figure(2.5)
        for i, line in enumerate(lines):
            colour = SERIES[i % len(SERIES)]
            wide = max(1, len(line.values) // 20) if smooth else 1
            if wide > 1:
                axes.plot(*_thin(line.steps, line.values), color=colour, lw=0.7, alpha=0.3)
            shown = _thin(line.steps, _moving_mean(line.values, wide))
            every = max(1, len(shown[0]) // 6)
            axes.plot(*shown, lw=1.8, ms=4.5, markevery=(every // 2, every), label=line.name, **_look(i))
        for i, limit in enumerate(limits):
            if limit is not None:
                axes.plot(*_thin(limit.steps, limit.values), color=SERIES[i % len(SERIES)], lw=1.3, ls=(0, (4, 2)))
        if any(limits):
            axes.plot([], [], color=MUTED, lw=1.3, ls=(0, (4, 2)), label="limit")
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y")
        _legend(figure, axes)
        return to_svg(figure, label)


def plane(spots: Sequence[Spot], across: str, up: str, label: str) -> str:
    """Harm against helpfulness, with a cross of intervals each; the front is joined by a line.

    A dominated policy has a hollow marker; one without a finite helpfulness an arrow from its bound.

    Args:
        spots: The policies, in order.
        across: What the horizontal axis shows.
        up: What the vertical axis shows.
        label: The figure in words.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _figure(3.1)
        joined = sorted(
            (s.harm.value, s.helpfulness.value)
            for s in spots
            if s.is_on_front and s.harm.value is not None and s.helpfulness.value is not None
        )
        if len(joined) > 1:
            axes.plot(*zip(*joined, strict=True), color=MUTED, lw=1, ls=(0, (1, 2)), zorder=1)
        for i, spot in enumerate(spots):
            _cross(axes, spot, i)
        axes.margins(0.08)
        _percent_axis(axes, [x for s in spots for x in s.harm if x is not None])
        axes.grid()
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        _legend(figure, axes)
        return to_svg(figure, label)


def reliability(bins: Sequence[tuple[float, Estimate]], label: str) -> str:
    """What a model predicts (right) against what was so (up), with intervals; on the dashed line it is right."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(2.9)
        axes.plot([0, 1], [0, 1], color=MUTED, lw=0.9, ls=(0, (4, 2)))
        known = [(x, e.value, e.low, e.high) for x, e in bins]
        x, value, low, high = np.array(known, dtype=float).T
        axes.vlines(x, low, high, color=SERIES[0], lw=1.6)
        axes.plot(x, value, lw=1, ms=5.5, clip_on=False, **_look(0))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.set_xlim(min(0.5, float(x.min()) - 0.02), 1)
        axes.set_ylim(0, 1)
        axes.grid(axis="y")
        axes.set_xlabel("predicted")
        axes.set_ylabel("observed")
        return to_svg(figure, label)


def cloud(points: Sequence[tuple[float, float]], box: tuple[float, float, float, float], label: str) -> str:
    """Reward (up) against cost (right), cost 0 drawn; `box` = (lowest cost, highest, lowest reward, highest)."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(3.1)
        for unsafe in (False, True):
            some = [(cost, reward) for reward, cost in points if (cost > 0) == unsafe]
            name = "cost > 0: unsafe" if unsafe else "cost ≤ 0: safe"
            x, y = [cost for cost, _ in some], [reward for _, reward in some]
            axes.plot(x, y, "s" if unsafe else "o", color=SERIES[unsafe], ms=4, alpha=0.55, mew=0, label=name)
        axes.axvline(0, color=MUTED, lw=0.9, ls=(0, (4, 2)))
        axes.set_xlim(box[0], box[1])
        axes.set_ylim(box[2], box[3])
        axes.set_xlabel("cost")
        axes.set_ylabel("reward")
        _legend(figure, axes)
        return to_svg(figure, label)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _legend(figure: Figure, axes: Axes) -> None:
    """A legend above the axes, in as many columns as fit; none for a single entry."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) < 2:
        return
    columns = max(1, min(len(names), _CHARACTERS // (max(map(len, names)) + 6)))
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * rows)
    figure.legend(handles, names, loc="outside upper left", ncols=columns, columnspacing=1.1)


def _row_label(axes: Axes, y: float, label: str) -> None:
    """Text at the left edge, on a ground that hides the grid."""
    ground = {"facecolor": SURFACE, "edgecolor": "none", "pad": 1.2}
    place = axes.get_yaxis_transform()
    text = axes.annotate(
        label, (0, y), (4, 0), xycoords=place, textcoords="offset points", va="center", bbox=ground
    )
    text.set_fontsize(9)
    text.set_in_layout(False)


def _whisker(axes: Axes, y: float, estimate: Estimate, i: int, span: float) -> None:
    """A point with its interval; an arrow where the interval is open."""
    look = _look(i)
    colour = look["color"]
    low, high = estimate.low, estimate.high
    if low is not None and high is not None:
        axes.hlines(y, low, high, color=colour, lw=1.8)
    elif low is not None or high is not None:
        start = high if low is None else low
        assert start is not None
        end = start + (-0.12 if low is None else 0.12) * span
        axes.plot([start, end], [y, y], color=colour, lw=1.8)
        axes.plot([start], [y], "|", color=colour, ms=9, mew=1.8)
        axes.plot([end], [y], "<" if low is None else ">", color=colour, ms=6)
    if estimate.value is not None:
        axes.plot([estimate.value], [y], ms=5, **look)


def _cross(axes: Axes, spot: Spot, i: int) -> None:
    """A policy's marker and both its intervals."""
    look = _look(i)
    harm, helpful = spot.harm, spot.helpfulness
    bound = next((x for x in (helpful.value, helpful.low, helpful.high) if x is not None), None)
    if harm.value is None or bound is None:
        return
    if helpful.value is not None and helpful.low is not None and helpful.high is not None:
        axes.vlines(harm.value, helpful.low, helpful.high, color=look["color"], lw=1.4)
    else:
        tip = "^" if helpful.low is not None else "v"
        axes.plot([harm.value], [bound], tip, color=look["color"], ms=11, mfc="none")
    if harm.low is not None and harm.high is not None:
        axes.hlines(bound, harm.low, harm.high, color=look["color"], lw=1.4)
    name = f"{spot.name} (dominated)" if spot.is_dominated else spot.name
    fill: dict[str, Any] = {"mfc": SURFACE} if spot.is_dominated else {}
    axes.plot([harm.value], [bound], ls="", ms=6, label=name, clip_on=False, **look, **fill)


def _percent_axis(axes: Axes, values: Sequence[float]) -> None:
    """Shares from 0; on a square-root scale where they differ so much that the small ones would be one point."""
    top = 1.05 * max(values, default=1.0) or 1.0
    if min(values, default=1.0) < 0.1 * top:
        axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
        ticks = [x for x in _ROOT_TICKS if x <= top]
        axes.set_xticks([x for x in ticks if np.sqrt(x / top) > 0.08 or x == 0])
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.3g}%")
    axes.set_xlim(0, top)


def _look(i: int) -> dict[str, Any]:
    """Colour and marker of a series: together they differ for the first 36."""
    return {"color": SERIES[i % len(SERIES)], "marker": MARKERS[(i + i // len(SERIES)) % len(MARKERS)]}


def _moving_mean(values: Sequence[float], wide: int) -> list[float]:
    """Mean of the last `wide` values at each place; fewer at the start."""
    return [sum(values[max(0, i + 1 - wide) : i + 1]) / min(i + 1, wide) for i in range(len(values))]


def _thin(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most some hundred points, the last one among them."""
    stride = max(1, len(steps) // _MOST_POINTS)
    kept = [*range(0, len(steps) - 1, stride), len(steps) - 1] if len(steps) else []
    return [steps[i] for i in kept], [values[i] for i in kept]


def to_svg(figure: Figure, label: str) -> str:
    """The figure as an inline <svg>: no prolog, no metadata, short numbers, its own ids, CSS colours."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    prefix = f"f{hashlib.sha256((label + text).encode()).hexdigest()[:8]}-"
    body = re.sub(
        r"<metadata>.*?</metadata>|<!--.*?-->|<title>.*?</title>", "", text[text.index("<svg") :], flags=re.DOTALL
    )
    body = re.sub(r' xmlns(:\w+)?="[^"]*"| version="1\.1"', "", body)
    body = re.sub(r'\bid="', f'id="{prefix}', body)
    body = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}", body)
    body = re.sub(r"(\d\.\d\d)\d+", r"\1", body)
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
    body = re.sub("|".join(_VARIABLES), lambda found: f"var(--{_VARIABLES[found[0]]})", body)
    width, height = (round(x * 96 * _SCALE) for x in figure.get_size_inches())
    words = html.escape(label, quote=True)
    head = f'<svg role="img" aria-label="{words}" style="max-width: {width}px" width="{width}" height="{height}"'
    body = re.sub(r'^<svg[^>]*?(viewBox="[^"]*")[^>]*>', rf"{head} \1><title>{words}</title>", body, count=1)
    return re.sub(r"\n\s*", "\n", body).strip()
