"""Who may see the page and act on it, and what the browser is told."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.exceptions import abort
from werkzeug.test import Client
from werkzeug.wrappers import Response

from dramatiq_retryq.errors import ConfigError, StoreUnavailable
from dramatiq_retryq.web import RetryQueueWeb

if TYPE_CHECKING:
    from .conftest import Desk

PATHS = [
    "/",
    "/queues",
    "/queue?name=default",
    "/queue?name=gone",
    "/pending",
    "/dead",
    "/workers",
    "/message?id=gone",
    "/letter?id=1",
    "/letter/traceback?id=1",
    "/letter/arguments?id=1",
    "/static/retryq.css",
    "/static/retryq.js",
    "/static/icon.svg",
    "/static/gone",
    "/gone",
    "/dead?page=x",
]
ACTIONS = [
    "/pause",
    "/resume",
    "/pending/run-now",
    "/pending/move",
    "/pending/cancel",
    "/dead/replay",
    "/dead/discard",
]


def is_hardened(response: Any) -> bool:
    policy = response.headers["Content-Security-Policy"].split("; ")
    return (
        {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} <= set(policy)
        and "unsafe" not in " ".join(policy)
        and response.headers["X-Content-Type-Options"] == "nosniff"
        and response.headers["X-Frame-Options"] == "DENY"
        and response.headers["Referrer-Policy"] == "same-origin"
        and response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    )


# What the browser is told.


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "BREW"])
def test_every_answer_forbids_the_browser_what_is_not_ours(desk: Desk, path: str, method: str) -> None:
    desk.die()
    response = desk.client.open(path, method=method)
    assert is_hardened(response)
    is_page = not path.startswith("/static") or path.endswith("gone") or method not in ("GET", "HEAD")
    assert response.headers["Cache-Control"] == ("no-store" if is_page else "no-cache")


def test_what_goes_wrong_is_hardened_too(desk: Desk) -> None:
    for error in (StoreUnavailable("gone"), RuntimeError("gone")):
        desk.operations.refuses["status"] = error
        assert is_hardened(desk.get("/"))


def test_a_file_that_has_not_changed_is_not_sent_again(desk: Desk) -> None:
    first = desk.get("/static/retryq.css")
    assert first.content_type == "text/css; charset=utf-8"
    again = desk.get("/static/retryq.css", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.get_data()) == (304, b"")


@pytest.mark.parametrize("name", ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "", "retryq.css/", "/etc/passwd"])
def test_no_other_file_is_sent(desk: Desk, name: str) -> None:
    assert desk.get(f"/static/{name}").status_code == 404


# Methods and sizes.


@pytest.mark.parametrize("path", ACTIONS)
def test_looking_at_the_address_of_a_form_changes_nothing(desk: Desk, path: str) -> None:
    response = desk.get(path)
    assert response.status_code == 405
    assert response.headers["Allow"] == "POST"


@pytest.mark.parametrize("path", ["/", "/dead", "/static/retryq.css"])
def test_posting_to_a_page_that_only_shows_is_refused(desk: Desk, path: str) -> None:
    response = desk.client.post(path)
    assert response.status_code == 405
    assert response.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_form_that_is_too_large_is_refused_and_nothing_is_done(desk: Desk, kind: str) -> None:
    desk.wait()
    token = desk.token()
    body = f"token={token}&id=1&x={'y' * 300_000}".encode()
    response = desk.client.post("/pending/run-now", input_stream=io.BytesIO(body), content_type=kind,
                                content_length=len(body))  # fmt: skip
    assert response.status_code == 413
    assert desk.operations.done == []
    desk.look("/")


def test_a_form_that_is_no_form_is_refused(desk: Desk) -> None:
    desk.token()
    for body, kind in ((b"\xff\xfe%%%&&&==", "application/x-www-form-urlencoded"), (b"[]", "application/json"),
                       (b"garbage", "multipart/form-data; boundary=x"), (b"", "multipart/form-data")):  # fmt: skip
        assert desk.client.post("/dead/discard", data=body, content_type=kind).status_code == 403


# Forms of other pages.


@pytest.mark.parametrize("path", ACTIONS)
def test_a_form_without_our_token_changes_nothing(desk: Desk, path: str) -> None:
    desk.die()
    desk.wait()
    token = desk.token()
    form = {"id": ["1", *desk.waiting()], "queue": "default", "due": "1h", "confirmed": "yes"}
    for sent in ({}, {"token": ""}, {"token": "x" * 32}, {"token": token[:-1]}, {"token": token + "\x00"}):
        response = desk.client.post(path, data={**form, **sent})
        assert response.status_code == 403
        assert "Nothing was done." in response.get_data(as_text=True)
    assert desk.operations.done == []
    assert desk.dead == ["1"]


def test_a_token_without_the_cookie_is_worth_nothing(desk: Desk) -> None:
    token = desk.token()
    assert Client(desk.app).post("/pause", data={"token": token, "queue": "default"}).status_code == 403


def test_a_cookie_that_somebody_else_set_is_replaced_and_its_token_refused(desk: Desk) -> None:
    desk.client.set_cookie("retryq_csrf", "short")
    assert desk.client.post("/pause", data={"token": "short", "queue": "default"}).status_code == 403
    assert len(desk.token()) == 32


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303),
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        # A proxy in front may call us by another name: the browser's own word counts.
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://ops.example.org"}, 303),
        ({"Origin": "http://localhost"}, 303),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:81"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_a_form_of_another_page_is_refused_though_it_has_the_token(
    desk: Desk, headers: dict[str, str], status: int
) -> None:
    assert desk.post("/pause", {"queue": "default"}, headers=headers).status_code == status


def test_the_cookie_is_for_our_page_and_no_script(desk: Desk) -> None:
    cookie = desk.get("/queues").headers["Set-Cookie"]
    assert cookie.startswith("retryq_csrf=")
    assert {"HttpOnly", "Path=/", "SameSite=Strict"} == set(cookie.split("; ")[1:])
    mounted = desk.open().get("/queues", base_url="https://localhost/ops/")
    assert {"HttpOnly", "Secure", "Path=/ops", "SameSite=Strict"} == set(mounted.headers["Set-Cookie"].split("; ")[1:])


def test_the_cookie_stays_the_same_from_page_to_page(desk: Desk) -> None:
    assert desk.token() == desk.token()
    assert "Set-Cookie" not in desk.get("/queues").headers


# Read only.


@pytest.mark.parametrize("path", ACTIONS)
def test_a_read_only_page_refuses_every_form(desk: Desk, path: str) -> None:
    desk.die()
    desk.wait()
    form = {"id": ["1", *desk.waiting()], "queue": "default", "due": "1h", "confirmed": "yes"}
    token = desk.token()
    client, desk.app.read_only = desk.client, True
    response = client.post(path, data={"token": token, **form})
    assert response.status_code == 403
    assert "changes nothing" in response.get_data(as_text=True)
    assert desk.operations.done == []
    assert desk.dead == ["1"]


# By which name, and from where.


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:9293", "127.1.2.3", "[::1]:80", "retryq.localhost", "LOCALHOST."]
)
def test_without_a_login_the_names_of_this_machine_are_answered(desk: Desk, host: str) -> None:
    assert desk.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "evil.example:9293", "a@localhost",
     "localhost:x", "<script>", "[::2]", "127.0.0.1 "],
)  # fmt: skip
def test_without_a_login_another_name_is_refused_as_it_may_be_somebody_elses(desk: Desk, host: str) -> None:
    for path in ("/", "/static/retryq.css", "/pause"):
        response = desk.get(path, headers={"Host": host})
        assert response.status_code == 400
        assert is_hardened(response)


@pytest.mark.parametrize(
    "environ",
    [
        {"REMOTE_ADDR": "10.0.0.9"},
        {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "10.0.0.9"},
        {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_PROTO": "https"},
        {"REMOTE_ADDR": "127.0.0.1", "HTTP_VIA": "1.1 proxy"},
        {"REMOTE_ADDR": "127.0.0.1", "HTTP_FORWARDED": "for=10.0.0.9"},
        {"REMOTE_ADDR": "unix:"},
    ],
)
def test_without_a_login_somebody_elsewhere_is_told_what_is_missing(desk: Desk, environ: dict[str, str]) -> None:
    response = desk.get("/", environ_overrides=environ)
    assert response.status_code == 403
    assert "allow_anyone=True" in response.get_data(as_text=True)


@pytest.mark.parametrize("visitor", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", ""])
def test_without_a_login_somebody_at_this_machine_is_answered(desk: Desk, visitor: str) -> None:
    assert desk.get("/", environ_overrides={"REMOTE_ADDR": visitor}).status_code == 200


def test_anyone_is_let_in_where_that_is_said_but_by_no_name_of_somebody_else(desk: Desk) -> None:
    desk.open(allow_anyone=True)
    elsewhere = {"environ_overrides": {"REMOTE_ADDR": "10.0.0.9"}}
    assert desk.get("/", headers={"Host": "10.0.0.1:9293"}, **elsewhere).status_code == 200
    assert desk.get("/", headers={"Host": "evil.example"}, **elsewhere).status_code == 400
    desk.open(allow_anyone=True, hosts=["Ops.Example"])
    assert desk.get("/", headers={"Host": "ops.example"}, **elsewhere).status_code == 200
    assert desk.get("/", headers={"Host": "10.0.0.1"}, **elsewhere).status_code == 400


def test_hosts_bound_the_names_where_there_is_a_login_too(desk: Desk) -> None:
    desk.open(login=lambda environ: "ada")
    assert desk.get("/", headers={"Host": "anything.example"}).status_code == 200
    desk.open(login=lambda environ: "ada", hosts=["ops.example"])
    assert desk.get("/", headers={"Host": "anything.example"}).status_code == 400
    assert desk.get("/", headers={"Host": "ops.example:8443"}).status_code == 200


# The application's own login.


class Anonymous:
    is_authenticated = False


class Ada:
    is_authenticated = True

    def get_username(self) -> str:
        return "ada lovelace"


class Falsy:
    def __bool__(self) -> bool:
        return False


@pytest.mark.parametrize("answer", [None, False, "", 0, Anonymous(), Falsy()])
def test_nobody_sees_nothing(desk: Desk, answer: Any) -> None:
    desk.die()
    desk.open(login=lambda environ: answer)
    for path in PATHS[:11]:
        response = desk.get(path)
        assert response.status_code == 403
        assert "Not logged in" in response.get_data(as_text=True)
    for path in ACTIONS:
        assert desk.client.post(path).status_code == 403


class NobodyByMethod:
    def is_authenticated(self) -> bool:
        return False


def test_a_user_whose_is_authenticated_is_a_method_is_asked(desk: Desk) -> None:
    desk.open(login=lambda environ: NobodyByMethod())
    assert desk.get("/").status_code == 403


def test_a_login_may_refuse_as_abort_does(desk: Desk) -> None:
    def login(environ: dict[str, Any]) -> Any:
        abort(Response("over there", 302, {"Location": "/login"}))

    desk.open(login=login)
    response = desk.get("/")
    assert (response.status_code, response.headers["Location"]) == (302, "/login")


def test_trying_again_leads_to_no_other_site(desk: Desk) -> None:
    def login(environ: dict[str, Any]) -> Any:
        raise StoreUnavailable("the sessions are away")

    desk.open(login=login)
    links = [a.attributes["href"] for a in desk.look("/", environ_overrides={"PATH_INFO": "//evil.example/"}).all("a")]
    assert "/evil.example/" in links
    assert not [link for link in links if link.startswith("//")]


def test_a_query_in_no_known_encoding_is_read_as_far_as_it_goes(desk: Desk) -> None:
    response = desk.get("/pending", environ_overrides={"QUERY_STRING": "\xff\xfe=%&actor=deliver&queue=\xff"})
    assert response.status_code == 200
    assert desk.operations.asked[-1]["actor"] == "deliver"


@pytest.mark.parametrize(("answer", "name"), [("ada", "ada"), (Ada(), "ada lovelace"), (True, "")])
def test_somebody_is_let_in_from_anywhere_and_named(desk: Desk, answer: Any, name: str) -> None:
    desk.open(login=lambda environ: answer)
    assert desk.get("/", environ_overrides={"REMOTE_ADDR": "10.0.0.9"}).status_code == 200
    assert name in desk.look("/").all("footer")[0].text


def test_a_response_of_the_login_is_answered_as_it_is(desk: Desk) -> None:
    desk.open(login=lambda environ: Response("over there", 302, {"Location": "/login?next=" + environ["PATH_INFO"]}))
    response = desk.get("/dead")
    assert (response.status_code, response.headers["Location"]) == (302, "/login?next=/dead")


def test_a_login_that_raises_lets_nobody_in(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    def login(environ: dict[str, Any]) -> Any:
        raise KeyError("session")

    desk.open(login=login)
    assert desk.get("/").status_code == 500
    assert "session" in caplog.text


@pytest.mark.parametrize("answer", [17, object(), {"user": "ada"}, ["ada"], b"ada"])
def test_a_login_that_gives_something_else_lets_nobody_in(
    desk: Desk, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # Such as a redirect of Django's, which is an object like any other.
    desk.open(login=lambda environ: answer)
    assert desk.get("/").status_code == 500
    assert "login gave" in caplog.text
    assert "werkzeug.utils.redirect('/login')" in caplog.text


def test_a_login_that_changes_its_environ_changes_nothing_for_us(desk: Desk) -> None:
    def login(environ: dict[str, Any]) -> Any:
        environ["PATH_INFO"] = "/gone"
        return "ada"

    assert desk.open(login=login).get("/").status_code == 200


def test_who_did_what_is_logged_without_arguments(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.open(login=lambda environ: "ada")
    letter = desk.die(desk.message("secret-argument"))
    with caplog.at_level("INFO"):
        desk.post("/dead/replay", {"id": letter.id})
        desk.post("/pause", {"queue": "default"})
    assert "Web page: 1 messages replayed, by 'ada'." in caplog.text
    assert "Web page: paused queue 'default', by 'ada'." in caplog.text
    assert "secret-argument" not in caplog.text
    desk.broker.store.flush("default")


# Options.


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"login": "ada"}, "login is 'ada': give a callable"),
        ({"hosts": "ops.example"}, "hosts is 'ops.example': give a list of names"),
        ({"base_url": "ops"}, "base_url is 'ops': give a path that starts with /"),
        ({"base_url": 7}, "base_url is 7: give a path"),
        ({"base_url": "//evil.example/x"}, "give a path"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(desk: Desk, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("(", r"\(")):
        RetryQueueWeb(desk.operations, **options)
