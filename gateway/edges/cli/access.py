"""Asking for access, answering, reviewing, revoking."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import click

from gateway.core.obligation import BadObligationError, parse_duration
from gateway.edges.cli import client, output
from gateway.edges.cli.output import moment, safe, say

_F = TypeVar("_F", bound=Callable[..., Any])
_POLL_S = 2.0
_TOLD = frozenset({"on_call", "incident", "at", "action", "level", "authentication"})  # in words, or elsewhere


# ---------------------------------------------------------------- asking


def _ask_options(command: _F) -> _F:
    options = (
        click.argument("target"),
        click.option("--level", required=True, help="How much power: for example read, write, admin, shell, root."),
        click.option("--reason", required=True, help="One sentence that an auditor will read."),
        click.option("--incident", default="", help="The incident that this is about."),
        click.option("--for", "duration", default="1h", show_default=True, help="How long: 30m, 1h, …"),
    )
    for option in reversed(options):  # as if stacked
        command = option(command)
    return command


@click.command()
@_ask_options
@click.option("--wait", is_flag=True, help="Wait until the request is answered.")
@output.json_option
def request(target: str, level: str, reason: str, incident: str, duration: str, wait: bool, as_json: bool) -> None:
    """Ask for access to TARGET. Exit code 5 while the request waits for an approval."""
    api = client.api()
    outcome = api.post("/api/requests", _ask(target, level, reason, incident, duration))
    if wait and outcome["state"] == "pending":
        outcome = _wait(api, outcome)
    _tell_outcome(outcome, as_json)


@click.command("break-glass")
@_ask_options
@output.json_option
def break_glass(target: str, level: str, reason: str, incident: str, duration: str, as_json: bool) -> None:
    """Emergency access to TARGET for the engineer on call: at once, loud, with a review that somebody else signs."""
    outcome = client.api().post("/api/break-glass", _ask(target, level, reason, incident, duration))
    _tell_outcome(outcome, as_json)


def _ask(target: str, level: str, reason: str, incident: str, duration: str) -> dict[str, object]:
    asked = {"target": target, "level": level, "reason": reason, "incident": incident}
    return {**asked, "duration": _span(duration)}


def _span(text: str) -> str:
    try:
        parse_duration(text)
    except BadObligationError as error:
        raise output.Failure(f"--for: {error}.", output.EXIT_USAGE) from error
    return text


def _wait(api: client.Api, outcome: Any) -> Any:
    """Until somebody answers; the server's lapse of a request bounds it."""
    request_id = outcome["request"]["id"]
    needed = outcome["request"]["approvals_needed"]
    output.progress(
        f"Request {safe(request_id)} waits for {needed} approval(s); Ctrl-C stops waiting, not the request."
    )
    while True:
        time.sleep(_POLL_S)
        asked = api.get(f"/api/requests/{client.segment(request_id)}")
        if asked["state"] != "pending":
            break
    grants_ = api.get("/api/grants") if asked["state"] == "granted" else []
    grant = next((g for g in grants_ if g["request"] == request_id), None)
    return {**outcome, "state": asked["state"], "request": asked, "grant": grant}


def _tell_outcome(outcome: Any, as_json: bool) -> None:
    asked, grant, state = outcome["request"], outcome["grant"], outcome["state"]
    if as_json:
        output.print_json({**outcome, "connect": outcome["connect"] if grant else None})
    elif grant:
        say(f"Granted: {safe(grant['level'])} on {safe(grant['target'])} until {moment(grant['not_after'])}.")
        _tell_decision(outcome["decision"])
        if grant["review"]:
            say("  duty: somebody else must review this grant (gw review)")
        say(f"  grant: {safe(grant['id'])}")
        say(f"  connect: {safe(outcome['connect'])}")
    elif state == "pending":
        say(
            f"Waiting: {safe(asked['level'])} on {safe(asked['target'])} needs {asked['approvals_needed']} approval(s)."
        )
        _tell_decision(outcome["decision"])
        say(f"  request: {safe(asked['id'])}")
        say(f"  an approver runs: gw approve {safe(asked['id'])}")
    else:
        say(f"The request was {safe(state)}.")
        for answer in asked["approvals"]:
            say(f"  {safe(answer['approver'])}: {safe(answer['verdict'])} {safe(answer['note'])}")
    if state == "pending":
        click.get_current_context().exit(output.EXIT_CONFLICT)
    if grant is None:
        click.get_current_context().exit(output.EXIT_DENIED)


