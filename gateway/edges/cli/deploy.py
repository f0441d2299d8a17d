"""`gw deploy`: run declared verbs on targets, from a pipeline or by hand, and see what runs where."""

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from gateway.edges.cli import client, job_token, output, plain_http
from gateway.edges.cli.output import moment, safe, say

SILENCE_S = 60.0  # the gateway gives a sign of life every few seconds
LONGEST_INPUT = 1024 * 1024
LONGEST_LINE = 16 * 1024
_OWN = ("list", "status", "history", "show", "cancel", "rollback")


class Verbs(click.Group):
    """Every word that is no command of its own is a verb: the gateway knows which ones there are."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, else one that runs the verb."""
        return super().get_command(ctx, cmd_name) or _verb_command(cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Those that are always there."""
        return list(_OWN)


@click.group(cls=Verbs, subcommand_metavar="VERB TARGET… | COMMAND")
def deploy() -> None:
    """Run a verb of the catalogue on targets or groups, and see what runs where.

    gw deploy deploy web --param version=1.4.2     gw deploy migrate orders-db --file 007.sql

    gw deploy rollback web --to previous

    In a CI job the job's own identity is used (GitHub Actions: permissions id-token: write; GitLab: an id_token
    GW_ID_TOKEN); elsewhere you are who gw login says. Ends with the command's own exit status.
    """


def _verb_command(verb: str) -> click.Command:
    options = [
        click.Argument(["targets"], nargs=-1, required=True),
        click.Option(["--param"], multiple=True, metavar="NAME=VALUE", help="A parameter of the verb; repeat it."),
        click.Option(["--to"], type=click.Choice(["previous"]), help="The version that ran before."),
        click.Option(["--file"], type=click.Path(allow_dash=True), help="Input: a migration's SQL; - reads stdin."),
        click.Option(["--key"], default="", help="Asking again with the same key does it only once."),
        click.Option(["--override"], is_flag=True, help="Emergency, on call only: loud, and reviewed afterwards."),
        click.Option(["--incident"], default="", help="The incident that an override is about."),
        click.Option(["--reason"], default="", help="One sentence that an auditor will read."),
    ]
    command = click.Command(
        verb, params=list(options), callback=partial(_run, verb), help=f"Run {verb} on TARGETS, one after the other."
    )
    output.json_option(command)
    return command


def _run(
    verb: str,
    targets: Sequence[str],
    param: Sequence[str],
    to: str | None,
    file: str | None,
    key: str,
    override: bool,
    incident: str,
    reason: str,
    as_json: bool,
) -> None:
    asked: dict[str, object] = {"verb": verb, "targets": list(targets), "parameters": _parameters(param)}
    optional = {"to": to, "key": key, "override": override, "incident": incident, "reason": reason}
    asked |= {name: value for name, value in optional.items() if value}
    if file is not None:
        asked["input"] = base64.b64encode(_input(file)).decode()
    shown = _Shown(as_json)
    _stream(asked, shown)
    if as_json:
        output.print_json(shown.told())
    click.get_current_context().exit(shown.exit_code())


def _parameters(given: Sequence[str]) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for each in given:
        name, separator, value = each.partition("=")
        if not separator or not name:
            output.fail(f"--param {each[:40]!r} is not NAME=VALUE.", output.EXIT_USAGE)
        if name in parameters:
            output.fail(f"--param {name[:40]} is given twice.", output.EXIT_USAGE)
        parameters[name] = value
    return parameters


def _input(file: str) -> bytes:
    try:
        if file == "-":
            content = sys.stdin.buffer.read(LONGEST_INPUT + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(LONGEST_INPUT + 1)
    except OSError as why:
        output.fail(f"--file cannot be read: {why.strerror}.", output.EXIT_USAGE)
    if len(content) > LONGEST_INPUT:
        output.fail("--file is larger than 1 MiB.", output.EXIT_USAGE)
    return content


# ---------------------------------------------------------------- following a run


@dataclass(slots=True)
class _Shown:
    """What was seen of a run. Every line of a target's output begins with its name: a CI service takes lines that begin
    otherwise for commands of its own (`::set-env`), and a target is not to give it any.
    """

    as_json: bool
    run: str = ""
    end: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    _rests: dict[tuple[str, str], str] = field(default_factory=dict)

    def line(self, told: Mapping[str, Any]) -> None:
        """One line of the gateway's answer."""
        target = str(told.get("target", ""))
        match told.get("type"):
            case "run":
                self.run = str(told.get("run", ""))
                again = " (asked for before)" if told.get("repeated") else ""
                self._note(f"run {self.run}{again}")
            case "output":
                self._output(target, str(told.get("stream", "")), str(told.get("text", "")))
            case "step":
                self._flush(target)
                self.steps[target] = {name: told.get(name) for name in ("state", "exit_status", "detail", "session")}
                self._note(_step_line(target, told))
            case "progress":
                self._note(f"still running, {told.get('seconds')} s")
            case "note":
                self._note(f"{target + ': ' if target else ''}{told.get('text', '')}")
            case "end":
                self.end = dict(told)
                self._note(_end_line(told))

    def exit_code(self) -> int:
        """The command's own; 1 where none was said."""
        if self.end.get("state") == "succeeded":
            return 0
        status = self.end.get("exit_status")
        return min(status, 255) if isinstance(status, int) and status > 0 else output.EXIT_ERROR

    def told(self) -> dict[str, object]:
        """For `--json`."""
        end = {name: self.end.get(name) for name in ("state", "exit_status", "detail")}
        return {"run": self.run, **end, "steps": [{"target": name, **step} for name, step in self.steps.items()]}

    def _output(self, target: str, stream: str, text: str) -> None:
        *whole, rest = (self._rests.get((target, stream), "") + text).split("\n")
        while len(rest) > LONGEST_LINE:
            whole, rest = [*whole, rest[:LONGEST_LINE]], rest[LONGEST_LINE:]
        self._rests[target, stream] = rest
        for line in whole:
            self._say(target, stream, line)

    def _flush(self, target: str) -> None:
        for known, stream in list(self._rests):
            if known == target and (rest := self._rests.pop((known, stream))):
                self._say(target, stream, rest)

    def _say(self, target: str, stream: str, text: str) -> None:
        line = f"[{safe(target)}] {safe(text.removesuffix(chr(13)))}"
        say(line, err=stream == "stderr" or self.as_json)

    def _note(self, text: str) -> None:
        say(f"gw: {safe(text)}", err=True)


