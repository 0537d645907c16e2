"""A page over a broker that says what a test tells it to, and a reader of HTML that takes offence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import dramatiq
import pytest
from werkzeug.test import Client, TestResponse

from dramatiq_retryq import DeadLetter, MemoryBroker
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.errors import ConfigError, MessageNotFound
from dramatiq_retryq.operations import Operations
from dramatiq_retryq.records import Attempt, ErrorInfo
from dramatiq_retryq.status import Minute, Paused, Pending, QueueStatus, Rates, Status, WorkerStatus
from dramatiq_retryq.web import RetryQueueWeb

NOTHING = Rates()


class Scripted(Operations):
    """Says what it is told, and writes down what it is asked to do. Its dead letters are those of a real broker."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.clock = broker.clock
        self.queue_states: tuple[QueueStatus, ...] = (QueueStatus(name="default", due=0, later=0, claimed=0, dead=0),)
        self.workers_alive: tuple[WorkerStatus, ...] | None = ()
        self.minutes_seen: list[Minute] = []
        self.asked_since: list[timedelta] = []
        self.last_minute, self.last_hour = NOTHING, NOTHING
        self.paused_now = Paused()
        self.waiting: list[Pending] = []
        self.asked: list[dict[str, Any]] = []
        self.done: list[tuple[Any, ...]] = []
        #: Raised by the question or the deed of that name.
        self.refuses: dict[str, Exception] = {}

    def _hear(self, name: str) -> None:
        if name in self.refuses:
            raise self.refuses[name]

    @property
    def dead_letters(self) -> Any:
        self._hear("dead_letters")
        return self.broker.dead_letters

    def status(self) -> Status:
        self._hear("status")
        return Status(
            now=self.clock.now(),
            queues=self.queue_states,
            workers=self.workers_alive,
            last_minute=self.last_minute,
            last_hour=self.last_hour,
            paused=self.paused_now,
        )

    def minutes(self, since: timedelta) -> Sequence[Minute]:
        self._hear("minutes")
        self.asked_since.append(since)
        earliest = self.clock.now() - since // timedelta(milliseconds=1) - 60_000
        return [one for one in self.minutes_seen if one.at > earliest]

    def workers(self) -> Sequence[WorkerStatus]:
        self._hear("workers")
        return self.workers_alive or ()

    def pending(self, *, after: str | None = None, limit: int | None = None, **filters: Any) -> Iterator[Pending]:
        self._hear("pending")
        self.asked.append(filters)
        start = 0
        if after is not None:
            places = [n for n, one in enumerate(self.waiting) if one.cursor == after]
            if not places:
                raise ConfigError(f"after is {after!r}: that is no cursor")
            start = places[0] + 1
        yield from self.waiting[start : None if limit is None else start + limit]

    def find(self, message_id: str) -> Pending | DeadLetter | None:
        self._hear("find")
        for one in (*self.waiting, *self.broker.dead_letters):
            if one.message_id == message_id:
                return one
        return None

    def _do(self, name: str, pending: Any, *rest: Any) -> None:
        self._hear(name)
        if pending not in [one.key for one in self.waiting]:
            raise MessageNotFound(pending.id)
        self.done.append((name, pending.id, *rest))

    def run_now(self, pending: Any) -> None:
        self._do("run_now", pending)

    def move(self, pending: Any, *, due_at: int) -> None:
        self._do("move", pending, due_at - self.clock.now())

    def cancel(self, pending: Any) -> None:
        self._do("cancel", pending)

    def paused(self) -> Paused:
        return self.paused_now

    def pause(self, *, queue: str | None = None, actor: Any = None) -> None:
        self._hear("pause")
        self.done.append(("pause", queue, actor))

    def resume(self, *, queue: str | None = None, actor: Any = None) -> None:
        self._hear("resume")
        self.done.append(("resume", queue, actor))


def attempt(n: int, at: int, **fields: Any) -> Attempt:
    given: dict[str, Any] = {"error": "ConnectionError", "message": "nobody answers", "place": "app.py:12 in deliver"}
    given |= {"duration": 1_500, "delay": 60_000, "worker": "host:17"}
    return Attempt(n=n, started_at=at, **(given | fields))


