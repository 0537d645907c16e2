"""Bars over time, drawn here as SVG: what an hour and a day looked like at a glance.

The drawing has no text in it. It is stretched to the width there is, and letters would be stretched with it: the labels
are HTML around it, and the figures are in a table below, for those who do not see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from markupsafe import Markup, escape

from .text import clock_time, number

__all__ = ["Chart", "Slot", "chart", "slots", "strip"]

_MINUTE = 60_000
#: The units of a drawing: a slot is so wide, and the highest bar so high.
_SLOT, _HEIGHT = 10, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What happened in one stretch of time."""

    at: int
    until: int
    succeeded: int
    retried: int
    died: int

    @property
    def title(self) -> str:
        return (
            f"{clock_time(self.at)} to {clock_time(self.until)}: {number(self.succeeded)} succeeded, "
            f"{number(self.retried)} retried, {number(self.died)} died"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One of a chart's drawings, with a scale of its own: a handful of failures is not to vanish below successes."""

    label: str
    highest: int
    svg: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What the template ``chart`` macro shows."""

    id: str
    title: str
    step: str
    slots: Sequence[Slot]
    plots: Sequence[Plot]
    marks: Sequence[str]
    rows: Sequence[Slot]

    @property
    def succeeded(self) -> int:
        return sum(slot.succeeded for slot in self.slots)

    @property
    def retried(self) -> int:
        return sum(slot.retried for slot in self.slots)

    @property
    def died(self) -> int:
        return sum(slot.died for slot in self.slots)


def slots(happened: Iterable[tuple[int, int, int, int]], *, now: int, count: int, step: timedelta) -> list[Slot]:
    """What happened put together to ``count`` slots of ``step`` each, of which the last holds ``now``.

    Args:
        happened: an instant, and how many succeeded, were retried and died then.
        now: the present instant.
        count: how many slots.
        step: how long each is.
    """
    size = step // timedelta(milliseconds=1)
    start = (now // size + 1 - count) * size
    sums = [[0, 0, 0] for _ in range(count)]
    for at, succeeded, retried, died in happened:
        place = (at - start) // size
        if 0 <= place < count:
            found = sums[place]
            found[0] += succeeded
            found[1] += retried
            found[2] += died
    return [
        Slot(at=start + n * size, until=start + (n + 1) * size, succeeded=found[0], retried=found[1], died=found[2])
        for n, found in enumerate(sums)
    ]


def chart(name: str, title: str, step: str, found: Sequence[Slot], *, rows_of: int, marks: Sequence[str]) -> Chart:
    """A chart of two drawings: what succeeded, and below it what was retried and what died.

    Args:
        name: the id of its element.
        title: what it is called.
        step: how long a slot is, in words.
        found: the slots, oldest first.
        rows_of: how many slots make one row of the table.
        marks: what stands below it, from left to right.
    """
    titles = [slot.title for slot in found]
    succeeded = [slot.succeeded for slot in found]
    retried = [slot.retried for slot in found]
    died = [slot.died for slot in found]
    failed = [a + b for a, b in zip(retried, died, strict=True)]
    return Chart(
        id=name,
        title=title,
        step=step,
        slots=found,
        plots=(
            Plot(label="succeeded", highest=max(succeeded), svg=_bars([("ok", succeeded)], titles)),
            Plot(label="retried and died", highest=max(failed), svg=_bars([("bad", died), ("warn", retried)], titles)),
        ),
        marks=marks,
        rows=[_sum(found[n : n + rows_of]) for n in range(0, len(found), rows_of)][::-1],
    )


def _sum(found: Sequence[Slot]) -> Slot:
    return Slot(
        at=found[0].at,
        until=found[-1].until,
        succeeded=sum(slot.succeeded for slot in found),
        retried=sum(slot.retried for slot in found),
        died=sum(slot.died for slot in found),
    )


def _bars(series: Sequence[tuple[str, Sequence[int]]], titles: Sequence[str]) -> Markup:
    """Bars, the first series at the bottom. One path a series: a day has three hundred of them."""
    highest = max((sum(values) for values in zip(*(values for _, values in series), strict=True)), default=0)
    below = [0.0] * len(titles)
    paths = []
    for name, values in series:
        steps = []
        for n, value in enumerate(values):
            if value <= 0:
                continue
            # At least two units: one death among ten thousand retries is what is looked for.
            height = max(2.0, value / highest * _HEIGHT)
            top = _HEIGHT - below[n] - height
            below[n] += height
            steps.append(f"M{n * _SLOT + 1} {top:.1f}h{_SLOT - 2}v{height:.1f}h-{_SLOT - 2}z")
        paths.append(f'<path class="{name}" d="{"".join(steps)}"/>')
    # What is pointed at says its figures.
    paths += [
        f'<rect class="slot" x="{n * _SLOT}" y="0" width="{_SLOT}" height="{_HEIGHT}"><title>{escape(title)}</title>'
        "</rect>"
        for n, title in enumerate(titles)
    ]
    return Markup(
        f'<svg class="bars" viewBox="0 0 {len(titles) * _SLOT} {_HEIGHT}" preserveAspectRatio="none" '
        f'aria-hidden="true" focusable="false">{"".join(paths)}</svg>'
    )


def strip(attempts: Sequence[tuple[int, int, str]], *, start: int, end: int, last: str) -> Markup:
    """The attempts of one message on a line from ``start`` to ``end``.

    Args:
        attempts: of each its instant, its duration and what it is called.
        start: the left end, in ms since the epoch.
        end: the right end.
        last: what stands at the right end: ``dead``, ``due``, ``claimed`` or ``now``.
    """
    width, height = 1000, 24
    span = max(1, end - start)
    marks = []
    for at, lasted, title in attempts:
        # Cut before they are divided: they are what a message says, and may be too great for a float.
        x = min(max(at - start, 0), span) / span * (width - 12)
        length = min(max(min(max(lasted, 0), span) / span * (width - 12), 6.0), width - x)
        marks.append(
            f'<rect class="attempt" x="{x:.1f}" y="4" width="{length:.1f}" height="16"><title>{escape(title)}</title>'
            "</rect>"
        )
    marks.append(f'<rect class="end {escape(last)}" x="{width - 5}" y="0" width="5" height="{height}"/>')
    return Markup(
        f'<svg class="strip" viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true" '
        f'focusable="false"><rect class="line" x="0" y="11" width="{width}" height="2"/>{"".join(marks)}</svg>'
    )


def marks_of_day(now: int) -> list[str]:
    """What stands below the chart of a day."""
    return [*(clock_time(now - hours * 3_600_000) for hours in (24, 18, 12, 6)), "now"]
