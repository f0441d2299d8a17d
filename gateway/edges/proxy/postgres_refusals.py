"""How a "no" reads at the database door: an ErrorResponse with SQLSTATE, message, detail and hint.

SQLSTATEs are PostgreSQL's own (appendix "Error Codes"), so that drivers sort them right.
"""

import re
from collections.abc import Callable, Mapping

from gateway.app.commit_ports import Asking, Told
from gateway.core.budget import Room
from gateway.core.dry_run import Confirm
from gateway.core.errors import Conflict, Denied, GatewayError, NotFound, Refusal
from gateway.core.session import EndReason
from gateway.core.statement_rules import Broken
from gateway.core.target import Level, Target
from gateway.edges.proxy.postgres_upstream import TargetUnreachable
from gateway.wire.postgres_account import MAX_STATEMENT
from gateway.wire.postgres_machine import TargetRefused
from gateway.wire.postgres_messages import Report
from gateway.wire.postgres_parameters import ParameterRefused

INVALID_AUTHORIZATION = "28000"
INVALID_PASSWORD = "28P01"  # noqa: S105 - an SQLSTATE
UNKNOWN_DATABASE = "3D000"
NOT_SUPPORTED = "0A000"
PREREQUISITE = "55000"
PROTOCOL_VIOLATION = "08P01"
CANNOT_CONNECT = "08001"
CONNECTION_FAILURE = "08006"
CANNOT_CONNECT_NOW = "57P03"
PROGRAM_LIMIT_EXCEEDED = "54000"
ADMIN_SHUTDOWN = "57P01"
INSUFFICIENT_PRIVILEGE = "42501"
LIMIT_EXCEEDED = "53400"  # configuration_limit_exceeded
SYSTEM_ERROR = "58000"  # external to PostgreSQL itself


