from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.authentication import LEEWAY, REQUIRED, Proof, proof_of, unmet
from gateway.core.obligation import USUAL_AGE, Obligations, StepUp, merge, parse_obligations

AT = datetime(2026, 3, 2, 12, tzinfo=UTC)
ages = st.timedeltas(min_value=timedelta(seconds=-300), max_value=timedelta(hours=2))
instants = st.none() | ages.map(lambda age: AT - age)
proofs = st.builds(Proof, provider_at=instants, passkey_at=instants)
duties = st.builds(
    lambda step_up, age: parse_obligations({"step_up": step_up} | ({} if age is None else {"max_auth_age": f"{age}s"})),
    st.sampled_from([s.value for s in StepUp]),
    st.none() | st.integers(1, 3600),
)


def test_no_duty_takes_no_proof() -> None:
    assert unmet(Obligations(), Proof(), AT) is None


@given(duty=duties)
def test_what_is_not_known_is_no(duty: Obligations) -> None:
    has_duty = duty.step_up is not StepUp.NONE or duty.max_auth_age is not None
    assert (unmet(duty, Proof(), AT) is not None) == has_duty


@given(duty=duties, proof=proofs)
def test_a_provider_is_no_passkey(duty: Obligations, proof: Proof) -> None:
    if unmet(duty, proof, AT) is None and duty.step_up is not StepUp.NONE:
        assert proof.passkey_at is not None
        assert -LEEWAY <= AT - proof.passkey_at <= (duty.max_auth_age or USUAL_AGE)


@given(duty=duties, proof=proofs)
def test_a_limit_on_age_holds_for_whatever_proves(duty: Obligations, proof: Proof) -> None:
    if unmet(duty, proof, AT) is None and duty.max_auth_age is not None:
        known = [at for at in (proof.provider_at, proof.passkey_at) if at is not None and at - AT <= LEEWAY]
        assert any(AT - at <= duty.max_auth_age for at in known)


@given(one=duties, other=duties, proof=proofs)
def test_what_is_enough_for_both_merged_is_enough_for_each(one: Obligations, other: Obligations, proof: Proof) -> None:
    if unmet(merge((one, other)), proof, AT) is None:
        assert unmet(one, proof, AT) is None
        assert unmet(other, proof, AT) is None


@given(proof=proofs)
def test_a_kept_proof_reads_as_it_was(proof: Proof) -> None:
    read = proof_of(proof.told())
    assert (read.provider_at, read.passkey_at) == (proof.provider_at, proof.passkey_at)


@pytest.mark.parametrize(
    "told", [None, "x", [], {}, {"passkey_at": 7}, {"passkey_at": "soon"}, {"passkey_at": "2026-03-02T12:00:00"}]
)
def test_what_does_not_read_proves_nothing(told: object) -> None:
    assert proof_of(told) == Proof()


def test_a_no_says_what_to_run() -> None:
    no = unmet(Obligations(step_up=StepUp.WEBAUTHN), Proof(provider_at=AT), AT)
    assert no is not None
    assert no.code == REQUIRED
    assert "gw step-up" in no.sentence()
    old = unmet(Obligations(max_auth_age=timedelta(minutes=5)), Proof(), AT)
    assert old is not None
    assert "gw login --fresh" in old.sentence()
    assert "5 min" in old.message
