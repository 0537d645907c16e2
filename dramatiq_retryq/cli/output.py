"""How values get onto a terminal or into a pipe: the four formats, and text of other people made harmless."""

from __future__ import annotations

import csv
import json
import math
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

import click

__all__ = ["FORMATS", "Column", "Format", "cut", "facts", "listing", "note", "one_line", "plain", "table", "write_json"]

T = TypeVar("T")
Format = Literal["table", "json", "jsonl", "csv"]
FORMATS: tuple[Format, ...] = ("table", "json", "jsonl", "csv")

#: How many rows a table has unless it is told.
TABLE_ROWS = 100
#: How much of an elastic column there should be, and how much there has to be, in characters.
_ELASTIC, _LEAST_ELASTIC = 26, 8
#: What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: How wide a line may be in a pipe, where nothing is cut off.
_WIDE = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Column(Generic[T]):
    """One column of a listing.

    Attributes:
        name: in JSON and CSV: the library's own name.
        value: what stands there: plain values, instants and durations in ms.
        header: in the table; ``None`` leaves it out there.
        cell: the text in the table; the value's own if not given.
        right: whether it is aligned to the right.
        elastic: whether it is cut where the terminal is narrow.
        expendable: whether it is left out there; the greatest first. 0 for never.
        machine: whether JSON and CSV have it.
    """

    name: str
    value: Callable[[T], Any]
    header: str | None = None
    cell: Callable[[T], str] | None = None
    right: bool = False
    elastic: bool = False
    expendable: int = 0
    machine: bool = True

    def text(self, row: T) -> str:
        if self.cell is not None:
            return self.cell(row)
        value = self.value(row)
        return "–" if value is None else f"{value:,}" if type(value) is int else str(value)


def listing(
    rows: Iterable[T],
    columns: Sequence[Column[T]],
    format: Format,
    *,
    limit: int | None = None,
    empty: str = "Nothing.",
) -> int:
    """Write rows to stdout. Returns how many there were.

    Args:
        rows: read as they are written, except for a table.
        columns: what of each row.
        format: one of :data:`FORMATS`.
        limit: at most so many; a table has :data:`TABLE_ROWS` where none is given, and says that there are more.
        empty: said on stderr where there is no row.
    """
    rows = iter(rows)
    if format == "table":
        most = TABLE_ROWS if limit is None else limit
        shown = list(islice(rows, most))
        if shown:
            _table(shown, columns)
        if limit is None and next(rows, None) is not None:
            note(f"These are the first {most}; there are more: --limit N, or --format json for all.")
        count = len(shown)
    else:
        columns = [column for column in columns if column.machine]
        count = _write(islice(rows, limit), columns, format)
    if not count and limit != 0:
        note(empty)
    return count


def table(rows: Sequence[T], columns: Sequence[Column[T]], *, empty: str = "") -> None:
    """Write all of these rows as a table to stdout; without any, a sentence."""
    if rows:
        _table(rows, columns)
    elif empty:
        click.echo(empty)


def _write(rows: Iterator[T], columns: Sequence[Column[T]], format: Format) -> int:
    count = 0
    out = sys.stdout
    if format == "csv":
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(column.name for column in columns)
        for row in rows:
            writer.writerow(_csv_value(column.value(row)) for column in columns)
            count += 1
        return count
    before, between, after = ("[", ",\n ", "]\n") if format == "json" else ("", "\n", "\n")
    out.write(before)
    for row in rows:
        out.write(between if count else "")
        out.write(_json({column.name: column.value(row) for column in columns}))
        count += 1
    out.write(after if before or count else "")
    return count


def write_json(value: Any, *, indent: int | None = 2) -> None:
    """One value as JSON on stdout."""
    sys.stdout.write(_json(value, indent=indent) + "\n")


