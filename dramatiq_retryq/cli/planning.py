"""``retryq plan``: what a policy leads to, before anything fails."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import click
from click.core import ParameterSource

from dramatiq_retryq.backoff import JITTERS, Backoff, Jitter, Preview
from dramatiq_retryq.drawing import ASCII_BLOCKS, BLOCKS, axis, bars, by_column, columns, horizon, scale, svg
from dramatiq_retryq.errors import RetryQueueError
from dramatiq_retryq.naming import ImportFailed, named_actor
from dramatiq_retryq.outage import Load, Outage, retries_needed, simulate
from dramatiq_retryq.policy import Settings
from dramatiq_retryq.schedule import Schedule, schedules, settings_of
from dramatiq_retryq.time_words import spoken

from .app import DURATION, ExitCode, beside_output, fail, format_option
from .output import Column, Format, listing, note, one_line, table, write_json

__all__ = ["plan"]

_POLICY = ("min_backoff", "max_backoff", "factor", "jitter", "max_retries")


@click.command()
@click.argument("actor", required=False)
@click.option(
    "--path", "-P", default=".", show_default=True, metavar="DIR", help="Where the module is looked for first."
)
@click.option(
    "--min-backoff",
    type=DURATION,
    default="100ms",
    show_default=True,
    metavar="DURATION",
    help="The delay to begin with, without an ACTOR.",
)
@click.option(
    "--max-backoff",
    type=DURATION,
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="No delay is longer, without an ACTOR.",
)
@click.option(
    "--factor",
    type=float,
    default=2.0,
    show_default=True,
    metavar="N",
    help="By which each delay grows, without an ACTOR.",
)
@click.option(
    "--jitter",
    type=click.Choice(JITTERS),
    multiple=True,
    help="How delays are spread, without an ACTOR; with --outage the ones to compare, once for each. "
    "[default: additive; with --outage all]",
)
@click.option("--max-retries", type=click.IntRange(min=0), metavar="N", help="In place of the actor's. [default: 20]")
@click.option("--outage", type=DURATION, metavar="DURATION", help="Simulate a dependency that is down for so long.")
@click.option(
    "--messages",
    type=click.IntRange(1, 10_000_000),
    default=10_000,
    show_default=True,
    metavar="N",
    help="How many meet it.",
)
@click.option(
    "--over",
    type=DURATION,
    default="0",
    metavar="DURATION",
    help="They are sent evenly over this time. [default: at once]",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="The dice; the same number gives the same picture."
)
@click.option(
    "--svg",
    "svg_file",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Draw --outage as SVG, too.",
)
@format_option
@click.pass_context
def plan(ctx: click.Context, /, actor: str | None, path: str, outage: int | None, format: Format, **given: Any) -> None:
    """When retries come, and what a dependency that is down meets.

    With ACTOR, as in app:deliver, the schedule of its retries: by retry the least, mean and greatest delay, the running
    total, and when it dies. Without, that of the options.

    With --outage a simulation: every attempt fails until the dependency is back. Jitters side by side, with the numbers
    of the actor or of the options.

    \b
    Examples: retryq plan app:deliver
              retryq plan --min-backoff 1s --max-backoff 1h --jitter full --max-retries 10
              retryq plan --outage 10m --messages 10000 --max-retries 40 --svg outage.svg
              retryq plan app:deliver --outage 1h --over 1h
    """
    chosen = {name for name in _POLICY if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
    if outage is None:
        for name in ("messages", "over", "svg_file"):
            if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
                raise click.UsageError(f"--{name.partition('_')[0]} goes with --outage.")
        if len(given["jitter"]) > 1:
            raise click.UsageError("Several --jitter go with --outage.")
    if actor is not None:
        bends = sorted(chosen - {"max_retries", *(["jitter"] if outage is not None else [])})
        if bends:
            raise click.UsageError(f"--{bends[0].replace('_', '-')} goes without an ACTOR, whose own options count.")
    meant = _meant(actor, path, given)
    if outage is None:
        _write_schedules(meant, format, given["seed"])
    else:
        simulated = Outage(duration=outage, messages=given["messages"], over=given["over"])
        _write_loads(meant, simulated, given, format)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meant:
    """What is planned for: an actor's settings, or those of the options."""

    name: str
    settings: Settings
    is_actor: bool


