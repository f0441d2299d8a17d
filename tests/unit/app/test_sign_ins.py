"""Sign-ins are listed, ended one by one, and their secrets renewed: whoever copied one is found out."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.app.authenticate import authenticate, authenticate_web, bearer_of, renewed_web, sign_out
from gateway.app.identity import NotSignedIn
from gateway.app.list_sign_ins import list_sign_ins, revoke_sign_in
from gateway.app.rotate_sign_in import GRACE, ROTATE_AFTER, rotate
from gateway.app.sign_in import SignedIn
from gateway.app.sign_ins import Device, open_sign_in
from gateway.core.errors import NotFound
from gateway.core.principal import User
from tests.unit.edges.stage import Stage, make_stage

SECOND = timedelta(seconds=1)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = make_stage(tmp_path)
    yield made
    made.store.close()


def sign_in(stage: Stage, user: User, purpose: str = "cli", agent: str = "gw") -> SignedIn:
    with stage.store.begin() as uow:
        return open_sign_in(stage.ctx, uow, user, purpose, stage.clock.now(), device=Device("10.0.0.7", agent))


def renew(stage: Stage, secret: str) -> str:
    return rotate(stage.ctx, *bearer_of(stage.ctx, secret, "cli")).secret


def is_good(stage: Stage, secret: str) -> bool:
    try:
        authenticate(stage.ctx, secret)
    except NotSignedIn:
        return False
    return True


def test_a_renewed_sign_in_is_the_same_one_and_ends_when_it_always_did(stage: Stage) -> None:
    user = stage.user("oncall")
    first = sign_in(stage, user)
    (before,) = list_sign_ins(stage.ctx, user)
    stage.clock.advance(ROTATE_AFTER)
    second = renew(stage, first.secret)
    (after,) = list_sign_ins(stage.ctx, user)
    assert (after.id, after.since, after.expires_at, after.client) == (
        before.id, before.since, before.expires_at, "10.0.0.7"
    )  # fmt: skip
    assert second != first.secret
    assert second not in stage.dump()
    assert is_good(stage, first.secret)  # a command may be under way
    stage.clock.advance(first.expires_at - stage.clock.now())
    assert not is_good(stage, second)


def test_a_copied_secret_is_found_out_whoever_renews_first(stage: Stage) -> None:
    user = stage.user("oncall")
    for thief_first in (False, True):
        copied = sign_in(stage, user).secret
        renewed = renew(stage, copied)
        stage.clock.advance(GRACE)
        late, early = (renewed, copied) if thief_first else (copied, renewed)
        assert not is_good(stage, copied)
        assert not is_good(stage, renewed)
        assert not is_good(stage, late)
        assert not is_good(stage, early)
    assert stage.events().count(("login:reused", "denied")) == 2
    assert list_sign_ins(stage.ctx, user) == []


def test_a_lost_answer_is_no_theft(stage: Stage) -> None:
    mine = sign_in(stage, stage.user("oncall")).secret
    lost = renew(stage, mine)
    again = renew(stage, mine)
    stage.clock.advance(GRACE + SECOND)
    assert is_good(stage, again)
    assert not is_good(stage, lost)  # and whoever holds that one is a thief
    assert not is_good(stage, again)


def test_ending_one_leaves_the_others(stage: Stage) -> None:
    user, other = stage.user("oncall"), stage.user("lead")
    one, two, theirs = sign_in(stage, user), sign_in(stage, user, "web", "Firefox"), sign_in(stage, other)
    views = {view.kind: view for view in list_sign_ins(stage.ctx, user)}
    assert views["web"].agent == "Firefox"
    with pytest.raises(NotFound):
        revoke_sign_in(stage.ctx, other, views["web"].id)
    renewed = renew(stage, one.secret)
    revoke_sign_in(stage.ctx, user, views["cli"].id)
    assert not is_good(stage, one.secret)
    assert not is_good(stage, renewed)
    assert authenticate_web(stage.ctx, two.secret)
    assert is_good(stage, theirs.secret)
    with pytest.raises(NotFound):
        revoke_sign_in(stage.ctx, user, views["cli"].id)
    assert ("login:revoked", "ok") in stage.events()


def test_signing_out_ends_what_was_renewed_too(stage: Stage) -> None:
    first = sign_in(stage, stage.user("oncall")).secret
    second = renew(stage, first)
    sign_out(stage.ctx, second)
    assert not is_good(stage, first)
    assert not is_good(stage, second)
    assert ("login:reused", "denied") not in stage.events()


def test_a_browser_gets_a_new_secret_in_time(stage: Stage) -> None:
    session = sign_in(stage, stage.user("oncall"), "web")
    assert renewed_web(stage.ctx, session.secret) is None
    stage.clock.advance(ROTATE_AFTER)
    authenticate_web(stage.ctx, session.secret)
    renewed = renewed_web(stage.ctx, session.secret)
    assert renewed is not None
    assert renewed.secret.startswith("gww_")
    assert renewed_web(stage.ctx, session.secret) is None  # another tab, a moment later: the cookie is there already
    assert authenticate_web(stage.ctx, renewed.secret)


def test_last_use_is_noted_to_five_minutes(stage: Stage) -> None:
    user = stage.user("oncall")
    secret = sign_in(stage, user).secret
    stage.clock.advance(timedelta(minutes=6))
    authenticate(stage.ctx, secret)
    assert list_sign_ins(stage.ctx, user)[0].seen_at == stage.clock.now()


class Renewals(RuleBasedStateMachine):
    """However renewals, uses and time interleave: of one sign-in at most one secret is in use for longer than a minute."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.stage = make_stage(Path(self.folder.name))

    @initialize()
    def begin(self) -> None:
        self.user = self.stage.user("oncall")
        self.secrets = [sign_in(self.stage, self.user).secret]

    @rule(place=st.integers(0, 5))
    def renew_one(self, place: int) -> None:
        try:
            self.secrets.append(renew(self.stage, self.secrets[place % len(self.secrets)]))
        except NotSignedIn:
            return

    @rule(seconds=st.sampled_from([1, 30, 61]))
    def wait(self, seconds: int) -> None:
        self.stage.clock.advance(seconds * SECOND)

    @rule(place=st.integers(0, 5))
    def use(self, place: int) -> None:
        is_good(self.stage, self.secrets[place % len(self.secrets)])

    @invariant()
    def at_most_one_is_in_use(self) -> None:
        if hasattr(self, "secrets"):
            assert len(list_sign_ins(self.stage.ctx, self.user)) <= 1

    def teardown(self) -> None:
        self.stage.store.close()
        self.folder.cleanup()


TestRenewals = Renewals.TestCase
TestRenewals.settings = hypothesis_settings(max_examples=15, stateful_step_count=12, deadline=None)
