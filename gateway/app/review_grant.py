"""Judge a break-glass grant afterwards: somebody other than its holder signs."""

from collections.abc import Sequence

from gateway.app import journal
from gateway.app.authorise import authorise
from gateway.app.context import Context
from gateway.core.decision import Action, Facts
from gateway.core.errors import Conflict, NotFound, Refusal
from gateway.core.grant import Review, sign_review
from gateway.core.principal import User


def sign(ctx: Context, user: User, grant_or_review_id: str, verdict: str, note: str) -> Review:
    """Sign `justified` or `unjustified`. Raises Denied (own access, no right), NotFound, Conflict (signed already)."""
    with ctx.store.read() as uow:
        review = uow.reviews.get(grant_or_review_id) or uow.reviews.by_grant(grant_or_review_id)
        grant = uow.grants.get(review.grant) if review else None
    if review is None or grant is None:
        raise NotFound(Refusal("unknown-review", "No review is owed there.", next_steps=("gw review lists them.",)))
    about: journal.About = {**journal.about_grant(grant), "principal": user.name}
    signed = sign_review(review, user.id, verdict, note, ctx.clock.now())
    if isinstance(signed, Refusal):
        raise journal.refuse(ctx, "review:denied", signed, **about)
    target = ctx.catalogue.current().targets.get(grant.target)  # None: it has left the catalogue meanwhile
    authorise(ctx, user, Action.REVIEW, target, Facts(ctx.clock.now(), level=grant.level, requester=grant.holder))
    with ctx.store.begin() as uow:
        if not uow.reviews.save(signed):
            raise Conflict(Refusal("reviewed-already", "Somebody else has signed this review already."))
        noted = journal.append(
            ctx, uow, "review:signed", **about, data={"verdict": verdict, "note": note, "holder": grant.holder_name}
        )
    journal.confirm_logged(ctx, noted)
    return signed


def open_reviews(ctx: Context, user: User) -> Sequence[Review]:
    """Every review still owed, the most urgent first; shown to everybody who is signed in."""
    del user
    with ctx.store.read() as uow:
        return sorted(uow.reviews.open(), key=lambda r: r.due_at)