def _meant(actor: str | None, path: str, given: Mapping[str, Any]) -> _Meant:
    if actor is None:
        jitter: Jitter = given["jitter"][0] if given["jitter"] else "additive"
        backoff = Backoff(given["min_backoff"], given["max_backoff"], given["factor"], jitter)
        retries = 20 if given["max_retries"] is None else given["max_retries"]
        return _Meant(name="the options", settings=Settings(policy=backoff, max_retries=retries), is_actor=False)
    try:
        with beside_output():
            found = named_actor(actor, path=path)
    except ImportFailed as error:
        fail(str(error), ExitCode.UNAVAILABLE)
    except RetryQueueError as error:
        fail(str(error), ExitCode.UNAVAILABLE)
    settings = settings_of(found)
    if given["max_retries"] is not None:
        settings = replace(settings, max_retries=given["max_retries"], retry_when=None)
    return _Meant(name=f"actor {found.actor_name}", settings=settings, is_actor=True)


# -- The schedule ----------------------------------------------------------------------------------------------------


def _write_schedules(meant: _Meant, format: Format, seed: int) -> None:
    found = schedules(meant.settings, seed=seed)
    if format == "json":
        write_json([{**asdict(schedule), "rows": [asdict(row) for row in schedule.rows]} for schedule in found])
        return
    if format != "table":
        rows = [(schedule, row) for schedule in found for row in schedule.rows]
        listing(rows, _ROWS, format, empty="There is no retry.")
        return
    for number, schedule in enumerate(found):
        if number:
            click.echo()
        of = (
            ""
            if len(found) == 1
            else f" after {schedule.error}"
            if schedule.error != "Exception"
            else " after any other error"
        )
        whose = f"of {one_line(meant.name)}" if meant.is_actor else "with these options"
        click.echo(f"Retries {whose}{of}")
        _write_schedule(schedule)


def _write_schedule(schedule: Schedule) -> None:
    rows = schedule.rows
    if rows:
        # Beside the table where there is room, else below it.
        room = _terminal_width() - _TABLE_WIDTH
        ranges = [(row.least, row.mean, row.greatest) for row in rows]
        drawn, axis_above = bars(ranges, width=min(40, room if room >= 20 else 72), ascii_only=not _is_unicode())
        picture: Column[tuple[Schedule, Preview]] = Column(
            name="picture", value=lambda x: drawn[x[1].retry], header=axis_above
        )
        beside = [picture] if room >= 20 else []
        table([(schedule, row) for row in rows], [*_ROWS, *beside])
        click.echo()
        if not beside:
            click.echo("\n".join([f"     {axis_above}", *(f"{n:4} {line}" for n, line in enumerate(drawn, 1)), ""]))
    click.echo(_ending(schedule))
    if schedule.problem:
        note(schedule.problem)


def _ending(schedule: Schedule) -> str:
    rows, parts = schedule.rows, []
    if not rows:
        return f"No retry: the first failure is the end ({schedule.dies})." if schedule.dies else "No retry."
    last = rows[-1]
    span = _span(last.total_least, last.total_greatest)
    average = "" if " to " not in span else f", {spoken(last.total_mean)} on average"
    age = spoken(schedule.max_age or 0)
    if schedule.asks:
        parts.append("As long as its retry_when says yes.")
    if schedule.dies == "expired":
        parts.append(f"Dead (expired) after {len(rows) + 1} attempts at the most: none is made at an age of {age}.")
    elif schedule.dies is not None:
        parts.append(f"Dead ({schedule.dies}) when attempt {len(rows) + 1} fails, {span} after the first{average}.")
        if schedule.may_expire:
            parts.append(f"By then it may be {age} old, and dead before (expired).")
    else:
        parts.append(f"And so on without an end; these {len(rows)} take {span}{average}.")
    parts.append("What the attempts themselves take comes on top.")
    if not schedule.is_exact:
        parts.append("The bounds are those of a sample.")
    return " ".join(parts)


def _span(least: float, greatest: float) -> str:
    low, high = spoken(least), spoken(greatest)
    return low if low == high else f"{low} to {high}"


_ROWS: list[Column[tuple[Schedule, Preview]]] = [
    Column(name="error", value=lambda x: x[0].error),
    Column(name="retry", value=lambda x: x[1].retry + 1, header="retry", right=True),
    *(
        Column(
            name=name,
            value=lambda x, name=name: round(getattr(x[1], name)),  # type: ignore[misc]
            header=header,
            cell=lambda x, name=name: spoken(getattr(x[1], name)),  # type: ignore[misc]
            right=True,
        )
        for name, header in (
            ("least", "least"),
            ("mean", "mean"),
            ("greatest", "greatest"),
            ("total_least", "total: least"),
            ("total_mean", "mean"),
            ("total_greatest", "greatest"),
        )
    ),
]


# -- The outage ------------------------------------------------------------------------------------------------------


