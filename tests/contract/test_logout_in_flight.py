"""A provider's logout that comes while a request of the same sign-in is on its way: nothing that it meant stays."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest

from gateway.adapters.store import SqlStore
from gateway.app.approve_request import answer
from gateway.app.authenticate import authenticate, bearer_of
from gateway.app.browser_session import authenticate_web, provider_session_of
from gateway.app.device_flow import NotYet, confirm_device, poll_device, start_device
from gateway.app.end_provider_session import end_by_provider
from gateway.app.identity import NotSignedIn, Redeemed
from gateway.app.provider_logout import provider_logout
from gateway.app.request_access import Ask, request_access
from gateway.app.rotate_sign_in import rotate
from gateway.app.sign_in import SignedIn, derived
from gateway.app.sign_ins import PREFIXES
from gateway.app.web_login import begin_web_login, complete_web_login
from gateway.core.decision import Decision, Query
from gateway.core.errors import Conflict, Denied
from gateway.core.obligation import Obligations
from gateway.core.principal import User
from gateway.core.request import RequestState, Verdict
from tests.unit.edges.stage import Stage, ToldPolicy, make_stage
from tests.unit.edges.trusting_provider import TrustingProvider

ASK = Ask("orders-db", "read", timedelta(hours=8), "slow", "INC-1042")


@dataclass
class Meanwhile(TrustingProvider):
    """Answers a code once something else has happened."""

    happens: Callable[[], object] = lambda: None

    def redeem(self, *, code: str, verifier: str, nonce: str) -> Redeemed:
        answer = super().redeem(code=code, verifier=verifier, nonce=nonce)
        self.happens()
        return answer


@dataclass
class SlowPolicy(ToldPolicy):
    happens: Callable[[], object] = lambda: None

    def decide(self, query: Query) -> Decision:
        self.happens()
        return super().decide(query)


@pytest.fixture
def stage(tmp_path: Path, store: SqlStore) -> Stage:
    made = make_stage(tmp_path)
    made.store.close()
    return replace(made, ctx=replace(made.ctx, store=store), store=store)


@pytest.fixture
def other(stage: Stage, store_url: str) -> Iterator[Stage]:
    """Another gateway on the same database: the one that the provider calls."""
    store = SqlStore(store_url)
    yield replace(stage, ctx=replace(stage.ctx, gateway="other", store=store), store=store)
    store.close()


@pytest.fixture
def provider() -> Meanwhile:
    return Meanwhile(claims={"sid": "sid-1"})


def sign_in(stage: Stage, provider: TrustingProvider, name: str = "oncall") -> SignedIn:
    start = begin_web_login(stage.ctx, provider, "127.0.0.1")
    return complete_web_login(stage.ctx, provider, secret=start.secret, state=derived(start.secret, "state"), code=name)


def cli_of(stage: Stage, web: SignedIn) -> str:
    start = start_device(stage.ctx, "10.0.0.7")
    confirm_device(stage.ctx, web.user, start.user_code, "10.0.0.7", provider_session_of(stage.ctx, web.secret))
    done = poll_device(stage.ctx, start.device_code)
    assert isinstance(done, SignedIn)
    return done.secret


def left(stage: Stage, user: User) -> int:
    """Secrets of sign-ins that are still there."""
    with stage.store.read() as uow:
        return sum(len(uow.credentials.of_subject(user.id, purpose)) for purpose in PREFIXES)


# ---------------------------------------------------------------- a sign-in on its way


@pytest.mark.parametrize("token", [",sid-1,j1", "sub-oncall,,j1", "sub-oncall,sid-1,j1"])
def test_a_logout_while_the_code_is_redeemed_ends_what_comes_of_it(
    stage: Stage, other: Stage, provider: Meanwhile, token: str
) -> None:
    provider.happens = lambda: provider_logout(other.ctx, provider, token, "10.0.0.9")
    with pytest.raises(NotSignedIn) as no:
        sign_in(stage, provider)
    assert no.value.refusal.code == "signed-out-meanwhile"
    provider.happens = lambda: None
    stage.clock.advance(timedelta(seconds=1))
    assert authenticate_web(stage.ctx, sign_in(stage, provider).secret)  # who begins after it comes in


@pytest.mark.parametrize("token", [",sid-2,j1", "sub-lead,,j1", "sub-oncall,sid-2,j1"])
def test_a_logout_of_another_session_or_person_ends_nothing(
    stage: Stage, other: Stage, provider: Meanwhile, token: str
) -> None:
    provider.happens = lambda: provider_logout(other.ctx, provider, token, "10.0.0.9")
    assert authenticate_web(stage.ctx, sign_in(stage, provider).secret)


def test_nor_one_at_another_provider(stage: Stage, other: Stage, provider: Meanwhile) -> None:
    elsewhere = TrustingProvider(issuer="https://other.example.org", name="other")
    provider.happens = lambda: provider_logout(other.ctx, elsewhere, ",sid-1,j1", "10.0.0.9")
    assert authenticate_web(stage.ctx, sign_in(stage, provider).secret)


# ---------------------------------------------------------------- a terminal's sign-in on its way


def test_a_browser_that_was_asked_before_the_logout_confirms_no_terminal_after_it(
    stage: Stage, other: Stage, provider: Meanwhile
) -> None:
    web = sign_in(stage, provider)
    start = start_device(stage.ctx, "10.0.0.7")
    user, carrier = authenticate_web(stage.ctx, web.secret), provider_session_of(stage.ctx, web.secret)
    provider_logout(other.ctx, provider, ",sid-1,j1", "10.0.0.9")
    with suppress(Denied):
        confirm_device(stage.ctx, user, start.user_code, "10.0.0.7", carrier)
    assert poll_device(stage.ctx, start.device_code) is NotYet.ACCESS_DENIED
    assert left(stage, user) == 0


def test_nor_does_a_terminal_that_was_confirmed_come_in_by_a_session_that_is_over(
    stage: Stage, other: Stage, provider: Meanwhile
) -> None:
    """Also when the person has another one, and so keeps what else is theirs."""
    web = sign_in(stage, provider)
    start = start_device(stage.ctx, "10.0.0.7")
    carrier = provider_session_of(stage.ctx, web.secret)
    confirm_device(stage.ctx, web.user, start.user_code, "10.0.0.7", carrier)
    provider.claims = {"sid": "sid-2"}
    second = sign_in(stage, provider)
    with other.store.read() as uow:
        session = uow.provider_sessions.get(carrier)
    assert session is not None
    end_by_provider(other.ctx, session, "refused")
    assert poll_device(stage.ctx, start.device_code) is NotYet.ACCESS_DENIED
    assert authenticate_web(stage.ctx, second.secret)
    assert left(stage, web.user) == 1


# ---------------------------------------------------------------- a request on its way


@pytest.mark.parametrize("is_cli", [True, False])
def test_a_request_that_came_before_the_logout_gets_no_grant_after_it(
    stage: Stage, other: Stage, provider: Meanwhile, is_cli: bool
) -> None:
    web = sign_in(stage, provider)
    secret = cli_of(stage, web) if is_cli else web.secret
    user = authenticate(stage.ctx, secret) if is_cli else authenticate_web(stage.ctx, secret)
    policy = SlowPolicy(happens=lambda: provider_logout(other.ctx, provider, ",sid-1,j1", "10.0.0.9"))
    with pytest.raises(Denied) as no:
        request_access(replace(stage.ctx, policy=policy), user, ASK)
    assert no.value.refusal.code == "not-signed-in"
    with stage.store.read() as uow:
        assert uow.grants.list(holder=user.id, limit=10) == []
    assert left(stage, user) == 0


@pytest.mark.parametrize("verdict", list(Verdict))
def test_an_answer_that_came_before_the_logout_counts_for_nothing_after_it(
    stage: Stage, other: Stage, provider: Meanwhile, verdict: Verdict
) -> None:
    asked = replace(stage.ctx, policy=ToldPolicy(obligations=Obligations(approvals=1)))
    requester, approver = sign_in(stage, provider).user, sign_in(stage, provider, "lead")
    request = request_access(asked, requester, ASK).request
    user = authenticate(stage.ctx, cli_of(stage, approver))
    ended: list[int] = []

    def log_out_once() -> None:
        if not ended:
            ended.append(provider_logout(other.ctx, provider, "sub-lead,,j1", "10.0.0.9"))

    policy = SlowPolicy(obligations=Obligations(approvals=1), happens=log_out_once)
    with pytest.raises(Denied) as no:
        answer(replace(stage.ctx, policy=policy), user, request.id, verdict)
    assert (no.value.refusal.code, ended) == ("not-signed-in", [1])
    with stage.store.read() as uow:
        found = uow.requests.get(request.id)
    assert found is not None
    assert (found.state, found.approvals) == (RequestState.PENDING, ())


def test_one_of_a_sign_in_that_stays_gets_its_grant(stage: Stage, provider: Meanwhile) -> None:
    web = sign_in(stage, provider)
    secret = cli_of(stage, web)
    credential, user = bearer_of(stage.ctx, secret)
    policy = SlowPolicy(happens=lambda: rotate(stage.ctx, credential, user))  # renewed meanwhile: the same sign-in
    assert request_access(replace(stage.ctx, policy=policy), user, ASK).grant is not None


def test_whichever_of_a_renewal_and_a_logout_comes_first_no_secret_is_left(
    stage: Stage, other: Stage, provider: Meanwhile
) -> None:
    def at_once(gate: Barrier, call: Callable[[], object]) -> object:
        gate.wait(10)
        with suppress(NotSignedIn, Conflict):
            return call()
        return None

    for number in range(10):
        provider.claims = {"sid": f"sid-{number}"}
        credential, user = bearer_of(stage.ctx, cli_of(stage, sign_in(stage, provider)))
        renew = partial(rotate, stage.ctx, credential, user)
        log_out = partial(provider_logout, other.ctx, provider, f",sid-{number},j{number}", "10.0.0.9")
        gate = Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            renewed, ended = (pool.submit(at_once, gate, call) for call in (renew, log_out))
            fresh = renewed.result(30)
            assert ended.result(30) == 1
        assert left(stage, user) == 0
        if isinstance(fresh, SignedIn):
            with pytest.raises(NotSignedIn):
                authenticate(stage.ctx, fresh.secret)
        stage.clock.advance(timedelta(seconds=1))
