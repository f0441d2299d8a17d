"""The duties `@step_up` and `@max_auth_age` under real policies: who must prove what, when, and what comes of it."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.app.approve_request import answer
from gateway.app.break_glass import break_glass
from gateway.app.extend_grant import extend_grant
from gateway.app.inspect_log import search_events
from gateway.app.log_ports import EventFilter
from gateway.app.open_session import open_session
from gateway.app.reevaluate import Reevaluation
from gateway.app.replay_session import watch
from gateway.app.request_access import request_access
from gateway.app.review_grant import sign
from gateway.core.authentication import REQUIRED, Proof
from gateway.core.errors import Denied
from gateway.core.grant import Grant
from gateway.core.request import Verdict
from gateway.core.session import EndReason
from tests.unit.app.house import House
from tests.unit.app.test_main_job import ADMIN, HOUR, READ, SHELL, granted, opened
from tests.unit.app.test_outages_and_attacks import edit, own_policies

MINUTE = timedelta(minutes=1)
LOOK = '@id("oncall-look")'
CHANGE = '@id("oncall-change")'


def demand(house: House, tmp_path: Path, file: str, policy: str, *duties: str) -> Path:
    folder = own_policies(house, tmp_path)
    edit(folder, file, policy, "\n".join((policy, *duties)))
    assert house.ctx.policy.reload() is None
    return folder


def test_the_shipped_policies_ask_for_a_passkey_to_break_the_glass_for_everything(house: House):
    with pytest.raises(Denied) as no:
        break_glass(house.ctx, house.people["oncall"], ADMIN)
    assert no.value.refusal.code == REQUIRED
    assert house.types()[-1] == ("request:denied", "denied")
    assert not house.notes.sent
    assert break_glass(house.ctx, house.people["oncall"], replace(ADMIN, level="write")).grant
    with pytest.raises(Denied):
        break_glass(house.ctx, house.people["oncall"], replace(ADMIN, target="web-1", level="root"))
    person = house.proved("oncall")
    assert break_glass(house.ctx, person, ADMIN).grant
    house.later(10 * MINUTE)
    assert break_glass(house.ctx, person, ADMIN).grant  # to the minute, and no longer:
    house.later(timedelta(seconds=1))
    with pytest.raises(Denied):
        break_glass(house.ctx, person, ADMIN)


def test_what_was_proved_is_kept_with_the_decision(house: House):
    person = house.proved("oncall")
    break_glass(house.ctx, person, ADMIN)
    kept = house.events("grant:issued")[-1].data["facts"]["authentication"]
    assert (kept["passkey"], kept["passkey_at"]) == (person.proof.passkey, house.clock.now().isoformat())


def test_a_no_for_another_reason_comes_first(house: House):
    """Nobody is sent to fetch a key in vain."""
    with pytest.raises(Denied) as no:
        break_glass(house.ctx, house.people["developer"], ADMIN)
    assert no.value.refusal.code == "not-on-call"


def test_an_age_is_met_by_a_sign_in_or_by_a_passkey(house: House, tmp_path: Path):
    demand(house, tmp_path, "oncall.cedar", LOOK, '@max_auth_age("5m")')
    user, at = house.people["oncall"], house.clock.now()
    with pytest.raises(Denied):
        request_access(house.ctx, user, READ)
    for proof in (Proof(provider_at=at - 5 * MINUTE), Proof(passkey_at=at - 5 * MINUTE)):
        assert request_access(house.ctx, replace(user, proof=proof), READ).grant
    for proof in (Proof(provider_at=at - 6 * MINUTE), Proof(provider_at=at + 2 * MINUTE)):
        with pytest.raises(Denied) as no:
            request_access(house.ctx, replace(user, proof=proof), READ)
        assert no.value.refusal.code == REQUIRED


def test_a_connection_asks_nobody_again(house: House, tmp_path: Path):
    demand(house, tmp_path, "oncall.cedar", '@id("oncall-look")', '@step_up("webauthn")', '@max_auth_age("5m")')
    grant = request_access(house.ctx, house.proved("oncall"), SHELL).grant
    assert grant is not None
    house.later(50 * MINUTE)
    _, held = opened(house, grant)
    Reevaluation().tick(house.ctx, ask_policy=True)
    assert held.ended == []


def test_what_was_given_on_less_ends_when_policy_wants_more(house: House, tmp_path: Path):
    bare = granted(house)
    _, held = opened(house, bare)
    demand(house, tmp_path, "oncall.cedar", LOOK, '@step_up("webauthn")')
    Reevaluation().tick(house.ctx, ask_policy=True)
    assert [reason for reason, _ in held.ended] == [EndReason.POLICY_CHANGED]
    with pytest.raises(Denied) as no:
        open_session(house.ctx, house.people["oncall"], bare, "127.0.0.1:5000")
    assert no.value.refusal.code == "proof-missing"
    proved = request_access(house.ctx, house.proved("oncall"), SHELL).grant
    assert proved is not None
    opened(house, proved)


def test_extending_is_asking_anew(house: House, tmp_path: Path):
    demand(house, tmp_path, "oncall.cedar", LOOK, '@step_up("webauthn")')
    grant = request_access(house.ctx, house.proved("oncall"), SHELL).grant
    assert grant is not None
    house.later(30 * MINUTE)
    with pytest.raises(Denied) as no:
        extend_grant(house.ctx, house.people["oncall"], grant.id, HOUR)
    assert no.value.refusal.code == REQUIRED
    assert house.types()[-1] == ("grant:extension-denied", "denied")
    assert extend_grant(house.ctx, house.proved("oncall"), grant.id, HOUR).window.not_after > grant.window.not_after


def test_whoever_approves_proves_too_where_policy_says_so(house: House, tmp_path: Path):
    demand(house, tmp_path, "approvers.cedar", '@id("leads-approve")', '@step_up("webauthn")')
    asked = request_access(house.ctx, house.people["oncall"], ADMIN).request
    with pytest.raises(Denied) as no:
        answer(house.ctx, house.people["lead"], asked.id, Verdict.APPROVE)
    assert no.value.refusal.code == REQUIRED
    assert answer(house.ctx, house.proved("lead"), asked.id, Verdict.APPROVE).grant


def test_whoever_asked_has_proved_when_they_asked(house: House, tmp_path: Path):
    folder = own_policies(house, tmp_path)
    asked = request_access(house.ctx, house.people["oncall"], ADMIN).request
    edit(folder, "oncall.cedar", CHANGE, f'{CHANGE}\n@step_up("webauthn")')
    assert house.ctx.policy.reload() is None
    with pytest.raises(Denied) as no:
        answer(house.ctx, house.people["lead"], asked.id, Verdict.APPROVE)
    assert no.value.refusal.code == "proof-missing"
    again = request_access(house.ctx, house.proved("oncall"), ADMIN).request
    house.later(HOUR)  # the approver takes a while, and that is nobody's fault
    assert answer(house.ctx, house.people["lead"], again.id, Verdict.APPROVE).grant


def test_reviewing_and_reading_the_log(house: House, tmp_path: Path):
    folder = demand(house, tmp_path, "approvers.cedar", '@id("leads-and-auditors-review")', '@max_auth_age("10m")')
    edit(folder, "audit.cedar", '@id("auditors-audit")', '@id("auditors-audit")\n@step_up("webauthn")')
    assert house.ctx.policy.reload() is None
    grant = break_glass(house.ctx, house.proved("oncall"), ADMIN).grant
    assert grant is not None
    with pytest.raises(Denied):
        sign(house.ctx, house.people["lead"], grant.id, "justified", "read it")
    assert not sign(house.ctx, house.proved("lead"), grant.id, "justified", "read it").is_open()
    with pytest.raises(Denied) as no:
        search_events(house.ctx, house.people["auditor"], EventFilter())
    assert no.value.refusal.code == REQUIRED
    assert search_events(house.ctx, house.proved("auditor"), EventFilter())


def test_whoever_watches_has_proved_when_they_began(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    demand(house, tmp_path, "audit.cedar", '@id("auditors-and-leads-watch")', '@step_up("webauthn-each")')
    monkeypatch.setattr("gateway.app.replay_session.ASK_AGAIN", timedelta(milliseconds=10))
    session = opened(house, granted(house))[0].session.id
    with pytest.raises(Denied):
        watch(house.ctx, house.people["auditor"], session)
    person = house.proved("auditor")
    seen = watch(house.ctx, person, session)
    house.later(HOUR / 2)
    assert [next(seen) for _ in range(5)][-2:] == [None, None], "asked again, and there is nothing new"
    with pytest.raises(Denied):
        watch(house.ctx, person, session)


def test_one_proof_for_each_where_policy_says_so(house: House, tmp_path: Path):
    demand(house, tmp_path, "oncall.cedar", LOOK, '@step_up("webauthn-each")')
    person = house.proved("oncall")
    assert request_access(house.ctx, person, READ).grant
    with pytest.raises(Denied) as no:
        request_access(house.ctx, person, READ)
    assert no.value.refusal.code == REQUIRED
    forged = replace(person, proof=replace(person.proof, id="prf_somebody-elses"))
    with pytest.raises(Denied):
        request_access(house.ctx, forged, READ)


def test_two_requests_at_once_use_one_proof_once(house: House, tmp_path: Path):
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    demand(house, tmp_path, "oncall.cedar", LOOK, '@step_up("webauthn-each")')
    person, together = house.proved("oncall"), Barrier(4)

    def ask(_: int) -> Grant | None:
        together.wait(10)
        try:
            return request_access(house.ctx, person, READ).grant
        except Denied:
            return None

    with ThreadPoolExecutor(4) as pool:
        grants = [grant for grant in pool.map(ask, range(4)) if grant is not None]
    assert len(grants) == 1
