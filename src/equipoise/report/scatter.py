"""A scatter of many named points in a few groups, each point with both its intervals and its name beside it.

For figures that compare whole families of policies; `plots` has those of a report.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from equipoise.report.plots import GRID, MARKERS, SERIES, STYLE, to_svg

_SIZE = (7.4, 5.2)  # inches
_NEAR, _FAR = 9, 22  # points between a dot and its name
_TICKS = (0, 0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1)


class Span(NamedTuple):
    """A number with its interval."""

    value: float
    low: float
    high: float


class Dot(NamedTuple):
    """A point with its intervals, and what it is the mean of."""

    name: str
    across: Span
    up: Span
    parts: Sequence[tuple[float, float]] = ()


class Group(NamedTuple):
    """Points of one colour and marker; `is_joined` draws a line through them in order."""

    name: str
    dots: Sequence[Dot]
    is_joined: bool = False


def scatter(groups: Sequence[Group], across: str, up: str, label: str) -> str:
    """Draw the groups; the horizontal axis has shares, on a square-root scale, so that small ones come apart.

    Args:
        groups: With finite values; at most as many as there are colours.
        across: What the horizontal axis shows.
        up: What the vertical axis shows.
        label: The figure in words, for readers who do not see it.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots()
        for i, group in enumerate(groups):
            _draw(axes, group, {"color": SERIES[i], "marker": MARKERS[i]})
        _share_axis(axes, [x for group in groups for dot in group.dots for x in dot.across if x is not None])
        axes.grid()
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        figure.legend(loc="outside upper left", ncols=3, columnspacing=1.1)
        canvas.draw()  # type: ignore[no-untyped-call]
        renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
        _name(axes, [(dot, SERIES[i]) for i, group in enumerate(groups) for dot in group.dots], renderer)
        return to_svg(figure, label)


def _draw(axes: Axes, group: Group, look: dict[str, Any]) -> None:
    colour = look["color"]
    places = [(dot.across.value, dot.up.value) for dot in group.dots]
    for dot in group.dots:
        axes.plot([dot.across.low, dot.across.high], [dot.up.value] * 2, color=colour, lw=1.3)
        axes.plot([dot.across.value] * 2, [dot.up.low, dot.up.high], color=colour, lw=1.3)
        if dot.parts:
            axes.plot(*zip(*dot.parts, strict=True), ls="", ms=3, alpha=0.45, mew=0, **look)
    x, y = np.array(places, dtype=float).T
    line = {"ls": "-", "lw": 1.2} if group.is_joined else {"ls": ""}
    axes.plot(x, y, ms=6.5, label=group.name, **look, **line)


def _share_axis(axes: Axes, values: Sequence[float]) -> None:
    top = 1.04 * max(values) or 1.0
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    axes.set_xticks([x for x in _TICKS if x <= top and (x == 0 or np.sqrt(x / top) > 0.06)])
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.3g}%")
    axes.set_xlim(0, top)
    axes.margins(y=0.08)


def _name(axes: Axes, dots: Sequence[tuple[Dot, str]], renderer: Any) -> None:
    """Write each dot's name in its colour where it hides least; from afar with a line to its dot."""
    taken = [box for dot, _ in dots for box in _crossed(axes, dot)]
    frame = axes.get_window_extent(renderer)
    for dot, colour in dots:
        tried: list[tuple[float, int, tuple[float, float], str, Bbox]] = []
        for shift, aside in _places():
            text = _write(axes, dot, colour, shift, aside)
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # without the line to its dot
            text.remove()
            hidden = sum(_shared(box, other) for other in taken) + 2 * (
                box.width * box.height - _shared(box, frame)
            )
            tried.append((hidden + 0.02 * float(np.hypot(*shift)) * box.height, len(tried), shift, aside, box))
        _, _, shift, aside, box = min(tried)
        _write(axes, dot, colour, shift, aside)
        taken.append(box)


def _crossed(axes: Axes, dot: Dot) -> Iterator[Bbox]:
    """Where a dot's marker and its two intervals are, in pixels."""
    across, up = dot.across, dot.up
    ends = [(across.value, up.value)] * 2, [(across.low, up.value), (across.high, up.value)]
    for (one, other), wide in zip(
        (*ends, [(across.value, up.low), (across.value, up.high)]), (5, 2, 2), strict=True
    ):
        yield Bbox([axes.transData.transform(one), axes.transData.transform(other)]).padded(wide)


def _write(axes: Axes, dot: Dot, colour: str, shift: tuple[float, float], aside: str) -> Annotation:
    """A dot's name at an offset in points."""
    is_far = max(map(abs, shift)) > _NEAR
    return axes.annotate(
        dot.name,
        (dot.across.value, dot.up.value),
        xytext=shift,
        textcoords="offset points",
        ha=aside,
        va="center",
        fontsize=8,
        color=colour,
        arrowprops={"arrowstyle": "-", "color": GRID, "lw": 0.7} if is_far else None,
    )


def _places() -> Iterator[tuple[tuple[float, float], str]]:
    """Offsets in points, the near ones first, and the side of the text that is nearest to its dot."""
    for far in (_NEAR, _FAR, 2 * _FAR, 3 * _FAR):
        for x, y in product((far, -far, 0), (0, far, -far)):
            if (x, y) != (0, 0):
                yield (x, y), "left" if x > 0 else "right" if x < 0 else "center"


def _shared(one: Bbox, other: Bbox) -> float:
    """The area that two boxes share, in square pixels."""
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else float(both.width * both.height)