def _tell_decision(decision: Mapping[str, Any]) -> None:
    say(f"  decided by: {safe(', '.join(decision['policies']))} (policy set {safe(decision['policy_set'][:12])})")
    for fact in _facts(decision["facts"]):
        say(f"  fact: {safe(fact)}")


def _facts(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts that a person weighs, in words; --json has them all."""
    duty, incident = facts.get("on_call"), facts.get("incident")
    if isinstance(duty, dict):
        told = f"on call for {duty.get('service')}" if duty.get("is_on_call") else "not on call"
        until = f" until {moment(duty['until'])}" if duty.get("until") else ""
        yield f"{told}{until} ({duty.get('source', 'no rota')}, {duty.get('freshness')})"
    if isinstance(incident, dict):
        yield f"incident {incident.get('id')} of {incident.get('service')} is {incident.get('state')}"
    proof = facts.get("authentication")
    if isinstance(proof, dict) and proof.get("passkey_at"):
        yield f"proved by passkey at {moment(proof['passkey_at'])}"
    for name, value in facts.items():
        if name not in _TOLD and value not in (None, "", False, 0):
            yield f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"


# ---------------------------------------------------------------- lists


@click.command()
@click.option("--incident", default="", help="As if this incident were named.")
@output.json_option
def targets(incident: str, as_json: bool) -> None:
    """List what you could ask for, at which level, and why not the rest."""
    found = client.api().get("/api/targets", incident=incident)
    if as_json:
        output.print_json(found)
        return
    rows = [
        (t["name"], t["kind"], t["environment"], lv["name"], _would(lv["decision"]), lv["decision"]["detail"])
        for t in found
        for lv in t["levels"]
    ]
    output.table(("TARGET", "KIND", "ENVIRONMENT", "LEVEL", "NOW", "WHY NOT"), rows, empty="No targets.")


def _would(decision: Mapping[str, Any]) -> str:
    if not decision["permitted"]:
        return "no"
    duties = decision["obligations"] or {}
    wanted = [f"{duties['approvals']} approval(s)"] if duties.get("approvals") else []
    wanted += ["gw step-up"] if duties.get("step_up", "none") != "none" else []
    return f"yes, with {' and '.join(wanted)}" if wanted else "yes"


@click.command()
@click.option("--all", "everybody", is_flag=True, help="Also others', where you may watch.")
@output.json_option
def grants(everybody: bool, as_json: bool) -> None:
    """List your grants, newest first."""
    found = client.api().get("/api/grants", all=everybody)
    if as_json:
        output.print_json(found)
        return
    rows = [
        (g["id"], g["holder"], g["target"], g["level"], g["state"], moment(g["revoked_at"] or g["not_after"]))
        for g in found
    ]
    output.table(("GRANT", "HOLDER", "TARGET", "LEVEL", "STATE", "UNTIL"), rows, empty="No grants; gw request asks.")


@click.command()
@click.option("--all", "everybody", is_flag=True, help="Also others', where you may watch.")
@click.option("--pending", is_flag=True, help="Those of others that wait for your answer.")
@output.json_option
def requests(everybody: bool, pending: bool, as_json: bool) -> None:
    """List your requests, newest first."""
    api = client.api()
    found = api.get("/api/requests/pending") if pending else api.get("/api/requests", all=everybody)
    if as_json:
        output.print_json(found)
        return
    rows = [
        (
            r["id"],
            r["requester"],
            r["target"],
            r["level"],
            r["state"],
            r["incident"],
            r["reason"],
            moment(r["created_at"]),
        )
        for r in found
    ]
    heads = ("REQUEST", "WHO", "TARGET", "LEVEL", "STATE", "INCIDENT", "REASON", "ASKED")
    output.table(heads, rows, empty="No requests.")


# ---------------------------------------------------------------- answers


@click.command()
@click.argument("request_id", metavar="REQUEST")
@click.option("--note", default="", help="A remark for the audit log.")
@output.json_option
def approve(request_id: str, note: str, as_json: bool) -> None:
    """Say yes to somebody else's request."""
    outcome = client.api().post(f"/api/requests/{client.segment(request_id)}/approve", {"note": note})
    asked = outcome["request"]
    if as_json:
        output.print_json(outcome)
    elif outcome["grant"]:
        until = moment(outcome["grant"]["not_after"])
        say(
            f"Approved: {safe(asked['requester'])} has {safe(asked['level'])} on {safe(asked['target'])} until {until}."
        )
    else:
        say(f"Noted; {asked['approvals_needed']} approval(s) are needed in all.")


@click.command()
@click.argument("request_id", metavar="REQUEST")
@click.option("--note", default="", help="Why, for the person who asked.")
@output.json_option
def reject(request_id: str, note: str, as_json: bool) -> None:
    """Say no to somebody else's request; one no ends it."""
    outcome = client.api().post(f"/api/requests/{client.segment(request_id)}/reject", {"note": note})
    if as_json:
        output.print_json(outcome)
    else:
        say(f"Rejected: {safe(outcome['request']['requester'])}'s request for {safe(outcome['request']['target'])}.")


@click.command()
@click.argument("grant", required=False, metavar="[GRANT]")
@click.option("--verdict", type=click.Choice(["justified", "unjustified"]), help="Your judgement.")
@click.option("--note", default="", help="One sentence on what you looked at.")
@output.json_option
def review(grant: str | None, verdict: str | None, note: str, as_json: bool) -> None:
    """Judge a break-glass GRANT of somebody else; without GRANT, list the reviews that are owed."""
    api = client.api()
    if grant is None:
        _list_reviews(api.get("/api/reviews"), as_json)
        return
    if verdict is None:
        output.fail("A review needs --verdict justified or unjustified, and --note.", output.EXIT_USAGE)
    signed = api.post(f"/api/reviews/{client.segment(grant)}", {"verdict": verdict, "note": note})
    if as_json:
        output.print_json(signed)
    else:
        say(f"Signed: {safe(signed['grant'])} of {safe(signed['holder'])} was {safe(signed['verdict'])}.")


def _list_reviews(found: Any, as_json: bool) -> None:
    if as_json:
        output.print_json(found)
        return
    rows = [(r["id"], r["grant"], r["holder"], moment(r["due_at"])) for r in found]
    output.table(("REVIEW", "GRANT", "HOLDER", "DUE"), rows, empty="No review is owed.")


@click.command()
@click.argument("grant")
@click.option("--for", "duration", default="1h", show_default=True, help="How long from now: 30m, 1h, …")
@output.json_option
def extend(grant: str, duration: str, as_json: bool) -> None:
    """Let your grant last longer, if policy still says yes; sessions that are open go on."""
    longer = client.api().post(f"/api/grants/{client.segment(grant)}/extend", {"duration": _span(duration)})
    if as_json:
        output.print_json(longer)
    else:
        say(f"Extended: {safe(longer['level'])} on {safe(longer['target'])} until {moment(longer['not_after'])}.")


@click.command()
@click.argument("grant")
@click.option("--reason", default="", help="Why, for the audit log.")
@output.json_option
def revoke(grant: str, reason: str, as_json: bool) -> None:
    """End a grant now; its sessions end within a second."""
    gone = client.api().post(f"/api/grants/{client.segment(grant)}/revoke", {"reason": reason})
    if as_json:
        output.print_json(gone)
    else:
        say(f"Revoked: {safe(gone['level'])} on {safe(gone['target'])} of {safe(gone['holder'])}.")
