"""A browser's session in the hands of its owner, and of somebody who has copied a cookie."""

import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.app.browser_session import (
    BIND_WITHIN,
    COOKIE_COMES,
    IDLE,
    PROVE_EVERY,
    NotProven,
    authenticate_form,
    authenticate_page,
    authenticate_web,
    end_browser_session,
    prove_browser,
)
from gateway.app.credentials import digest_of
from gateway.app.identity import NotSignedIn
from gateway.app.list_sign_ins import list_sign_ins
from gateway.app.possession import SeenProofs
from gateway.app.sign_in import SignedIn
from gateway.app.sign_ins import Device, open_sign_in
from gateway.core.device_proof import DeviceProof
from gateway.core.principal import User
from tests.unit.edges.stage import Stage, make_stage

SECOND = timedelta(seconds=1)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = make_stage(tmp_path)
    yield made
    made.store.close()


def sign_in(stage: Stage, user: User) -> str:
    with stage.ctx.store.begin() as uow:
        return open_sign_in(stage.ctx, uow, user, "web", stage.clock.now(), device=Device("10.0.0.7", "Firefox")).secret


def proof(stage: Stage, key: str = "owner") -> DeviceProof:
    """As verified for the request at hand."""
    return DeviceProof(key, "POST", "https://gw/x", stage.clock.now(), secrets.token_hex(8))


def prove(stage: Stage, cookie: str, key: str = "owner") -> SignedIn | None:
    return prove_browser(stage.ctx, cookie, proof(stage, key), SeenProofs(), "10.0.0.7")


def bound(stage: Stage, user: User) -> str:
    renewed = prove(stage, sign_in(stage, user))
    assert renewed is not None
    return renewed.secret


def test_a_session_is_bound_once_and_the_log_says_from_where(stage: Stage) -> None:
    user = stage.user("oncall")
    first = sign_in(stage, user)
    with pytest.raises(NotProven):
        authenticate_page(stage.ctx, first)
    cookie = prove(stage, first)
    assert cookie is not None
    assert authenticate_page(stage.ctx, cookie.secret).name == "oncall"
    with pytest.raises(NotSignedIn):
        prove(stage, cookie.secret, "thief")
    assert stage.events().count(("login:bound", "ok")) == 1
    with stage.ctx.store.read() as uow:
        (row,) = [c for c in uow.credentials.of_subject(user.id, "web") if c.used_at is None]
    assert row.data is not None
    assert row.data["key"] == "owner"


def test_whoever_was_slower_than_a_thief_is_told_so_at_the_first_page(stage: Stage) -> None:
    first = sign_in(stage, stage.user("oncall"))
    assert prove(stage, first, "thief") is not None
    with pytest.raises(NotProven):
        authenticate_page(stage.ctx, first)
    with pytest.raises(NotSignedIn):
        prove(stage, first)
    assert stage.events()[-1] == ("login:unproven", "denied")


def test_one_from_before_sessions_were_bound_signs_in_again_however_fresh_its_secret_is(stage: Stage) -> None:
    old = sign_in(stage, stage.user("oncall"))
    stage.clock.advance(BIND_WITHIN)
    with stage.ctx.store.begin() as uow:
        kept = uow.credentials.find(digest_of(old), "web")
        assert kept is not None
        uow.credentials.save(replace(kept, issued_at=stage.clock.now()))
    for way in (lambda: authenticate_page(stage.ctx, old), lambda: prove(stage, old)):
        with pytest.raises(NotSignedIn):
            way()


def test_a_copy_does_not_keep_a_session_awake(stage: Stage) -> None:
    cookie = bound(stage, stage.user("oncall"))
    for _ in range(4):
        stage.clock.advance(IDLE / 3)
        with suppress(NotProven, NotSignedIn):
            authenticate_page(stage.ctx, cookie)
        with suppress(NotSignedIn):
            prove(stage, cookie, "thief")
        with suppress(NotSignedIn):
            authenticate_form(stage.ctx, cookie, proof(stage, "thief"), SeenProofs(), "10.0.0.9")
    with pytest.raises(NotSignedIn):
        prove(stage, cookie)


def test_a_form_keeps_it_awake_and_ends_it(stage: Stage) -> None:
    cookie = bound(stage, stage.user("oncall"))
    for _ in range(3):
        stage.clock.advance(IDLE - SECOND)
        authenticate_form(stage.ctx, cookie, proof(stage), SeenProofs(), "10.0.0.7")
    end_browser_session(stage.ctx, cookie)
    with pytest.raises(NotSignedIn):
        authenticate_web(stage.ctx, cookie)
    end_browser_session(stage.ctx, cookie)
    assert stage.events().count(("login:ended", "ok")) == 1


