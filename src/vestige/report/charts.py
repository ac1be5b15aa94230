"""Charts of a report as inline SVG, drawn on the server: plain geometry, no script, no fonts.

Every chart is drawn for a width in CSS pixels. The page holds a wide and a narrow drawing of each
and shows the one that fits, so that text keeps its size on a phone. Colours come from CSS classes
(``own``, ``control``, ``zero`` ...) and follow the reader's light or dark setting.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from vestige.core.results import CurvePoint
from vestige.core.types import DataError

WIDE, NARROW = 720, 340
CHAR, LINE = 6.9, 17  # a generous advance and the line height of 13 px text


@dataclass(frozen=True, slots=True)
class Mark:
    """One row of a forest plot: a dot with its interval. ``own`` marks the row that matters."""

    label: str
    value: float
    low: float
    high: float
    own: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """The linear map of data in ``[low, high]`` onto pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float) -> Scale:
        """A scale that holds every value and zero, with a little room at either end.

        Raises:
            DataError: a value is NaN or infinite.
        """
        seen = [0.0, *values]
        if not all(math.isfinite(v) for v in seen):
            raise DataError("a chart cannot show a value that is NaN or infinite")
        low, high = min(seen), max(seen)
        room = 0.06 * (high - low) or 1.0
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        """Where ``value`` lies, in pixels."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, most: int) -> list[float]:
        """At most ``most`` + 1 round values (multiples of 1, 2 or 5 times a power of ten)."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(i * step, 12) for i in range(first, last + 1)]


def decimals(width: float) -> int:
    """Decimal places that show an interval of this width with about two of its digits."""
    return 2 if width == 0 or width >= 0.05 else 3 if width >= 0.005 else 4


def number(value: float, places: int = 2, plus: bool = False) -> str:
    """``value`` with a true minus sign, no negative zero and, if asked, a plus sign."""
    text = f"{abs(value):.{places}f}"
    if not any(c in "123456789" for c in text):
        return text
    return ("\u2212" if value < 0 else "+" if plus else "") + text


def spell(value: float, low: float, high: float) -> str:
    """A value and its interval in words for the eye: ``+0.67 [0.63, 0.72]``."""
    places = decimals(high - low)
    return f"{number(value, places, True)} [{number(low, places)}, {number(high, places)}]"


def heat(value: float, limit: float) -> tuple[str, float]:
    """Colour of a heat-map cell: its side (``pos``, ``neg``) and opacity, 0 at zero, 1 at limit."""
    strength = min(1.0, abs(value) / limit) if limit > 0 else 0.0
    return ("neg" if value < 0 else "pos"), round(strength, 3)


def bar(share: float, title: str) -> Markup:
    """A bar filled from the left by ``share`` of its width, which follows its container."""
    filled = round(100 * min(1.0, max(0.0, share)), 2)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" role="img">'
        '<title>{}</title><rect class="track" width="100" height="6"/>'
        '<rect class="fill" width="{}" height="6"/></svg>'
    ).format(title, filled)


def forest(title: str, marks: Sequence[Mark], axis: str, width: int = WIDE) -> Markup:
    """Dots with intervals, one row for each mark, against a line at zero.

    Raises:
        DataError: a number is not finite, or an interval ends before it starts.
    """
    for m in marks:
        if m.low > m.high:
            raise DataError(f"interval of {m.label!r} ends before it starts: {m.low} > {m.high}")
    frame = _Frame.of(width, label=236, value=160)
    scale = Scale.around([v for m in marks for v in (m.value, m.low, m.high)], *frame.plot)
    parts, spans, y = [], [], 6.0
    for m in marks:
        text = spell(m.value, m.low, m.high)
        head, centre, bottom = frame.row(m.label, text, y, 20, m.own)
        kind = "own" if m.own else "control"
        ends = f'x1="{scale(m.low)}" x2="{scale(m.high)}" y1="{centre}" y2="{centre}"'
        caps = "".join(
            _line("cap", scale(v), centre - 4, scale(v), centre + 4) for v in (m.low, m.high)
        )
        dot = f'<circle cx="{scale(m.value)}" cy="{centre}" r="{6 if m.own else 4.5}"/>'
        tip = escape(f"{m.label}: {text}")
        parts.append(
            f'{head}<g class="mark {kind}"><title>{tip}</title><line {ends}/>{caps}{dot}</g>'
        )
        spans.append((centre - 14, centre + 14))
        y = bottom
    ground, height = _axis(scale, spans if frame.stacked else [(2, y)], y, axis, width)
    words = "; ".join(f"{m.label} {spell(m.value, m.low, m.high)}" for m in marks)
    return _svg("forest", f"{title}. {words}.", width, height, ground + "".join(parts))


