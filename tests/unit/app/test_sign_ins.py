"""Sign-ins are listed, ended one by one, and their secrets renewed: whoever copied one is found out."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.app.authenticate import authenticate, bearer_of, sign_out
from gateway.app.browser_session import authenticate_web
from gateway.app.credentials import digest_of
from gateway.app.identity import NotSignedIn
from gateway.app.list_sign_ins import list_sign_ins, revoke_sign_in
from gateway.app.rotate_sign_in import GRACE, is_current, rotate
from gateway.app.sign_in import SignedIn
from gateway.app.sign_ins import Device, open_sign_in
from gateway.core.errors import Conflict, NotFound
from gateway.core.principal import User
from tests.unit.edges.stage import Stage, make_stage

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = make_stage(tmp_path)
    yield made
    made.store.close()


def sign_in(stage: Stage, user: User, purpose: str = "cli", agent: str = "gw") -> SignedIn:
    with stage.store.begin() as uow:
        return open_sign_in(stage.ctx, uow, user, purpose, stage.clock.now(), device=Device("10.0.0.7", agent))


def renew(stage: Stage, secret: str) -> str:
    return rotate(stage.ctx, *bearer_of(stage.ctx, secret)).secret


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
    stage.clock.advance(HOUR)
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
    """Nobody can tell which of the two is the thief."""
    user = stage.user("oncall")
    copied = sign_in(stage, user).secret
    renewed = renew(stage, copied)
    assert is_good(stage, renewed)
    stage.clock.advance(GRACE - SECOND)
    assert is_good(stage, copied)  # a command may be under way
    stage.clock.advance(SECOND)
    assert not is_good(stage, copied)
    assert not is_good(stage, renewed)
    assert stage.events().count(("login:reused", "denied")) == 1
    assert list_sign_ins(stage.ctx, user) == []


def test_a_thief_who_renews_and_waits_is_found_out(stage: Stage) -> None:
    copied = sign_in(stage, stage.user("oncall")).secret
    of_thief = renew(stage, copied)
    stage.clock.advance(3 * HOUR)
    mine = renew(stage, copied)
    assert is_good(stage, mine)
    assert not is_good(stage, of_thief)
    assert not is_good(stage, mine)
    assert ("login:reused", "denied") in stage.events()


def test_who_renews_a_secret_whose_successor_was_renewed_has_a_copy(stage: Stage) -> None:
    copied = sign_in(stage, stage.user("oncall")).secret
    read = bearer_of(stage.ctx, copied)
    second = renew(stage, copied)
    third = renew(stage, second)
    with pytest.raises(NotSignedIn):
        rotate(stage.ctx, *read)
    assert not is_good(stage, third)


def test_a_command_under_way_does_not_renew_what_is_renewed_and_in_use(stage: Stage) -> None:
    old = sign_in(stage, stage.user("oncall")).secret
    renewed = renew(stage, old)
    assert is_good(stage, renewed)
    with pytest.raises(Conflict) as no:
        renew(stage, old)
    assert no.value.refusal.code == "renewed-already"
    assert is_good(stage, renewed)


def test_a_lost_answer_is_no_theft(stage: Stage) -> None:
    mine = sign_in(stage, stage.user("oncall")).secret
    lost = renew(stage, mine)
    again = renew(stage, mine)
    stage.clock.advance(GRACE + SECOND)
    assert is_good(stage, again)
    assert not is_good(stage, lost)  # and whoever holds that one is a thief
    assert not is_good(stage, again)


def test_who_never_got_the_new_secret_goes_on_with_the_old_one(stage: Stage) -> None:
    mine = sign_in(stage, stage.user("oncall")).secret
    renew(stage, mine)
    for _ in range(5):
        stage.clock.advance(HOUR)
        assert is_good(stage, mine)
    again = renew(stage, mine)
    assert is_good(stage, again)
    stage.clock.advance(GRACE + SECOND)
    assert is_good(stage, again)
    assert ("login:reused", "denied") not in stage.events()


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


def test_last_use_is_noted_to_five_minutes(stage: Stage) -> None:
    user = stage.user("oncall")
    secret = sign_in(stage, user).secret
    stage.clock.advance(timedelta(minutes=6))
    authenticate(stage.ctx, secret)
    assert list_sign_ins(stage.ctx, user)[0].seen_at == stage.clock.now()


class Life(RuleBasedStateMachine):
    """A sign-in in somebody's hands, on a stage of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.stage = make_stage(Path(self.folder.name))
        self.user = self.stage.user("oncall")

    def is_over(self) -> bool:
        return not list_sign_ins(self.stage.ctx, self.user)

    def teardown(self) -> None:
        self.stage.store.close()
        self.folder.cleanup()


class Renewals(Life):
    """However many hold secrets of one sign-in, and whatever they do with them: it is in use under one at most, and a
    minute after the first use of a secret nothing before it is worth anything.
    """

    def __init__(self) -> None:
        super().__init__()
        self.secrets = [sign_in(self.stage, self.user).secret]
        self.came_from = {self.secrets[0]: ""}
        self.used_at: dict[str, datetime] = {}

    def _use(self, secret: str) -> bool:
        at = self.stage.clock.now()
        if is_good(self.stage, secret):
            self.used_at.setdefault(secret, at)
            return True
        assert self.is_over()  # never a no that leaves the sign-in to the other one
        return False

    @rule(place=st.integers(0, 5))
    def renew_one(self, place: int) -> None:
        old = self.secrets[place % len(self.secrets)]
        if self._use(old):
            with suppress(Conflict, NotSignedIn):
                self.secrets.append(renew(self.stage, old))
                self.came_from[self.secrets[-1]] = old

    @rule(place=st.integers(0, 5))
    def use(self, place: int) -> None:
        self._use(self.secrets[place % len(self.secrets)])

    @rule(seconds=st.sampled_from([1, 30, 61, 4000]))
    def wait(self, seconds: int) -> None:
        self.stage.clock.advance(seconds * SECOND)

    @invariant()
    def at_most_one_is_in_use(self) -> None:
        assert len(list_sign_ins(self.stage.ctx, self.user)) <= 1

    @invariant()
    def what_came_before_one_in_use_is_worth_nothing_after_a_minute(self) -> None:
        at = self.stage.clock.now()
        for secret, used_at in self.used_at.items():
            before = self.came_from[secret]
            if before and at - used_at >= GRACE:
                with self.stage.store.read() as uow:
                    kept = uow.credentials.find(digest_of(before), "cli")
                    assert kept is None or not is_current(uow, kept, at)


TestRenewals = Renewals.TestCase
TestRenewals.settings = hypothesis_settings(max_examples=15, stateful_step_count=15, deadline=None)