def test_a_browser_session_ends_absolutely(stage: Stage) -> None:
    user = stage.user("oncall")
    cookie = bound(stage, user)
    (ends_at,) = [view.expires_at for view in list_sign_ins(stage.ctx, user)]
    while stage.clock.now() < ends_at:
        if (renewed := prove(stage, cookie)) is not None:
            cookie = renewed.secret
        stage.clock.advance(timedelta(minutes=30))
    for way in (authenticate_web, authenticate_page, prove):
        with pytest.raises(NotSignedIn):
            way(stage if way is prove else stage.ctx, cookie)  # type: ignore[arg-type]


def test_signing_out_ends_every_secret_that_it_had(stage: Stage) -> None:
    old = bound(stage, stage.user("oncall"))
    stage.clock.advance(PROVE_EVERY)
    new = prove(stage, old)
    assert new is not None
    end_browser_session(stage.ctx, new.secret)
    with pytest.raises(NotSignedIn):
        prove(stage, old)


class OneBrowser(RuleBasedStateMachine):
    """Its owner opens it in many tabs on a bad network, and it crashes and comes back with an older cookie; a thief
    copies cookies. The owner is never put out nor called a thief, and the thief looks at pages for five minutes at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.stage = make_stage(Path(self.folder.name))
        self.user = self.stage.user("oncall")
        self.cookie = bound(self.stage, self.user)
        self.had = [(self.cookie, self.stage.clock.now())]
        self.copied_at = self.stage.clock.now()
        self.copy = self.cookie

    @rule(is_lost=st.booleans())
    def open_a_page(self, is_lost: bool) -> None:
        """As the script does: prove, and try again while another answer is on its way."""
        for _ in range(3):
            try:
                assert authenticate_page(self.stage.ctx, self.cookie) == self.user
            except NotProven:
                renewed = prove(self.stage, self.cookie)
                if renewed is None:
                    self.stage.clock.advance(COOKIE_COMES / 2)
                elif not is_lost:
                    self.cookie = renewed.secret
                    self.had.append((self.cookie, self.stage.clock.now()))
            else:
                return
        if not is_lost:
            assert authenticate_page(self.stage.ctx, self.cookie) == self.user

    @rule(back=st.integers(1, 4))
    def crash(self, back: int) -> None:
        """The browser comes back with one of its last cookies, of less than an hour ago: else it signs in again."""
        self.had = [each for each in self.had if self.stage.clock.now() - each[1] < IDLE / 2] or self.had[-1:]
        self.cookie = self.had[-min(back, len(self.had))][0]

    @rule()
    def copy_the_cookie(self) -> None:
        self.copy, self.copied_at = self.cookie, self.stage.clock.now()

    @rule()
    def steal(self) -> None:
        with suppress(NotProven, NotSignedIn):
            authenticate_page(self.stage.ctx, self.copy)
            assert self.stage.clock.now() - self.copied_at < PROVE_EVERY
        for way in (
            lambda: prove(self.stage, self.copy, "thief"),
            lambda: authenticate_form(self.stage.ctx, self.copy, proof(self.stage, "thief"), SeenProofs(), "1.2.3.4"),
        ):
            with pytest.raises(NotSignedIn):
                way()

    @precondition(lambda self: self.stage.clock.now() < self.ends_soon())
    @rule(seconds=st.sampled_from([1, 31, 61, 301, 3000]))
    def wait(self, seconds: int) -> None:
        self.open_a_page(is_lost=False)
        self.stage.clock.advance(seconds * SECOND)

    def ends_soon(self) -> object:
        (view,) = list_sign_ins(self.stage.ctx, self.user)
        return view.expires_at - timedelta(hours=2)

    @invariant()
    def one_secret_is_in_use(self) -> None:
        assert len(list_sign_ins(self.stage.ctx, self.user)) == 1
        assert ("login:reused", "denied") not in self.stage.events()

    def teardown(self) -> None:
        self.open_a_page(is_lost=False)
        self.stage.store.close()
        self.folder.cleanup()


TestOneBrowser = OneBrowser.TestCase
TestOneBrowser.settings = hypothesis_settings(max_examples=25, stateful_step_count=20, deadline=None)
