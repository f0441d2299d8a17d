"""`gw target`: what is done to targets themselves."""

import click

from gateway.edges.cli import client, output

DOCTOR_S = 120.0  # a target that hangs makes every step wait
_WORDS = {
    "administrator": "the administrator logs in",
    "version": "a version that is served",
    "createrole": "the administrator may make roles",
    "group": "the group may be given to a role",
    "connect": "the group may connect to the database",
    "database": "the administrator gets into the databases that a level gets into",
    "elevation": "nothing there gives more than the group's privileges",
    "reach": "address and TLS lead to the target",
    "leftover": "a trial role that was left behind is dropped",
    "zombie": "a role whose grant is over goes",
    "create": "a role is made",
    "use": "a session logs in with it",
    "masks": "the masked columns are there",
    "terminate": "its session is ended",
    "revoke": "what it owned is left to the group, and the role dropped",
}


@click.group()
def target() -> None:
    """Examine targets."""


@target.command()
@click.argument("target")
@output.json_option
def doctor(target: str, as_json: bool) -> None:
    """Try all that the gateway needs on TARGET, a database, and say what is in the way and what mends it.

    Warned of is what lets a level do more than its group's privileges say (SECURITY DEFINER routines, views), and
    roles of grants that are over which could not be dropped yet.

    A trial role of every level is made, used, revoked and dropped, by the code that does it for people. Exit code 1
    when something is in the way.
    """
    output.progress(f"Examining {output.safe(target)} …")
    found = client.api().post(f"/api/targets/{client.segment(target)}/doctor", {}, read_s=DOCTOR_S)
    if as_json:
        output.print_json(found)
    else:
        for finding in found["findings"]:
            _show(finding)
    if not found["ok"]:
        raise SystemExit(output.EXIT_ERROR)


def _show(finding: dict[str, object]) -> None:
    mark = "FAIL" if not finding["ok"] else "warn" if finding["problem"] else "ok  "
    what = str(finding["what"])
    output.say(f"{mark}  {_WORDS.get(what, output.safe(what))} ({output.safe(finding['of'])})")
    if finding["problem"]:
        output.say(f"      {output.safe(finding['problem'])}")
    remedy = finding["remedy"]
    for line in remedy if isinstance(remedy, list) else ():
        output.say(f"        {output.safe(line)}")
