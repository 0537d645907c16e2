"""The page in a real browser: what only it can tell.

Chromium is the system's (``apt-get install chromium``). Where there is none these are skipped; in CI they fail.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from dramatiq_retryq.records import ErrorInfo
from dramatiq_retryq.status import Minute, QueueStatus, Rates, WorkerStatus
from dramatiq_retryq.web import Server

if TYPE_CHECKING:
    from .conftest import Desk

MARKUP = "<img src=x onerror=\"document.title='pwned'\">'\"</pre></script><script>document.title='pwned'</script>"
PATHS = ["/", "/queues", "/queue?name=default", "/pending", "/dead", "/dead?since=x", "/workers", "/letter?id=1", "/x"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = os.environ.get("RETRYQ_BROWSER") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        lack = "there is no chromium: apt-get install chromium, or set RETRYQ_BROWSER to one"
        if os.environ.get("RETRYQ_REQUIRE_SERVERS") == "1":
            pytest.fail(lack, pytrace=False)
        pytest.skip(lack)
    with sync_playwright() as playwright:
        # No sandbox: a container has none to give.
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def address(desk: Desk) -> Iterator[str]:
    server = Server(desk.app, port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server.url.rstrip("/")
    server.stop()
    thread.join(20)
    server.close()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Opens a page in a window of its own. What the browser complains of is an error at the end."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def visit(path: str = "/", **options: Any) -> Page:
        context = browser.new_context(base_url=address, locale="en-GB", **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text))
        page.on("dialog", lambda dialog: complaints.append(f"a dialog: {dialog.message}"))
        page.clock.install()
        page.goto(path)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [one for one in complaints if not re.search("status of 40[034]", one)] == []


@pytest.fixture
def full(desk: Desk) -> Desk:
    now = desk.clock.now()
    desk.operations.queue_states = (
        QueueStatus(name="default", due=3, later=1, claimed=0, dead=3, oldest_due_at=now - 90_000),
        QueueStatus(name="a_queue_with_quite_a_long_name_as_people_give_them", due=1, paused=True),
    )
    desk.operations.workers_alive = (WorkerStatus(owner="a-host-with-a-long-name.example.org:17", started_at=now),)
    desk.operations.minutes_seen = [
        Minute(at=now // 60_000 * 60_000 - n * 60_000, queue_name="default", rates=Rates(succeeded=1200, died=n % 3))
        for n in range(60)
    ]
    error = ErrorInfo(type="E" * 80, message=MARKUP + "x" * 300, place="app.py:12 in deliver")
    for _ in range(3):
        desk.die(desk.message(MARKUP, kwargs={"long": "y" * 500}), error=error, traceback=MARKUP + "z" * 500)
        desk.wait(error=error)
    return desk


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_the_window_or_does_what_a_text_says(
    full: Desk, visit: Callable[..., Page], width: int, scheme: str
) -> None:
    page = visit("/", viewport={"width": width, "height": 800}, color_scheme=scheme)
    for path in PATHS:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.title().endswith("retryq"), path


#: What can be reached only by scrolling sideways, in what scrolls by itself.
OUT_OF_SIGHT = """[...document.querySelectorAll("main *")]
    .filter((one) => one.scrollWidth > one.clientWidth && ["auto", "scroll"].includes(getComputedStyle(one).overflowX))
    .map((one) => one.getAttribute("aria-label") || one.className)"""


@pytest.mark.parametrize("width", [380, 390])
def test_on_a_narrow_screen_nothing_is_hidden_in_a_frame_of_its_own(
    full: Desk, visit: Callable[..., Page], width: int
) -> None:
    page = visit("/", viewport={"width": width, "height": 800})
    for path in PATHS:
        page.goto(path)
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert page.evaluate(OUT_OF_SIGHT) == [], path


#: What is there to be touched and is lower than a finger: its text and its height.
TOO_LOW = """[...document.querySelectorAll("button, td.pick label, summary, input:not([type=checkbox], [type=hidden])")]
    .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 40)
    .map((one) => [one.innerText || one.name, one.getBoundingClientRect().height])"""


def test_on_a_narrow_screen_what_is_touched_is_as_high_as_a_finger(full: Desk, visit: Callable[..., Page]) -> None:
    page = visit("/", viewport={"width": 600, "height": 800})
    for path in PATHS:
        page.goto(path)
        assert page.evaluate(TOO_LOW) == [], path
    page.goto("/dead")
    around = page.locator("td.pick label").first
    around.click(position={"x": 2, "y": 38})
    expect(page.locator("td.pick input:checked")).to_have_count(1)
    page.set_viewport_size({"width": 1280, "height": 800})
    assert page.evaluate(TOO_LOW) != []


def test_figures_are_renewed_while_one_looks(full: Desk, visit: Callable[..., Page]) -> None:
    page = visit("/")
    expect(page.locator("#tiles")).to_contain_text("4\n due", use_inner_text=True)
    full.operations.queue_states = (QueueStatus(name="default", due=1_000, oldest_due_at=full.clock.now()),)
    page.clock.run_for(6_000)
    expect(page.locator("#tiles")).to_contain_text("1,000")
    expect(page.locator("#queues tbody tr")).to_have_count(1)


def test_the_zone_of_the_visitor_is_named_with_what_is_told_in_it(full: Desk, visit: Callable[..., Page]) -> None:
    page = visit("/", timezone_id="Asia/Kolkata")
    expect(page.locator("#freshness")).to_have_text(re.compile(r"Renewed .*(GMT\+5:30|IST)"))
    told = page.locator("#fails time").first.get_attribute("title")
    assert told is not None
    assert re.search(r"here: .*(GMT\+5:30|IST)", told)


def test_what_is_open_stays_open_when_it_is_renewed(full: Desk, visit: Callable[..., Page]) -> None:
    page = visit("/")
    page.get_by_text("Last hour in figures").click()
    page.evaluate("document.activeElement.blur()")
    full.operations.minutes_seen = []
    page.clock.run_for(6_000)
    expect(page.locator("#chart-hour .legend")).to_contain_text("0 succeeded")
    expect(page.locator("#chart-hour table")).to_be_visible()


def test_what_is_selected_is_not_taken_away(full: Desk, visit: Callable[..., Page]) -> None:
    page = visit("/dead")
    page.locator("tbody input").first.check()
    page.evaluate("document.activeElement.blur()")
    full.broker.dead_letters.discard("3")
    with page.expect_response("**/dead"):
        page.clock.run_for(6_000)
    expect(page.locator("#freshness")).to_contain_text("Renewed")
    expect(page.locator("tbody input:checked")).to_have_count(1)
    expect(page.locator("tbody tr")).to_have_count(3)


def test_renewing_can_be_stopped_and_stays_stopped(full: Desk, visit: Callable[..., Page]) -> None:
    page = visit("/")
    page.get_by_role("button", name="Stop renewing").click()
    page.goto("/queues")
    expect(page.get_by_role("button", name="Renew by itself")).to_be_visible()
    full.operations.queue_states = ()
    page.clock.run_for(60_000)
    expect(page.locator("#queues tbody tr")).to_have_count(2)
    page.get_by_role("button", name="Renew by itself").click()
    expect(page.locator("#queues tbody tr")).to_have_count(0)


def test_all_of_a_page_are_selected_at_once_and_discarded_after_a_question(
    full: Desk, visit: Callable[..., Page]
) -> None:
    page = visit("/dead")
    page.get_by_label("Select all on this page").check()
    page.get_by_role("button", name="Discard selected").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Discard 3 dead letters?")
    assert len(full.dead) == 3
    page.get_by_role("button", name="Discard 3 dead letters").click()
    expect(page.get_by_role("status").first).to_have_text("3 messages were discarded.")
    assert full.dead == []


def test_without_javascript_one_can_see_filter_and_replay(full: Desk, visit: Callable[..., Page]) -> None:
    page = visit("/", java_script_enabled=False)
    page.get_by_role("link", name="Dead letters", exact=True).click()
    page.get_by_label("Actor", exact=True).fill("deliver")
    page.get_by_role("button", name="Filter", exact=True).click()
    page.get_by_label("At most a second").fill("50")
    page.get_by_role("button", name="Replay all that match").click()
    page.get_by_role("button", name="Replay 3 dead letters").click()
    expect(page.get_by_role("status").first).to_have_text("3 messages were replayed and wait again.")
    assert full.dead == []
    full.broker.store.flush("default")


def test_a_queue_is_paused_with_the_keyboard_alone(full: Desk, visit: Callable[..., Page]) -> None:
    page = visit("/")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText").split() == ["Pause", "queue", "default"]:
            break
    assert page.locator(":focus").evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("Paused.")
    assert full.operations.done == [("pause", "default", None)]


def test_a_form_on_another_site_is_refused(full: Desk, visit: Callable[..., Page], address: str) -> None:
    page = visit("/queues")
    token = page.locator("input[name=token]").first.get_attribute("value")
    # The same machine by another name, as a page that somebody else serves there would be.
    evil = address.replace("127.0.0.1", "localhost")
    page.route(f"{evil}/", lambda route: route.fulfill(content_type="text/html", body=f"""
        <form method=post action="{address}/pause"><input name=queue value=default><input name=token value="{token}">
        <button>Win</button></form>"""))  # fmt: skip
    page.goto(f"{evil}/")
    with page.expect_response(f"{address}/pause") as response:
        page.get_by_role("button", name="Win").click()
    assert response.value.status == 403
    assert full.operations.done == []