def _json(value: Any, indent: int | None = None) -> str:
    # ASCII: what a terminal would obey is escaped, and so is half a surrogate pair, which no encoding could write.
    try:
        return json.dumps(value, ensure_ascii=True, indent=indent, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(_said_in_json(value), ensure_ascii=True, indent=indent, allow_nan=False)


#: So deep an argument may be; what is deeper, or holds itself, is told by its repr().
_DEEPEST = 50


def _said_in_json(value: Any, depth: int = 0) -> Any:
    """A value that JSON cannot say, as near as it comes: Python's own reader and an encoder of the application's may
    have let through NaN, keys that are no texts, and any object."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if depth < _DEEPEST:
        if isinstance(value, Mapping):
            return {_key(key): _said_in_json(of, depth + 1) for key, of in value.items()}
        if isinstance(value, (list, tuple)):
            return [_said_in_json(one, depth + 1) for one in value]
    try:
        return repr(value)
    except Exception:
        return "<its text cannot be had: repr() raised>"


def _key(key: Any) -> str:
    return key if isinstance(key, str) else str(_said_in_json(key, _DEEPEST))


def _csv_value(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, (bool, dict, list, tuple)):
        return _json(value)
    if not isinstance(value, str):
        return value
    # Other people's text: a spreadsheet would run what begins so, and takes what a quote stands before for a text.
    return f"'{plain(value)}" if value.startswith(_FORMULA) else plain(value)


def console(stream: Any = None) -> Any:
    """A rich console that takes nothing for markup, and cuts off nothing in a pipe."""
    from rich.console import Console

    stream = sys.stdout if stream is None else stream
    width = None if stream.isatty() else _WIDE
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def _table(rows: Sequence[T], columns: Sequence[Column[T]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = console()
    columns = [column for column in columns if column.header is not None]
    if out.is_terminal:
        fitting = _that_fit(columns, rows, out.width)
        if fitting is None:
            _blocks(rows, columns)
            return
        columns = fitting
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            Text(column.header or ""),
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=None if column.elastic else _width(column, rows),
        )
    for row in rows:
        table.add_row(*(Text(one_line(column.text(row))) for column in columns))
    if out.is_terminal:
        out.print(table)
        return
    # Without the spaces at the ends of lines that only a terminal's width would ask for.
    with out.capture() as captured:
        out.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _blocks(rows: Sequence[T], columns: Sequence[Column[T]]) -> None:
    """A line for each value, where a table would be cut off at its right."""
    for number, row in enumerate(rows):
        if number:
            click.echo()
        facts((column.header or "", column.text(row)) for column in columns if column.text(row))


def _that_fit(columns: Sequence[Column[T]], rows: Sequence[T], room: int) -> Sequence[Column[T]] | None:
    """The columns without those that would leave too little of the others; ``None`` if even so they do not fit."""
    kept = list(columns)
    widths = {column.name: min(_ELASTIC, w) if column.elastic else w for column in kept for w in [_width(column, rows)]}

    def width(least_of_elastic: int) -> int:
        wanted = (min(least_of_elastic, widths[one.name]) if one.elastic else widths[one.name] for one in kept)
        return sum(one + 3 for one in wanted) - 3

    while width(_ELASTIC) > room:
        least = max(kept, key=lambda column: column.expendable)
        if not least.expendable:
            return kept if width(_LEAST_ELASTIC) <= room else None
        kept.remove(least)
    return kept


def _width(column: Column[T], rows: Sequence[T]) -> int:
    widest = max((len(one_line(column.text(row))) for row in rows), default=0)
    return max(len(column.header or ""), min(60, widest))


def facts(pairs: Iterable[tuple[str, str | None]]) -> None:
    """Names and values, one a line; those that are ``None`` are left out."""
    there = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in there), default=0)
    for name, value in there:
        click.echo(f"  {name:<{width}}  {one_line(value)}")


def note(text: str) -> None:
    """A sentence beside the output: on stderr, so that a pipe does not get it."""
    click.echo(plain(text), err=True)


def plain(text: str) -> str:
    """A text without anything that a terminal would obey: escapes, and marks that turn the direction of reading.

    Line feeds and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in "\n\t" or _is_harmless(c) else _escaped(c) for c in text)


def one_line(text: str) -> str:
    """The same in one line."""
    return plain(text).replace("\n", "\\n").replace("\t", "\\t")


def _is_harmless(character: str) -> bool:
    # Cc: controls; Cf: direction marks and other invisible ones; Cs: half a surrogate pair; Zl, Zp: line separators.
    # The two joiners belong to the spelling of Persian and of emoji.
    return character in "\u200c\u200d" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def cut(text: str, most: int, *, end: bool = False) -> str:
    """At most so many characters of a text, with a sign where something is missing; ``end`` keeps its end."""
    if len(text) <= most:
        return text
    return f"… {text[-most:]}" if end else f"{text[:most]} …"
