"""Small plots as inline SVG, drawn from numbers alone: no script, no font, no network.

Colours come from the CSS variables of the page, so that one drawing serves light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from milpq.verify import Progress
from milpq.verify.numbers import spelled

_WIDTH: Final = 760
_HEIGHT: Final = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 14, 14, 40
_NAME: Final = 100
"""Width kept for the name of a stage; nearer to the right edge it is written to its left."""

_NAMES: Final = 14
"""Height kept for the names of stages, above the lines."""

_LOG_RATIO: Final = 30.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One labelled pair of lengths: what is certified, and what sampling has seen of it."""

    label: str
    certified: float
    sampled: float | None


@dataclass(frozen=True, slots=True)
class _Axis:
    """A map from values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool

    @classmethod
    def of(cls, values: Sequence[float], start: float, stop: float) -> _Axis:
        """Return an axis that shows all values; logarithmic where they are positive and far apart."""
        positive = [value for value in values if value > 0]
        low, high = min(values), max(values)
        if positive and low >= 0 and high / min(positive) > _LOG_RATIO:
            return cls(math.log10(min(positive)) - 0.1, math.log10(high) + 0.1, start, stop, logarithmic=True)
        low = 0.0 if low >= 0 else low
        return cls(low, high if high > low else low + 1.0, start, stop, logarithmic=False)

    def at(self, value: float) -> float:
        """Return the pixel of a value; what a logarithmic axis cannot show lies at its start."""
        if self.logarithmic:
            value = math.log10(value) if value > 0 else self.low
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Return about five round values of the axis."""
        if self.logarithmic:
            first, last = math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9)
            if last - first >= 2:
                return [10.0**power for power in range(first, last + 1, max(1, (last - first) // 5))]
            marks = (
                step * 10.0**power for power in range(math.floor(self.low), last + 1) for step in (1, 2, 5)
            )
            return [mark for mark in marks if self.low <= math.log10(mark) <= self.high]
        span = self.high - self.low
        rough = span / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def bracket_plot(history: Sequence[Progress], tolerance: float | None) -> str:
    """Return the two ends of the bracket over time, the area between them filled.

    Moments before the first bound are left out.  An empty string where nothing is known.
    """
    known = [moment for moment in history if math.isfinite(moment.upper)]
    if not known:
        return ""
    values = [end for moment in known for end in (moment.lower, moment.upper)]
    if tolerance is not None:
        values.append(tolerance)
    last = known[-1].time_s
    x = _Axis.of([0.0, last if last > 0 else 1.0], _LEFT, _WIDTH - _RIGHT)
    y = _Axis.of(values, _HEIGHT - _BOTTOM, _TOP + _NAMES)
    upper = _stairs([(x.at(m.time_s), y.at(m.upper)) for m in known])
    lower = _stairs([(x.at(m.time_s), y.at(m.lower)) for m in known])
    area = " ".join(f"{px:.1f},{py:.1f}" for px, py in [*upper, *reversed(lower)])
    parts = [
        _grid(x, y),
        f'<polygon points="{area}" fill="var(--upper)" opacity="0.12"/>',
        _line(upper, "var(--upper)"),
        _line(lower, "var(--lower)"),
    ]
    previous = -math.inf
    for before, moment in zip([None, *known], known, strict=False):
        here = x.at(moment.time_s)
        if (before is None or before.stage != moment.stage) and here - previous > 60:
            previous = here
            name = escape(moment.stage)
            beside = (
                f'x="{here + 4:.1f}"' if here < _WIDTH - _NAME else f'x="{here - 4:.1f}" text-anchor="end"'
            )
            parts.append(
                f'<line x1="{here:.1f}" y1="{_TOP}" x2="{here:.1f}" y2="{_HEIGHT - _BOTTOM}" class="stage"/>'
                f'<text {beside} y="{_TOP + 9}" class="stage-name">{name}</text>'
            )
    if tolerance is not None:
        level = y.at(tolerance)
        parts.append(
            f'<line x1="{_LEFT}" y1="{level:.1f}" x2="{_WIDTH - _RIGHT}" y2="{level:.1f}" class="tolerance"/>'
            f'<text x="{_WIDTH - _RIGHT}" y="{level - 5:.1f}" text-anchor="end">tolerance {spelled(tolerance)}</text>'
        )
    middle = (_TOP + _NAMES + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">seconds</text>'
        f'<text transform="translate(12 {middle:g}) rotate(-90)" text-anchor="middle">real units</text>'
    )
    return _svg(_HEIGHT, "Both ends of the bracket over time", parts)


def bar_plot(bars: Sequence[Bar], title: str) -> str:
    """Return horizontal bars, the sampled length drawn inside the certified one."""
    if not bars:
        return ""
    row, left = 24, 250
    height = _TOP + row * len(bars) + _BOTTOM
    x = _Axis.of([0.0, max(bar.certified for bar in bars)], left, _WIDTH - _RIGHT)
    parts: list[str] = []
    for mark in x.ticks():
        here = x.at(mark)
        parts.append(
            f'<line x1="{here:.1f}" y1="{_TOP}" x2="{here:.1f}" y2="{height - _BOTTOM}" class="grid"/>'
            f'<text x="{here:.1f}" y="{height - _BOTTOM + 16}" text-anchor="middle">{_mark(mark)}</text>'
        )
    for index, bar in enumerate(bars):
        top = _TOP + row * index
        name = bar.label if len(bar.label) <= 38 else bar.label[:37] + "…"
        parts.append(
            f'<text x="{left - 8}" y="{top + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{left}" y="{top + 4}" width="{x.at(bar.certified) - left:.1f}" height="15" '
            'fill="var(--upper)" opacity="0.45"/>'
        )
        if bar.sampled is not None:
            parts.append(
                f'<rect x="{left}" y="{top + 7}" width="{x.at(bar.sampled) - left:.1f}" height="9" '
                'fill="var(--lower)"/>'
            )
    parts.append(
        f'<text x="{(left + _WIDTH - _RIGHT) / 2}" y="{height - 6}" text-anchor="middle">real units</text>'
    )
    return _svg(height, title, parts)


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _grid(x: _Axis, y: _Axis) -> str:
    parts: list[str] = []
    for mark in y.ticks():
        level = y.at(mark)
        parts.append(
            f'<line x1="{x.start}" y1="{level:.1f}" x2="{x.stop}" y2="{level:.1f}" class="grid"/>'
            f'<text x="{x.start - 6}" y="{level + 4:.1f}" text-anchor="end">{_mark(mark)}</text>'
        )
    for mark in x.ticks():
        here = x.at(mark)
        parts.append(
            f'<line x1="{here:.1f}" y1="{y.start}" x2="{here:.1f}" y2="{y.start + 4}" class="grid"/>'
            f'<text x="{here:.1f}" y="{y.start + 17}" text-anchor="middle">{_mark(mark)}</text>'
        )
    return "".join(parts)


def _mark(value: float) -> str:
    return f"{value:.3g}"


def _stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of a line that holds each value until the next moment."""
    corners = [points[0]]
    for here, level in points[1:]:
        corners += [(here, corners[-1][1]), (here, level)]
    return corners


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    joined = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'
