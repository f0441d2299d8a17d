import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from threading import Event
from typing import Any

import pytest

from gateway.app.authenticate import sign_out
from gateway.app.providers import Providers
from gateway.audit.recording import Frame
from gateway.core.grant import Grant
from gateway.core.obligation import Obligations
from gateway.core.request import Request, RequestKind
from gateway.core.session import Protocol, Session
from gateway.core.window import Window
from gateway.edges.http.app import create_app
from gateway.edges.http.live_views import MOST_IN_ALL, MOST_PER_PERSON
from tests.unit.edges.device import DEVICE
from tests.unit.edges.http.conftest import DOORS
from tests.unit.edges.stage import NoRecorder, Stage
from tests.unit.edges.trusting_provider import TrustingProvider

WITHIN_S = 20
PATH = "/api/sessions/ses_1/watch"
API_THREADS = 40  # Starlette's


class SilentSession(NoRecorder):
    """A session in which nothing happens until it is over."""

    def __init__(self) -> None:
        self.over = Event()

    def read(self, session_id: str, from_seq: int = 0) -> Iterator[Frame]:
        return iter(())

    def follow(self, session_id: str, from_seq: int = 0, silence: timedelta = timedelta(15)) -> Iterator[Frame | None]:
        while not self.over.wait(0.05):
            yield None


@dataclass
class Asked:
    """One request to the ASGI application, that stays until `left`."""

    task: asyncio.Task[None]
    left: asyncio.Event
    started: asyncio.Event = field(default_factory=asyncio.Event)
    status: int = 0
    body: bytes = b""


def ask(app: Any, path: str, token: str) -> Asked:
    left = asyncio.Event()
    at = app.state.wiring.ctx.clock.now().timestamp()
    told = {"authorization": f"DPoP {token}", "dpop": DEVICE.proof("GET", f"http://testserver{path}", token, at)}
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in told.items()], "client": ("127.0.0.1", 1), "server": ("gw", 80),
    }  # fmt: skip
    first = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if first:
            return first.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        asked.status = message.get("status", asked.status)
        asked.body += message.get("body", b"")
        if message["type"] == "http.response.start":
            asked.started.set()

    asked = Asked(asyncio.create_task(app(scope, receive, send)), left)
    return asked


async def statuses(asked: list[Asked]) -> list[int]:
    for each in asked:
        await asyncio.wait_for(each.started.wait(), WITHIN_S)
    return [each.status for each in asked]


@pytest.fixture
def silent() -> Iterator[SilentSession]:
    silent = SilentSession()
    yield silent
    silent.over.set()


@pytest.fixture
def app(stage: Stage, silent: SilentSession) -> Any:
    holder, at = stage.user("holder"), stage.clock.now()
    hour, nothing = timedelta(hours=1), Obligations()
    with stage.ctx.store.begin() as uow:
        uow.requests.add(
            Request("req_1", holder.id, "holder", "orders-db", "read", hour, "why", "INC-1", RequestKind.STANDARD, at,
                    nothing, (), "")
        )  # fmt: skip
        uow.grants.add(
            Grant("grt_1", "req_1", holder.id, "holder", "orders-db", "read", Window(at, at + hour),
                  RequestKind.STANDARD, nothing, "INC-1")
        )  # fmt: skip
        uow.sessions.add(
            Session("ses_1", "grt_1", holder.id, "holder", "orders-db", "read", Protocol.POSTGRES, "127.0.0.1:1",
                    "stage", at, at + hour)
        )  # fmt: skip
    ctx = replace(stage.ctx, recorder=silent)
    return create_app(ctx, Providers([TrustingProvider()]), DOORS, public_url="http://testserver")


def test_a_person_has_so_many_views_and_gets_the_place_back(app: Any, stage: Stage) -> None:
    token = stage.token(stage.user("lead"))

    async def scene() -> None:
        views = [ask(app, PATH, token) for _ in range(MOST_PER_PERSON)]
        assert await statuses(views) == [200] * MOST_PER_PERSON
        more = ask(app, PATH, token)
        assert await statuses([more]) == [429]
        assert b"You have 4 live views open already." in more.body
        views[0].left.set()
        await asyncio.wait_for(views[0].task, WITHIN_S)
        again = ask(app, PATH, token)
        while (await statuses([again])) == [429]:  # the thread of the one that left looks up from the recording first
            again = ask(app, PATH, token)
        assert again.status == 200
        for each in [*views, again]:
            each.left.set()
        await asyncio.gather(*(each.task for each in [*views, again]))

    asyncio.run(asyncio.wait_for(scene(), WITHIN_S))


def test_the_api_answers_while_all_views_are_taken(app: Any, stage: Stage, silent: SilentSession) -> None:
    people = [stage.token(stage.user(f"lead{n}")) for n in range(API_THREADS // MOST_PER_PERSON + 1)]

    async def scene() -> None:
        views = [ask(app, PATH, token) for token in people for _ in range(MOST_PER_PERSON)]
        told = await statuses(views)
        assert (told.count(200), told.count(429)) == (MOST_IN_ALL, len(views) - MOST_IN_ALL)
        assert await statuses([ask(app, "/api/whoami", people[0]) for _ in range(20)]) == [200] * 20
        silent.over.set()
        await asyncio.gather(*(each.task for each in views))
        assert all(b"event: end" in each.body for each in views if each.status == 200)
        assert await statuses([ask(app, "/healthz", "")]) == [200]

    asyncio.run(asyncio.wait_for(scene(), WITHIN_S))


def test_who_may_not_watch_takes_no_place(app: Any, stage: Stage) -> None:
    token = stage.token(stage.user("lead"))

    async def scene() -> None:
        wrong = [ask(app, "/api/sessions/ses_404/watch", token) for _ in range(MOST_PER_PERSON + 1)]
        assert set(await statuses(wrong)) <= {404, 429}
        await asyncio.gather(*(each.task for each in wrong))
        view = ask(app, PATH, token)
        assert await statuses([view]) == [200]
        view.left.set()
        await view.task

    asyncio.run(asyncio.wait_for(scene(), WITHIN_S))


@pytest.mark.parametrize("how", ["sign out", "expire"])
def test_a_view_ends_with_its_sign_in(app: Any, stage: Stage, silent: SilentSession, how: str) -> None:
    token = stage.token(stage.user("lead"))

    async def scene() -> None:
        view = ask(app, PATH, token)
        assert await statuses([view]) == [200]
        if how == "sign out":
            await asyncio.to_thread(sign_out, stage.ctx, token)
        else:
            stage.clock.advance(timedelta(hours=13))
        await view.task
        assert b"event: denied" in view.body
        assert token.encode() not in view.body

    asyncio.run(asyncio.wait_for(scene(), WITHIN_S))