def _step_line(target: str, told: Mapping[str, Any]) -> str:
    where = f"{target} ({int(told.get('place') or 0) + 1} of {told.get('of')})"
    detail = f": {told['detail']}" if told.get("detail") else ""
    recording = f"; gw session replay {told['session']}" if told.get("state") == "failed" else ""
    return f"{where} {told.get('state')}{detail}{recording}"


def _end_line(told: Mapping[str, Any]) -> str:
    detail = f": {told['detail']}" if told.get("detail") else ""
    return f"{told.get('state')}{detail}"


def _stream(asked: Mapping[str, object], shown: _Shown) -> None:
    url, headers = _headers("POST", "/api/deploy")
    headers |= {"content-type": "application/json", "accept": "application/x-ndjson"}
    body = json.dumps(asked).encode()
    try:
        with plain_http.requested("POST", url, headers, body, SILENCE_S) as answer:
            if answer.status != 200:
                raise client.failure(answer.status, plain_http.whole(answer))
            for told in plain_http.lines(answer):
                shown.line(told)
    except plain_http.UnreachableError as why:
        _lost(why, shown)
    if not shown.end:
        _lost(plain_http.UnreachableError("the answer ended too early"), shown)


def _lost(why: Exception, shown: _Shown) -> None:
    steps = (f"gw deploy show {shown.run} says how it went on.",) if shown.run else ("Is the gateway running?",)
    output.fail(f"The gateway's answer broke off: {why}.", output.EXIT_ERROR, *steps, code="unreachable")


def _as_caller() -> tuple[str, str]:
    """The API's address and who asks: `GW_TOKEN`, else the job, else whoever is signed in."""
    url = client.base_url()
    token = client.token_of_environment() or (job_token.deploy_token(url) if job_token.is_job() else "")
    token = token or client.stored_token(url)
    if not token:
        output.fail("You are not signed in.", output.EXIT_DENIED, "Run gw login", code="not-signed-in")
    return url, token


def _headers(method: str, path: str) -> tuple[str, dict[str, str]]:
    """The whole address, and what proves there who asks."""
    url, token = _as_caller()
    key = client.device_key(url) if token.startswith(client.BOUND) else None
    whole = f"{url}{path}"
    return whole, client.proving(method, whole, token, key)


def _get(path: str) -> Any:
    url, headers = _headers("GET", path)
    return _called("GET", url, {**headers, "accept": "application/json"})


def _called(method: str, url: str, headers: dict[str, str], body: bytes | None = None) -> Any:
    try:
        with plain_http.requested(method, url, headers, body) as answer:
            told = plain_http.whole(answer)
            if answer.status != 200:
                raise client.failure(answer.status, told)
            return told
    except plain_http.UnreachableError as why:
        output.fail(f"{why}.", output.EXIT_ERROR, "Is the gateway running, and is GW_URL right?", code="unreachable")