class Turned(Exception):
    """The client is told `report` and let go."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.message)
        self.report = report


def fatal(sqlstate: str, message: str, detail: str = "", hint: str = "") -> Report:
    """A report after which the connection closes."""
    return Report("FATAL", sqlstate, message, detail, hint)


def of_error(error: GatewayError) -> Report:
    """What a use case said no with."""
    refusal = error.refusal
    return fatal(_sqlstate(error, refusal), refusal.message, _missing(refusal), "\n".join(refusal.next_steps))


def _missing(refusal: Refusal) -> str:
    return f"Missing: {', '.join(refusal.missing)}." if refusal.missing else ""


def _sqlstate(error: GatewayError, refusal: Refusal) -> str:
    if refusal.code.startswith("ticket"):
        return INVALID_PASSWORD
    if isinstance(error, Denied):
        return INVALID_AUTHORIZATION
    if isinstance(error, NotFound):
        return UNKNOWN_DATABASE
    return PREREQUISITE if isinstance(error, Conflict) else CANNOT_CONNECT_NOW


def of_long_statement() -> Report:
    return fatal(
        PROGRAM_LIMIT_EXCEEDED,
        f"A statement may be at most {MAX_STATEMENT:,} bytes long: the gateway records all of it.",
        hint="Send data with COPY or as bind parameters, and scripts statement by statement (psql -f).",
    )


def of_broken_rule(broken: Broken, level: Level) -> Report:
    """An error of the statement, not of the session."""
    detail = f"A rule of level {level.name} ({broken.rule}); nothing was sent to the database."
    return Report("ERROR", INSUFFICIENT_PRIVILEGE, f"Refused by the gateway: {broken.sentence}", detail, broken.hint)


def of_call(level: Level) -> Report:
    """Function calls name a number, which no rule can judge."""
    return of_broken_rule(Broken("unparsed", "Function calls by number cannot be judged.", "SELECT it instead."), level)


_LISTED = 20  # writes in one report
_LONGEST_LINE = 300  # characters of each


def of_held(level: Level, session: str, held: Asking, told: Told) -> Report:
    """A COMMIT that waits for a yes, or has got a no. The transaction goes on."""
    what = f"transaction {held.tx} has written: {_counted(held.statements, 'statement')}, {_counted(held.rows, 'row')}"
    if told.is_refused:
        why = f": {told.reason}" if told.reason else ""
        message = f"Refused by {told.by}{why}. {what[:1].upper()}{what[1:]}."
        return Report("ERROR", PREREQUISITE, message, _listed(held), "Only ROLLBACK is left.")
    if told.waits:
        return Report(
            "ERROR",
            PREREQUISITE,
            f"Held by the gateway: {what}. {told.waits}.",
            _listed(held),
            "COMMIT again later, or ROLLBACK.",
        )
    if told.may_pass:  # there is a yes, but not to what else came up to the same Sync
        why = "COMMIT comes first behind a Sync: what else is in its pipeline may change settings"
        return Report("ERROR", PREREQUISITE, f"Held by the gateway: {what}. {why}.", _listed(held), "COMMIT again.")
    by, whose = ("you", "your") if held.confirm is Confirm.SELF else ("an approver", "an approver's")
    return Report(
        "ERROR",
        PREREQUISITE,
        f"Held by the gateway: {what}. At level {level.name} COMMIT needs {whose} yes.",
        _listed(held),
        f"Look at the rows. gw session commit {session} (by {by}), then COMMIT again. ROLLBACK undoes it.",
    )


def of_unasked(level: Level) -> Report:
    """Nobody knows whether there is a yes, so there is none."""
    return Report(
        "ERROR",
        PREREQUISITE,
        f"Held by the gateway: COMMIT needs a yes at level {level.name}, and nobody could say if there is one.",
        "The transaction is still open.",
        "COMMIT again in a moment, or ROLLBACK. If it stays so, call the gateway's operators.",
    )


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _listed(held: Asking) -> str:
    lines = [f"{n}. {w.tag or '?'}: {_line(w.sql)}" for n, w in enumerate(held.writes[:_LISTED], 1)]
    left = held.statements - len(lines)
    return "\n".join([*lines, f"… and {left:,} more."] if left else lines)


def _line(sql: str) -> str:
    """Lines stay lines: where a comment ends decides what was written."""
    lines = [" ".join(line.split()) for line in re.split(r"[\r\n]", sql)]
    text = "\n   | ".join(line for line in lines if line)
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]} …"


_LIMITS: Mapping[str, Callable[[Room], str]] = {
    "rows": lambda room: f"{room.rows:,} rows",
    "bytes": lambda room: f"{room.bytes:,} bytes",
    "time": lambda room: f"{room.time.total_seconds() if room.time else 0:g} s of work",
}


def of_budget(what: str, level: Level) -> Report:
    """A statement was cut; the session goes on."""
    return Report(
        "ERROR",
        LIMIT_EXCEEDED,
        f"Cut by the gateway: a statement at level {level.name} may take {_LIMITS[what](level.budget.statement)}.",
        "What came until then is not the whole result. The statement is cancelled on the database.",
        "Ask for less (WHERE, LIMIT), or for a level that allows more.",
    )


def of_unheeded(what: str, level: Level) -> Report:
    """A statement is cut and goes on all the same."""
    return fatal(
        LIMIT_EXCEEDED,
        f"Cut by the gateway: a statement at level {level.name} may take {_LIMITS[what](level.budget.statement)}.",
        "It went on although it was cancelled, so the session is closed, and what it does is ended on the database.",
        "Leave out what catches a cancel (EXCEPTION WHEN query_canceled). Your grant is still good.",
    )


def of_session_budget(what: str, level: Level) -> Report:
    """All of a session is cut: it has taken all that it may, or what came beside its statements more than one may."""
    is_all = getattr(level.budget.session, what) is not None
    room, when = (level.budget.session, "in all") if is_all else (level.budget.statement, "beside its statements")
    return fatal(
        LIMIT_EXCEEDED,
        f"Cut by the gateway: a session at level {level.name} may take {_LIMITS[what](room)} {when}.",
        "The session is closed. What came until then is not the whole result.",
        "Your grant is still good; ask for less, or for a level that allows more.",
    )


def of_parameter(refused: ParameterRefused) -> Report:
    return fatal(
        NOT_SUPPORTED,
        f"The startup parameter {refused.name[:63]} is not accepted here: {refused.why}.",
        hint="Connect without it, for example with the URL that gw connect prints.",
    )


def of_encoding(name: str, level: Level) -> Report:
    return fatal(
        NOT_SUPPORTED,
        f"The client_encoding {name[:63]} is not accepted at level {level.name}, which has statement rules or masks.",
        "In it the database would read another text than the gateway does.",
        "Connect with client_encoding UTF8: PGCLIENTENCODING=UTF8.",
    )


def of_unsure_masks(why: str, level: Level) -> Report:
    """Nothing is shown that may be masked, so all of the session is closed."""
    return fatal(
        PREREQUISITE,
        f"The gateway cannot tell which columns are masked at level {level.name}, so the session is closed.",
        f"{why[:1].upper()}{why[1:].rstrip('.')}.",
        "Connect again. If it stays so, tell the target's owners: the catalogue's masks must fit the database.",
    )


def of_unreachable(why: TargetUnreachable, target: Target) -> Report:
    return fatal(
        CANNOT_CONNECT,
        f"{target.name} cannot be reached: {why}.",
        hint=f"Your grant is still good; try again. If it stays so, tell the owners of {target.service}.",
    )


_NEXT_AT_TARGET = {
    "53300": "Close another connection first: the level allows so many at once (connection_limit), the database, too.",
    "57P03": "Try again in a moment: the database starts, stops or recovers.",
}


def of_target(refused: TargetRefused, target: Target, secret: str, *, is_replaced: bool = False) -> Report:
    """The target's own refusal of the gateway's login, without anything secret. `is_replaced`: the next has another."""
    fields = {code: text.replace(secret, "…")[:1000] for code, text in refused.fields.items()}
    sqlstate = fields.get("C", "")
    said = fields.get("M", "it gave no reason")
    if not (len(sqlstate) == 5 and sqlstate.isascii() and sqlstate.isalnum()):
        sqlstate = CONNECTION_FAILURE
    if refused.is_of_login:  # the gateway's credential failed, not the person's
        known = "Tell the gateway's operators: gw target doctor finds the cause."
        anew = "Somebody has changed or dropped that role. Connect again: another one is made."
        return fatal(
            CONNECTION_FAILURE,
            f"{target.name} did not accept the gateway's own role.",
            said,
            f"Nothing is wrong with your ticket. {anew if is_replaced else known}",
        )
    hint = fields.get("H") or _NEXT_AT_TARGET.get(sqlstate, "")
    return fatal(sqlstate, f"{target.name} refused the session: {said}", fields.get("D", ""), hint)


def of_end(reason: EndReason, detail: str) -> Report:
    """Why a running session was cut."""
    codes = {
        EndReason.BUDGET_EXCEEDED: LIMIT_EXCEEDED,
        EndReason.MASKS_UNSURE: PREREQUISITE,
        EndReason.PROTOCOL_VIOLATION: PROTOCOL_VIOLATION,
        EndReason.GATEWAY_FAULT: SYSTEM_ERROR,
        EndReason.TARGET_CLOSED: CONNECTION_FAILURE,
        EndReason.TARGET_UNREACHABLE: CONNECTION_FAILURE,
    }
    return fatal(codes.get(reason, ADMIN_SHUTDOWN), reason.sentence(detail))