def strip(
    title: str,
    groups: Sequence[tuple[str, Sequence[tuple[str, float]]]],
    axis: str,
    width: int = WIDE,
) -> Markup:
    """One row of dots for each group, with a tick at its mean, against a line at zero.

    ``groups`` holds ``(label, [(name of the dot, value), ...])``; no group may be empty.
    """
    frame = _Frame.of(width, label=120, value=150)
    scale = Scale.around([v for _, dots in groups for _, v in dots], *frame.plot)
    parts, spans, y, words = [], [], 6.0, []
    for label, dots in groups:
        mean = math.fsum(v for _, v in dots) / len(dots)
        above = sum(v > 0 for _, v in dots)
        text = f"{number(mean, 2, True)} · {above} of {len(dots)} above 0"
        head, centre, bottom = frame.row(label, text, y, 36, False)
        spans.append((centre - 20, centre + 20))
        y = bottom
        xs = [scale(v) for _, v in dots]
        drawn = "".join(
            f'<circle cx="{x}" cy="{centre + dy}" r="4"><title>{escape(name)}: '
            f"{number(v, 2, True)}</title></circle>"
            for (name, v), x, dy in zip(dots, xs, _spread(xs), strict=True)
        )
        middle = _line("mean", scale(mean), centre - 16, scale(mean), centre + 16)
        parts.append(f'{head}<g class="dots">{drawn}{middle}</g>')
        words.append(f"{label} mean {text}")
    ground, height = _axis(scale, spans if frame.stacked else [(2, y)], y, axis, width)
    return _svg("strip", f"{title}. {'; '.join(words)}.", width, height, ground + "".join(parts))


def curve(title: str, points: Sequence[CurvePoint], axis: str, width: int = WIDE) -> Markup:
    """The contrast by training step: a line through dots, with a band of intervals."""
    left, right, top, bottom = 48.0, width - 34.0, 30.0, 226.0
    ends = [v for p in points for v in (p.contrast.value, p.contrast.low, p.contrast.high)]
    ys = Scale.around(ends, bottom, top)
    xs = Scale(0, max(max(p.step for p in points), 1), left, right)
    ground = [f'<text class="tick" x="0" y="14">{escape(axis)}</text>']
    for tick in ys.ticks(5):
        y = ys(tick)
        ground.append(_line("zero" if tick == 0 else "grid", left, y, right, y))
        ground.append(f'<text class="tick end" x="{left - 8}" y="{y + 4}">{_tick(tick)}</text>')
    low = [f"{xs(p.step)},{ys(p.contrast.low)}" for p in points]
    high = [f"{xs(p.step)},{ys(p.contrast.high)}" for p in reversed(points)]
    path = " ".join(f"{xs(p.step)},{ys(p.contrast.value)}" for p in points)
    body = f'<polygon class="band" points="{" ".join(low + high)}"/><polyline points="{path}"/>'
    for p in points:
        x, c = xs(p.step), p.contrast
        tip = f"step {p.step:,}: {spell(c.value, c.low, c.high)}"
        body += f"<g><title>{escape(tip)}</title>{_line('whisker', x, ys(c.low), x, ys(c.high))}"
        body += f'<circle cx="{x}" cy="{ys(c.value)}" r="5"/></g>'
    for p in _apart(points, xs, 66):
        x = xs(p.step)
        ground.append(f'<text class="tick mid" x="{x}" y="{bottom + 20}">{p.step:,}</text>')
        ground.append(
            f'<text class="tick mid faint" x="{x}" y="{bottom + 36}">{p.rows_seen:,}</text>'
        )
    ground.append(f'<text class="tick" x="0" y="{bottom + 20}">step</text>')
    ground.append(f'<text class="tick faint" x="0" y="{bottom + 36}">rows</text>')
    drawn = "".join(ground) + f'<g class="series">{body}</g>'
    words = "; ".join(
        f"step {p.step} {spell(p.contrast.value, p.contrast.low, p.contrast.high)}" for p in points
    )
    return _svg("curve", f"{title}. {words}.", width, bottom + 44, drawn)