# ---------------------------------------------------------------- looking


@deploy.command("list")
@output.json_option
def list_verbs(as_json: bool) -> None:
    """List verbs: where they run, what they take, what is frozen."""
    found = _get("/api/deploy/verbs")
    if as_json:
        output.print_json(found)
        return
    rows = [
        (v["target"], ", ".join(v["groups"]), v["verb"], _takes(v), "; ".join(f["name"] for f in v["freezes"]))
        for v in found
    ]
    output.table(("TARGET", "GROUPS", "VERB", "PARAMETERS", "FROZEN BY"), rows, empty="The catalogue has no verbs.")


def _takes(verb: Mapping[str, Any]) -> str:
    told = [
        f"{name}={p['default']}" if p["default"] is not None else f"{name}: {p['takes']}"
        for name, p in verb["parameters"].items()
    ]
    return "; ".join([*told, *(["--file"] if verb["takes_input"] else [])])


@deploy.command()
@click.argument("targets", nargs=-1)
@output.json_option
def status(targets: Sequence[str], as_json: bool) -> None:
    """What runs on TARGETS (targets or groups; all by default), and what ran before."""
    query = "&".join(f"target={quote(name, safe='')}" for name in targets)
    found = _get(f"/api/deploy/status{'?' + query if query else ''}")
    if as_json:
        output.print_json(found)
        return
    rows = [(p["target"], _version(p), p["previous"], moment(p["at"]), p["by"], p["run"], _held(p)) for p in found]
    output.table(("TARGET", "VERSION", "BEFORE", "SINCE", "BY", "RUN", "NOW"), rows, empty="Nothing is known.")


def _version(placed: Mapping[str, Any]) -> str:
    if placed["attempted"]:
        return f"uncertain: {placed['attempted']} broke off over {placed['version'] or 'nothing known'}"
    return str(placed["version"])


def _held(placed: Mapping[str, Any]) -> str:
    lock = placed["lock"]
    frozen = [f"frozen by {f['name']} until {moment(f['until'])}" for f in placed["freezes"]]
    running = [f"{lock['verb']} by {lock['by']} ({lock['run']})"] if lock else []
    return "; ".join([*running, *frozen])


@deploy.command()
@click.option("--target", default="", help="Only runs that were about this target.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many.")
@output.json_option
def history(target: str, limit: int, as_json: bool) -> None:
    """List runs, newest first."""
    named = f"&target={quote(target, safe='')}" if target else ""
    found = _get(f"/api/deploy/runs?limit={limit}{named}")
    if as_json:
        output.print_json(found)
        return
    rows = [
        (r["run"], moment(r["started_at"]), r["verb"], ", ".join(r["targets"]), r["version"], r["by"], r["state"])
        for r in found
    ]
    output.table(("RUN", "WHEN", "VERB", "TARGETS", "VERSION", "BY", "STATE"), rows, empty="Nothing was run yet.")


@deploy.command()
@click.argument("run")
@output.json_option
def show(run: str, as_json: bool) -> None:
    """Show one RUN: who, what, where, and how each step ended."""
    found = _get(f"/api/deploy/runs/{client.segment(run)}")
    if as_json:
        output.print_json(found)
        return
    parameters = " ".join(f"{name}={value}" for name, value in found["parameters"].items())
    say(f"{safe(found['verb'])} {safe(parameters)} by {safe(found['by'])}, {moment(found['started_at'])}")
    for name, value in found["pipeline"].items():
        say(f"  {safe(name)}: {safe(value)}")
    for name in ("incident", "reason", "grant"):
        if found[name]:
            say(f"  {name}: {safe(found[name])}")
    say(f"{safe(found['state'])}{': ' + safe(found['detail']) if found['detail'] else ''}")
    rows = [(s["target"], s["state"], s["exit_status"], s["session"], s["detail"]) for s in found["steps"]]
    output.table(("TARGET", "STATE", "EXIT", "RECORDING", "DETAIL"), rows)


@deploy.command()
@click.argument("run")
@output.json_option
def cancel(run: str, as_json: bool) -> None:
    """End a RUN: its command is told to stop, no further target is begun."""
    url, headers = _headers("POST", f"/api/deploy/runs/{client.segment(run)}/cancel")
    headers |= {"content-type": "application/json", "accept": "application/json"}
    found = _called("POST", url, headers, b"{}")
    if as_json:
        output.print_json(found)
    else:
        say(f"{safe(found['run'])} is being ended; gw deploy show {safe(found['run'])} says how.")


deploy.add_command(_verb_command("rollback"))
