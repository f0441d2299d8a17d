"""How somebody has proved who they are, and whether that is enough for what policy demands.

Every instant here comes from a provider's signed claims or from an assertion that the gateway itself has verified.
What is not known is None, and not known is no.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.core.errors import Refusal
from gateway.core.obligation import USUAL_AGE, Obligations, StepUp

LEEWAY = timedelta(seconds=60)  # between two clocks; as for the times in tokens
REQUIRED = "step-up-required"


@dataclass(frozen=True, slots=True)
class Proof:
    """`provider_at` is when the provider last asked the person (`auth_time`), `methods` how (`amr`), as it claims.

    `passkey_at` is when a passkey of theirs last answered here, with the person verified; `passkey` is its id, and
    `id` names this one proof, so that it can be used up. `sign_in` is the sign-in that keeps all this.
    """

    provider_at: datetime | None = None
    methods: tuple[str, ...] = ()
    passkey_at: datetime | None = None
    passkey: str = ""
    id: str = ""
    sign_in: str = ""

    def told(self) -> dict[str, object]:
        """As JSON values, to be kept with a decision."""
        return {
            "provider_at": self.provider_at.isoformat() if self.provider_at else None,
            "methods": list(self.methods),
            "passkey_at": self.passkey_at.isoformat() if self.passkey_at else None,
            "passkey": self.passkey,
            "proof": self.id,
        }


def proof_of(told: object) -> Proof:
    """What `told` once said, read from a stored decision; nothing proved when it does not read."""
    if not isinstance(told, Mapping):
        return Proof()
    return Proof(provider_at=_instant(told.get("provider_at")), passkey_at=_instant(told.get("passkey_at")))


def unmet(duties: Obligations, proof: Proof, at: datetime) -> Refusal | None:
    """What is missing of the proof that the duties demand at `at`; None when it is enough."""
    if duties.step_up is not StepUp.NONE:
        age = duties.max_auth_age or USUAL_AGE
        return None if _is_fresh(proof.passkey_at, age, at) else _passkey_missing(proof, age)
    age_limit = duties.max_auth_age
    if age_limit is None or _is_fresh(proof.passkey_at, age_limit, at) or _is_fresh(proof.provider_at, age_limit, at):
        return None
    return Refusal(
        REQUIRED,
        f"Policy asks for a sign-in that is not older than {_words(age_limit)}, and yours is older or of unknown age.",
        ("fresh_sign_in",),
        ("Prove that it is you: gw step-up", "or sign in once more: gw login --fresh"),
    )


def used_up() -> Refusal:
    """Said when a proof that is good for one request was used by another."""
    return Refusal(
        REQUIRED,
        "Policy asks for a proof by passkey for each request, and yours was used by another one.",
        ("passkey",),
        ("Prove once more that it is you: gw step-up",),
    )


def _passkey_missing(proof: Proof, age: timedelta) -> Refusal:
    known = "yours is older" if proof.passkey_at else "this sign-in has none"
    return Refusal(
        REQUIRED,
        f"Policy asks for a proof by passkey that is not older than {_words(age)}, and {known}.",
        ("passkey",),
        ("Prove that it is you: gw step-up", "No passkey here yet? gw passkeys says where to add one."),
    )


def _is_fresh(proved_at: datetime | None, age: timedelta, at: datetime) -> bool:
    return proved_at is not None and -LEEWAY <= at - proved_at <= age


def _instant(text: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return at if at is not None and at.tzinfo is not None else None


def _words(span: timedelta) -> str:
    minutes, seconds = divmod(int(span.total_seconds()), 60)
    return f"{minutes} min" if not seconds else f"{int(span.total_seconds())} s"