def front(
    title: str, points: Sequence[tuple[str, float, float]], axes: tuple[str, str], width: int = WIDE
) -> Markup:
    """Numbered dots (label, x, y); those that no other beats in both are marked, smaller x and
    larger y being better."""
    left, right, top, bottom = 48.0, width - 20.0, 30.0, 286.0
    xs = Scale.around([1.0, *(x for _, x, _ in points)], left, right)
    ys = Scale.around([1.0, *(y for _, _, y in points)], bottom, top)
    ground = [f'<text class="tick" x="0" y="14">{escape(axes[1])}</text>']
    for tick in ys.ticks(5):
        ground.append(_line("zero" if tick == 0 else "grid", left, ys(tick), right, ys(tick)))
        ground.append(
            f'<text class="tick end" x="{left - 8}" y="{ys(tick) + 4}">{_tick(tick)}</text>'
        )
    across, height = _axis(xs, [(top, bottom)], bottom, axes[0], width)
    body, words = [], []
    for place, (label, x, y) in enumerate(points, 1):
        best = not any((a <= x and b >= y) and (a, b) != (x, y) for _, a, b in points)
        tip = f"{place}. {label}: {number(x)}, {number(y)}"
        body.append(
            f'<g class="mark {"own" if best else "control"}"><title>{escape(tip)}</title>'
            f'<circle cx="{xs(x)}" cy="{ys(y)}" r="{6 if best else 4.5}"/></g>'
            f'<text class="tick{" strong" if best else ""}" x="{xs(x) + 9}" y="{ys(y) + 4}">'
            f"{place}</text>"
        )
        words.append(tip)
    drawn = "".join(ground) + across + "".join(body)
    return _svg("front", f"{title}. {'; '.join(words)}.", width, height, drawn)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a row's label, strip and value go: side by side, or the text above on a phone."""

    width: int
    label: int  # width of the label's column; 0 when it stands above its strip
    plot: tuple[float, float]

    @property
    def stacked(self) -> bool:
        return self.label == 0

    @classmethod
    def of(cls, width: int, label: int, value: int) -> _Frame:
        if width < 500:
            return cls(width, 0, (10.0, width - 10.0))
        return cls(width, label, (label + 8.0, float(width - value)))

    def row(
        self, label: str, value: str, top: float, tall: float, strong: bool
    ) -> tuple[str, float, float]:
        """Text of one row. Returns its markup, the strip's centre line and the row's bottom."""
        room = int((self.label or self.width) / (1.12 * CHAR if strong else CHAR))
        lines = textwrap.wrap(label, room) or [""]
        weight = " strong" if strong else ""
        if self.label:
            height = max(len(lines) * LINE, tall) + 12
            centre = top + height / 2
            first = centre - (len(lines) - 1) * LINE / 2 + 4.5
            place = f'class="value{weight}" x="{self.plot[1] + 14}" y="{centre + 4.5}"'
        else:
            shared = len(lines[-1]) + len(value) + 2 <= room
            first = top + 14
            last = first + (len(lines) - (1 if shared else 0)) * LINE
            centre = last + 8 + tall / 2
            height = centre + tall / 2 + 8 - top
            place = f'class="value end{weight}" x="{self.width}" y="{last}"'
        texts = "".join(
            f'<text class="label{weight}" x="0" y="{first + i * LINE}">{escape(line)}</text>'
            for i, line in enumerate(lines)
        )
        return f"{texts}<text {place}>{escape(value)}</text>", centre, top + height


def _axis(
    scale: Scale, spans: Sequence[tuple[float, float]], bottom: float, label: str, width: int
) -> tuple[str, float]:
    """Grid and zero line through every span of rows, tick labels below; and the full height."""
    parts = []
    for tick in scale.ticks(6 if width >= 500 else 4):
        x, kind = scale(tick), "zero" if tick == 0 else "grid"
        parts.extend(_line(kind, x, top, x, end) for top, end in spans)
        parts.append(f'<text class="tick mid" x="{x}" y="{bottom + 16}">{_tick(tick)}</text>')
    middle = (scale.start + scale.end) / 2
    parts.append(
        f'<text class="tick mid faint" x="{middle}" y="{bottom + 35}">{escape(label)}</text>'
    )
    return "".join(parts), bottom + 42


def _spread(xs: Sequence[float]) -> list[float]:
    """Vertical offsets that keep neighbouring dots apart, in the order of ``xs``."""
    lanes = {0.0: -1e9, -7.0: -1e9, 7.0: -1e9, -14.0: -1e9, 14.0: -1e9}
    offsets = [0.0] * len(xs)
    for i in sorted(range(len(xs)), key=lambda j: xs[j]):
        lane = next(
            (k for k, last in lanes.items() if xs[i] - last >= 8), min(lanes, key=lanes.__getitem__)
        )
        offsets[i] = lane
        lanes[lane] = xs[i]
    return offsets


def _apart(points: Sequence[CurvePoint], xs: Scale, gap: float) -> list[CurvePoint]:
    """Points whose tick labels fit side by side; the last one is always among them."""
    kept = [points[-1]]
    for p in reversed(points[:-1]):
        if xs(kept[-1].step) - xs(p.step) >= gap:
            kept.append(p)
    return kept[::-1]


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "\u2212")


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _svg(kind: str, title: str, width: int, height: float, body: str) -> Markup:
    head = f'<svg class="chart {kind}" viewBox="0 0 {width} {height:g}" width="{width}" '
    return Markup(
        f'{head}height="{height:g}" role="img"><title>{escape(title)}</title>{body}</svg>'
    )
