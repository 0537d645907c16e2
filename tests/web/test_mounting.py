"""The page within two real applications, below a prefix, behind their logins."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import flask
import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from dramatiq_retryq import MemoryBroker
from dramatiq_retryq.web import RetryQueueWeb

if TYPE_CHECKING:
    from .conftest import Desk


def leads_below(desk_client: Client, path: str, prefix: str, read: Callable[[str], Any]) -> None:
    document = read(desk_client.get(path).get_data(as_text=True))
    for one in document.elements:
        for name in ("href", "src", "action", "formaction"):
            target = one.attributes.get(name)
            if target is not None and not target.startswith("#"):
                assert target.startswith(prefix + "/"), (one.tag, target)


# A prefix.


@pytest.mark.parametrize("page", ["", "/", "/queues", "/dead", "/pending", "/letter?id=1", "/x"])
def test_every_address_on_a_page_is_below_the_prefix(desk: Desk, read: Any, page: str) -> None:
    desk.die()
    desk.wait()
    leads_below(Client(DispatcherMiddleware(desk.app, {"/ops": desk.app})), f"/ops{page}", "/ops", read)


def test_the_files_of_the_page_are_found_below_the_prefix(desk: Desk, read: Any) -> None:
    client = Client(DispatcherMiddleware(desk.app, {"/ops": desk.app}))
    document = read(client.get("/ops/").get_data(as_text=True))
    for one in (*document.all("link"), *document.all("script")):
        assert client.get(one.attributes.get("href") or one.attributes["src"]).status_code == 200


def test_a_form_leads_back_below_the_prefix(desk: Desk, read: Any) -> None:
    client = Client(DispatcherMiddleware(desk.app, {"/ops": desk.app}))
    token = read(client.get("/ops/queues").get_data(as_text=True)).inputs("token")[0]
    response = client.post("/ops/pause", data={"token": token, "queue": "default"})
    assert (response.status_code, response.headers["Location"]) == (303, "/ops/queues")
    assert "Path=/ops;" in response.headers["Set-Cookie"]


@pytest.mark.parametrize("base_url", ["/ops/retryq", "/ops/retryq/", "https://example.org/ops/retryq"])
def test_a_prefix_that_the_server_does_not_know_can_be_said(desk: Desk, read: Any, base_url: str) -> None:
    leads_below(desk.open(base_url=base_url).client, "/queues", "/ops/retryq", read)


def test_at_the_top_there_is_no_prefix(desk: Desk, read: Any) -> None:
    assert desk.look("/").link("Queues") == "/queues"


# Flask.


@pytest.fixture
def in_flask(desk: Desk) -> flask.Flask:
    app = flask.Flask("shop")
    app.secret_key = "of the test"

    @app.get("/")
    def index() -> str:
        return "the shop"

    @app.get("/login")
    def login() -> str:
        flask.session["user"] = "ada"
        return "welcome"

    def user(environ: dict[str, Any]) -> Any:
        with app.request_context(environ):
            return flask.session.get("user") or flask.redirect("/login")

    page = RetryQueueWeb(desk.operations, login=user)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/retryq": page})  # type: ignore[method-assign]
    return app


def test_in_flask_somebody_without_a_session_is_sent_to_the_login(in_flask: flask.Flask) -> None:
    client = in_flask.test_client()
    assert client.get("/").text == "the shop"
    response = client.get("/retryq/dead")
    assert (response.status_code, response.location) == (302, "/login")


def test_in_flask_somebody_with_a_session_sees_and_acts(in_flask: flask.Flask, desk: Desk, read: Any) -> None:
    letter = desk.die()
    client = in_flask.test_client()
    client.get("/login")
    document = read(client.get("/retryq/dead").text)
    assert "ada" in document.all("footer")[0].text
    form = {"token": document.inputs("token")[0], "id": letter.id}
    response = client.post("/retryq/dead/replay", data=form)
    assert (response.status_code, response.location) == (303, "/retryq/dead")
    assert "1 message was replayed and waits again." in client.get("/retryq/dead").text
    desk.broker.store.flush("default")


# Django.


@pytest.fixture(scope="module")
def django_application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import django
    from django.conf import settings

    urls = types.ModuleType("urls")
    settings.configure(
        SECRET_KEY="of the test",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=urls,
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(tmp_path_factory.mktemp("django") / "django.db"),
            }
        },
    )
    django.setup()
    from django.contrib.auth import get_user_model, login
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application
    from django.db import connections
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def log_in(request: HttpRequest, name: str) -> HttpResponse:
        login(request, get_user_model().objects.get(username=name))
        return HttpResponse("welcome")

    urls.urlpatterns = [path("login/<name>", log_in)]  # type: ignore[attr-defined]
    call_command("migrate", verbosity=0)
    get_user_model().objects.create_user("ada", is_staff=True)
    get_user_model().objects.create_user("eve")
    yield get_wsgi_application()
    connections.close_all()


@pytest.fixture
def in_django(desk: Desk, django_application: Any) -> Client:
    from django.contrib.auth import get_user
    from django.contrib.sessions.middleware import SessionMiddleware
    from django.core.handlers.wsgi import WSGIRequest
    from django.http import HttpResponse

    def staff(environ: dict[str, Any]) -> Any:
        request = WSGIRequest(environ)
        SessionMiddleware(lambda request: HttpResponse()).process_request(request)
        user = get_user(request)
        return user if user.is_staff else None

    page = RetryQueueWeb(desk.operations, login=staff)
    return Client(DispatcherMiddleware(django_application, {"/retryq": page}))


def test_in_django_nobody_but_staff_sees_the_page(in_django: Client) -> None:
    assert in_django.get("/retryq/").status_code == 403
    in_django.get("/login/eve")
    assert in_django.get("/retryq/").status_code == 403


def test_in_django_staff_sees_and_acts(in_django: Client, desk: Desk, read: Any) -> None:
    letter = desk.die()
    assert in_django.get("/login/ada").get_data() == b"welcome"
    document = read(in_django.get("/retryq/dead").get_data(as_text=True))
    assert "ada" in document.all("footer")[0].text
    form = {"token": document.inputs("token")[0], "id": letter.id}
    response = in_django.post("/retryq/dead/replay", data=form)
    assert (response.status_code, response.headers["Location"]) == (303, "/retryq/dead")
    assert desk.dead == []
    desk.broker.store.flush("default")


@pytest.mark.parametrize("mounted_at", ["//evil.example", "/evil.example/", "///evil.example"])
def test_a_path_of_two_slashes_is_no_other_site(mounted_at: str) -> None:
    client = Client(RetryQueueWeb(MemoryBroker()))
    page = client.get("/queues", environ_overrides={"SCRIPT_NAME": mounted_at}).get_data(as_text=True)
    assert 'href="/evil.example/queues"' in page
    assert "//evil.example" not in page
