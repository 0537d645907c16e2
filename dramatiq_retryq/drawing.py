"""Pictures of numbers: as text for a terminal, as SVG for a page. Values in, text out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from .outage import Load, Outage
from .time_words import spoken

__all__ = ["ASCII_BLOCKS", "BLOCKS", "axis", "bars", "by_column", "columns", "horizon", "scale", "svg", "ticks"]

#: From nothing to full, for a character's height.
BLOCKS = " ▁▂▃▄▅▆▇█"
#: The same where the output knows no others.
ASCII_BLOCKS = " .:-=+*%#"

_TICKS = [
    *(1_000 * s for s in (1, 2, 5, 10, 15, 30)),
    *(60_000 * m for m in (1, 2, 5, 10, 15, 30)),
    *(3_600_000 * h for h in (1, 2, 3, 6, 12)),
    *(86_400_000 * d for d in (1, 2, 7, 14, 30, 90, 180, 365)),
]


def columns(values: Sequence[float], *, height: int, greatest: float, blocks: str = BLOCKS) -> list[str]:
    """A chart of one column a value, as ``height`` lines from the top down.

    Args:
        values: not negative. One that is more than nothing is seen, however little it is.
        height: in lines.
        greatest: what fills the whole height; so that several charts can share a scale.
        blocks: the characters, from nothing to full.
    """
    steps = len(blocks) - 1
    full = height * steps
    levels = [0 if value <= 0 else max(1, min(full, round(value / greatest * full))) for value in values]
    return [
        "".join(blocks[max(0, min(steps, level - line * steps))] for level in levels)
        for line in range(height - 1, -1, -1)
    ]


def bars(
    ranges: Sequence[tuple[float, float, float]], *, width: int, ascii_only: bool = False
) -> tuple[list[str], str]:
    """A line for each (least, mean, greatest), drawn on one logarithmic scale, and the axis below them.

    Args:
        ranges: durations in ms.
        width: in characters.
        ascii_only: draw with what any terminal has.
    """
    line, mark = ("-", "o") if ascii_only else ("━", "●")
    positive = [value for span in ranges for value in span if value >= 1]
    low = math.log10(min(positive, default=1))
    high = math.log10(max(positive, default=10))
    if high - low < 0.3:  # all the same: in the middle
        low, high = low - 0.5, high + 0.5

    def place(value: float) -> int:
        share = (math.log10(max(value, 1)) - low) / (high - low)
        return max(0, min(width - 1, round(share * (width - 1))))

    lines = []
    for least, mean, greatest in ranges:
        first, middle, last = place(least), place(mean), place(greatest)
        drawn = [" "] * width
        drawn[first : last + 1] = [line] * (last - first + 1)
        drawn[middle] = mark
        lines.append("".join(drawn))
    marks = [
        (place(tick), spoken(tick))
        for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, *_TICKS)
        if low <= math.log10(tick) <= high
    ]
    return lines, _labelled(marks, width)


def ticks(greatest: int, most: int = 6) -> list[int]:
    """Round instants from 0 to ``greatest`` (ms), at most about so many."""
    for step in _TICKS:
        if greatest / step <= most:
            return list(range(0, greatest + 1, step))
    step = _TICKS[-1] * math.ceil(greatest / _TICKS[-1] / most)
    return list(range(0, greatest + 1, step))


def axis(greatest: int, *, width: int) -> str:
    """The axis of time below a chart that goes from 0 to ``greatest`` (ms)."""
    return _labelled([(round(tick / greatest * (width - 1)), spoken(tick)) for tick in ticks(greatest)], width)


def _labelled(marks: Sequence[tuple[int, str]], width: int) -> str:
    drawn, free = [" "] * width, 0
    for place, label in marks:
        start = max(0, min(width - len(label), place - len(label) // 2))
        if start >= free:
            drawn[start : start + len(label)] = label
            free = start + len(label) + 1
    return "".join(drawn).rstrip()


def by_column(retries: Mapping[int, int], *, seconds: float, width: int) -> list[int]:
    """The busiest second of each column: what a burst is must not be averaged away."""
    found = [0] * width
    for second, count in retries.items():
        place = min(width - 1, int(second / seconds * width))
        found[place] = max(found[place], count)
    return found


# -- SVG -------------------------------------------------------------------------------------------------------------

_WIDTH, _LEFT, _RIGHT, _TOP, _PANEL, _GAP = 960, 262, 24, 84, 92, 22

_STYLE = """
  svg { color-scheme: light dark; }
  text { font: 13px system-ui, sans-serif; fill: #1f2933; }
  .title { font-size: 17px; font-weight: 600; }
  .name { font-size: 14px; font-weight: 600; }
  .quiet { fill: #52606d; font-size: 12px; }
  .page { fill: #ffffff; }
  .down { fill: #fbe3e4; }
  .load { fill: #2b6cb0; }
  .line { stroke: #9aa5b1; stroke-width: 1; }
  .bad { fill: #b42318; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e4e7eb; }
    .quiet { fill: #9aa5b1; }
    .page { fill: #14181d; }
    .down { fill: #3d2226; }
    .load { fill: #63b3ed; }
    .line { stroke: #52606d; }
    .bad { fill: #f97066; }
  }
"""


def svg(outage: Outage, loads: Sequence[Load], *, title: str) -> str:
    """One panel a policy, all on one scale: retries in the busiest second of each column, over time."""
    seconds = horizon(outage, loads)
    greatest = scale(loads)
    plot = _WIDTH - _LEFT - _RIGHT
    height = _TOP + len(loads) * (_PANEL + _GAP) + 34
    down = min(1.0, outage.duration / 1_000 / seconds) * plot
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'role="img" aria-labelledby="title description">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">{escape("; ".join(_in_words(load) for load in loads))}</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="24" y="34">{escape(title)}</text>',
        f'<text class="quiet" x="24" y="56">Retries in the busiest second, by time; all on one scale, cut off at '
        f"{greatest:,}. Shaded: the dependency is down.</text>",
    ]
    for number, load in enumerate(loads):
        top = _TOP + number * (_PANEL + _GAP)
        bottom = top + _PANEL
        out += [
            f'<rect class="down" x="{_LEFT}" y="{top}" width="{down:.1f}" height="{_PANEL}"/>',
            f'<path class="load" d="{_steps(load, seconds, greatest, plot, bottom)}"/>',
            f'<line class="line" x1="{_LEFT}" y1="{bottom}" x2="{_WIDTH - _RIGHT}" y2="{bottom}"/>',
            f'<text class="name" x="24" y="{top + 18}">{escape(load.name)}</text>',
            f'<text class="quiet" x="24" y="{top + 38}">{load.in_vain:,} attempts in vain</text>',
            f'<text class="quiet" x="24" y="{top + 55}">{load.busiest:,} in a second, later '
            f"{load.busiest_later:,}</text>",
            f'<text class="quiet{" bad" if load.dead else ""}" x="24" y="{top + 72}">{escape(_fate(load))}</text>',
        ]
    bottom = _TOP + len(loads) * (_PANEL + _GAP) - _GAP
    for tick in ticks(round(seconds * 1_000), 9):
        x = _LEFT + tick / 1_000 / seconds * plot
        out.append(f'<text class="quiet" x="{x:.1f}" y="{bottom + 22}" text-anchor="middle">{spoken(tick)}</text>')
        out.append(f'<line class="line" x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 5}"/>')
    return "\n".join([*out, "</svg>", ""])


def scale(loads: Sequence[Load]) -> int:
    """What fills the height of a picture of these: the busiest second once the first short delays are over.

    The first seconds of an outage are alike under every policy, and by their scale the rest would be a flat line: what
    is taller is cut off.
    """
    return max((load.busiest_later or load.busiest for load in loads), default=0) or 1


def horizon(outage: Outage, loads: Sequence[Load]) -> float:
    """How many seconds a picture shows: the whole outage, and all that came after it."""
    last = max((second + 1 for load in loads for second in load.retries), default=0)
    return max(last, outage.duration / 1_000 * 1.05)


def _steps(load: Load, seconds: float, greatest: int, plot: int, bottom: int) -> str:
    values = by_column(load.retries, seconds=seconds, width=plot // 2)
    parts = [f"M{_LEFT},{bottom}"]
    for place, value in enumerate(values):
        # Never quite nothing where there is something.
        y = bottom - (max(1.0, min(1.0, value / greatest) * _PANEL) if value else 0)
        parts.append(f"L{_LEFT + 2 * place},{y:.1f}h2")
    return "".join([*parts, f"L{_LEFT + 2 * len(values)},{bottom}Z"])


def _fate(load: Load) -> str:
    if load.done_last is None:
        return f"{load.dead:,} dead" if load.dead else "no message met it"
    after = f"{spoken(load.done_last)} after its end"
    return f"{load.dead:,} dead, rest {after}" if load.dead else f"all done {after}"


def _in_words(load: Load) -> str:
    return f"{load.name}: {load.in_vain:,} attempts in vain, {load.busiest:,} in the busiest second, {_fate(load)}"