class Desk:
    """The page, the broker behind it, and a visitor with a cookie jar."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.clock: Any = broker.clock
        self.operations = Scripted(broker)
        self.open()

    def open(self, **options: Any) -> Desk:
        """The page with these options, and a new visitor."""
        self.app = RetryQueueWeb(self.operations, **options)
        self.client = Client(self.app)
        return self

    def get(self, path: str = "/", **kwargs: Any) -> TestResponse:
        return self.client.get(path, **kwargs)

    def look(self, path: str = "/", **kwargs: Any) -> Document:
        """The page at this path, read by somebody who takes offence at anything that is not right."""
        response = self.get(path, **kwargs)
        return read_page(response.get_data(as_text=True))

    def waiting(self) -> list[str]:
        """What the forms say of the messages that wait."""
        return self.look("/pending").inputs("id")

    def token(self) -> str:
        found = self.look("/queues").inputs("token")
        return found[0]

    def post(self, path: str, data: dict[str, Any] | None = None, **kwargs: Any) -> TestResponse:
        """A form of our own, with its token."""
        return self.client.post(path, data={"token": self.token(), **(data or {})}, **kwargs)

    def message(self, *args: Any, actor: str = "deliver", **options: Any) -> dramatiq.Message[Any]:
        return dramatiq.Message(
            queue_name="default",
            actor_name=actor,
            args=args,
            kwargs=options.pop("kwargs", {}),
            options=options,
            message_timestamp=self.clock.now(),
        )

    def wait(self, message: dramatiq.Message[Any] | None = None, **fields: Any) -> Pending:
        """A message that waits."""
        n = len(self.operations.waiting)
        message = self.message(n) if message is None else message
        known: dict[str, Any] = {
            "id": str(n + 1),
            "message_id": message.message_id,
            "queue_name": message.queue_name,
            "actor_name": message.actor_name,
            "state": "waiting",
            "due_at": self.clock.now() + n * 1_000,
            "message": message,
            "cursor": f"c{n}",
        }
        pending = Pending(**(known | fields))
        self.operations.waiting.append(pending)
        return pending

    def die(self, message: dramatiq.Message[Any] | None = None, **fields: Any) -> DeadLetter:
        """A message that lies dead. A second passes."""
        message = self.message(1, 2) if message is None else message
        store, now = self.broker.store, self.clock.now()
        self.broker.declare_queue(message.queue_name)
        data = fields.pop("data", None) or message.encode()
        store.put(message.queue_name, data, due_at=0, now=now)
        [claim] = store.claim(message.queue_name, now=now, limit=1, owner="test")
        known: dict[str, Any] = {
            "reason": "exhausted",
            "actor_name": message.actor_name,
            "died_at": now,
            "error": ErrorInfo(type="ConnectionError", message="nobody answers", place="app.py:12 in deliver"),
            "traceback": "Traceback (most recent call last):\nConnectionError: nobody answers\n",
        }
        letter = DeadLetter(id=str(claim.id), queue_name=claim.queue_name, data=data, **(known | fields))
        store.bury(claim, letter)
        self.clock.advance(1_000)
        return letter

    @property
    def dead(self) -> list[str]:
        return [letter.id for letter in self.broker.dead_letters]


@pytest.fixture
def desk(broker: MemoryBroker, clock: VirtualClock) -> Desk:
    @dramatiq.actor
    def deliver(*args: Any) -> None: ...

    return Desk(broker)


@pytest.fixture
def read() -> Callable[[str], Document]:
    return read_page


@pytest.fixture
def attempts() -> Callable[..., Attempt]:
    return attempt


# -- A reader of HTML ------------------------------------------------------------------------------------------------

_VOID = {"meta", "link", "input", "br", "hr", "img"}
_FIELDS = {"input", "select", "textarea"}
_LOOKED_AT = {"a", "button", "h1", "h2", "h3", "caption", "th", "label", "title", "summary", "legend"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def within(self, tag: str) -> bool:
        above = self.parent
        while above is not None:
            if above.tag == tag:
                return True
            above = above.parent
        return False


@dataclass
class Document(HTMLParser):
    """A page as elements. ``problems`` has what a strict reader objects to."""

    elements: list[Element] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[Element] = []

    def handle_decl(self, decl: str) -> None:
        if decl != "doctype html" or self.elements:
            self.problems.append(f"doctype {decl!r}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.problems.append(f"<{tag}> has an attribute twice: {names}")
        element = Element(tag, {name: value or "" for name, value in attrs}, self._open[-1] if self._open else None)
        self.elements.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1].tag != tag:
            self.problems.append(f"</{tag}> closes {self._open[-1].tag if self._open else 'nothing'}")
            return
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)
        for element in self._open:
            element.pieces.append(data)

    def close(self) -> None:
        super().close()
        self.problems += [f"<{element.tag}> is never closed" for element in self._open]
        self._look()

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def all(self, tag: str, **attributes: str) -> list[Element]:
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            element
            for element in self.elements
            if element.tag == tag and all(element.attributes.get(name) == value for name, value in wanted.items())
        ]

    def inputs(self, name: str) -> list[str]:
        """The values of the fields of this name that have one."""
        return [one.attributes["value"] for one in self.all("input", name=name) if "value" in one.attributes]

    def link(self, text: str) -> str:
        """Where the first link with this text leads."""
        return next(one.attributes["href"] for one in self.all("a") if text in " ".join(one.text.split()))

    def _look(self) -> None:
        ids = [one.attributes["id"] for one in self.elements if "id" in one.attributes]
        self.problems += [f"the id {one} is there twice" for one in sorted({one for one in ids if ids.count(one) > 1})]
        labelled = {one.attributes.get("for") for one in self.all("label")}
        headings = [int(one.tag[1]) for one in self.elements if one.tag in ("h1", "h2", "h3")]
        for one in self.elements:
            self._look_at(one, set(ids), labelled)
        if headings.count(1) != 1 or any(b > a + 1 for a, b in itertools.pairwise(headings)):
            self.problems.append(f"headings go {headings}")
        for tag in ("html", "title", "main", "header", "footer"):
            number = sum(not one.within("svg") for one in self.all(tag))
            if number != 1:
                self.problems.append(f"{number} <{tag}>")
        if not self.all("html", lang="en") or not self.all("a", href="#main"):
            self.problems.append("no language, or no link past the navigation")

    def _look_at(self, one: Element, ids: set[str], labelled: set[str | None]) -> None:
        where = f"<{one.tag} {one.attributes}>"
        for name, value in one.attributes.items():
            if name == "style" or name.startswith("on") or value.strip().lower().startswith("javascript:"):
                self.problems.append(f"{where} has {name}")
            if name in ("for", "list", "aria-describedby", "aria-labelledby"):
                self.problems += [f"{where}: no id {id_}" for id_ in value.split() if id_ not in ids]
        is_field = one.tag in _FIELDS and one.attributes.get("type") != "hidden"
        if is_field and one.attributes.get("id") not in labelled and "aria-label" not in one.attributes:
            self.problems.append(f"{where} has no label")
        if one.tag in _LOOKED_AT and not one.text.strip() and "aria-label" not in one.attributes:
            self.problems.append(f"{where} has no text")
        if one.tag == "table" and not any(two.parent is one for two in self.all("caption")):
            self.problems.append(f"{where} has no caption")
        if one.tag == "th" and one.attributes.get("scope") not in ("col", "row"):
            self.problems.append(f"{where} has no scope")
        if one.tag == "nav" and "aria-label" not in one.attributes:
            self.problems.append(f"{where} has no name")
        if one.tag == "svg" and one.attributes.get("aria-hidden") != "true":
            self.problems.append(f"{where} is read aloud")
        if one.tag == "style" or (one.tag == "script" and not one.attributes.get("src")):
            self.problems.append(f"{where} is inline")
        if one.tag == "form" and one.within("form"):
            self.problems.append(f"{where} is within a form")


def read_page(html: str) -> Document:
    document = Document()
    document.feed(html)
    document.close()
    assert document.problems == []
    return document