def _write_loads(meant: _Meant, outage: Outage, given: Mapping[str, Any], format: Format) -> None:
    policies = _policies(meant, given["jitter"])
    loads = simulate(outage, policies, seed=given["seed"])
    how = f"sent over {spoken(outage.over)}" if outage.over else "sent at once"
    title = f"A dependency is down for {spoken(outage.duration)}: {outage.messages:,} messages, {how}"
    if given["svg_file"] is not None:
        # Opened here and not by click, which would empty the file before anything was simulated.
        with open(given["svg_file"], "w", encoding="utf-8") as file:
            file.write(svg(outage, loads, title=title))
    if format != "table":
        listing(loads, [*_LOADS, _SECONDS] if format != "csv" else _LOADS, format)
        return
    click.echo(f"{title}.")
    click.echo(f"Retries in the busiest second, over time; cut off at {scale(loads):,} a second.\n")
    _draw(outage, loads)
    click.echo()
    table(loads, _LOADS)
    click.echo()
    _advise(outage, policies, loads)
    if given["svg_file"] is not None:
        note(f"Drawn as {given['svg_file']}.")


def _policies(meant: _Meant, jitters: tuple[Any, ...]) -> dict[str, Settings]:
    """The jitters side by side, on the actor's numbers; a policy that has no jitter stands beside them as it is."""
    own = meant.settings.policy
    base = own if isinstance(own, Backoff) else Backoff()
    found = {} if isinstance(own, Backoff) else {meant.name: meant.settings}
    for jitter in jitters or JITTERS:
        name = f"{jitter} *" if meant.is_actor and own == replace(base, jitter=jitter) else jitter
        found[name] = replace(meant.settings, policy=replace(base, jitter=jitter))
    return found


def _draw(outage: Outage, loads: list[Load]) -> None:
    width, seconds, greatest = _width(), horizon(outage, loads), scale(loads)
    blocks = BLOCKS if _is_unicode() else ASCII_BLOCKS
    for load in loads:
        chart = columns(
            by_column(load.retries, seconds=seconds, width=width), height=3, greatest=greatest, blocks=blocks
        )
        for number, line in enumerate(chart):
            label = load.name if number == 1 else ""
            click.echo(f"{one_line(label)[:_LABEL]:<{_LABEL}} {line}".rstrip())
        click.echo(f"{'':<{_LABEL}} {('─' if _is_unicode() else '-') * width}")
    click.echo(f"{'':<{_LABEL}} {axis(round(seconds * 1_000), width=width)}")


def _advise(outage: Outage, policies: Mapping[str, Settings], loads: list[Load]) -> None:
    if any("*" in load.name for load in loads):
        click.echo("* the actor's own.")
    if any(load.simulated < outage.messages for load in loads):
        click.echo("Where there are many attempts, a sample of the messages stands for all.")
    for load in loads:
        policy = policies[load.name].policy
        if load.dead and isinstance(policy, Backoff) and policies[load.name].max_retries is not None:
            needed = retries_needed(outage, policy)
            enough = f"on average {needed:,} retries outlast it" if needed else "no thousand retries outlast it"
            click.echo(f"{one_line(load.name)}: {load.dead:,} died before the dependency was back; {enough}.")


#: How wide the names beside the charts are, and the table of a schedule.
_LABEL, _TABLE_WIDTH = 14, 92

_LOADS: list[Column[Load]] = [
    Column(name="name", value=lambda x: x.name, header="policy"),
    Column(name="attempts", value=lambda x: x.attempts, expendable=2, header="attempts", right=True),
    Column(name="in_vain", value=lambda x: x.in_vain, header="in vain", right=True),
    Column(name="busiest", value=lambda x: x.busiest, header="busiest second", right=True),
    Column(name="busiest_later", value=lambda x: x.busiest_later, header="later on", right=True),
    Column(name="dead", value=lambda x: x.dead, header="dead", right=True),
    Column(
        name="done_median",
        value=lambda x: x.done_median,
        expendable=1,
        header="half done after",
        cell=lambda x: "–" if x.done_median is None else spoken(x.done_median),
        right=True,
    ),
    Column(
        name="done_last",
        value=lambda x: x.done_last,
        header="all after",
        cell=lambda x: "–" if x.done_last is None else spoken(x.done_last),
        right=True,
    ),
    Column(name="simulated", value=lambda x: x.simulated),
]
_SECONDS: Column[Load] = Column(name="retries", value=lambda x: dict(x.retries))


def _terminal_width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 200


def _width() -> int:
    return max(30, min(120, _terminal_width() - _LABEL - 2)) if sys.stdout.isatty() else 72


def _is_unicode() -> bool:
    return "utf" in (sys.stdout.encoding or "").lower()
