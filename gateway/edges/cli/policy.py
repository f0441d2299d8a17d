"""`gw policy`: check and test policy files (without a gateway), and ask the gateway why or why not."""

from collections.abc import Mapping
from typing import Any

import click

from gateway.edges.cli import output
from gateway.edges.cli.client import api
from gateway.edges.cli.main import LazyGroup


@click.command()
@click.option("--as", "name", default="", help="Who would ask; yourself by default.")
@click.option("--target", required=True, help="The target.")
@click.option("--level", default="", help="Access: the level on it.")
@click.option("--verb", default="", help="A deploy: the verb on it.")
@click.option("--incident", default="", help="The incident that would be named.")
@click.option("--on-call/--not-on-call", "on_call", default=None, help="Suppose it, whatever the rota says.")
@click.option("--break-glass", is_flag=True, help="Suppose an emergency (with --level).")
@click.option("--override", is_flag=True, help="Suppose an emergency (with --verb).")
@click.option("--to", type=click.Choice(["previous"]), help="Suppose the version that ran before (with --verb).")
@click.option("--pipeline", is_flag=True, help="Suppose a job with a deploy token for it (with --verb).")
@output.json_option
def why(
    name: str,
    target: str,
    level: str,
    verb: str,
    incident: str,
    on_call: bool | None,
    break_glass: bool,
    override: bool,
    to: str | None,
    pipeline: bool,
    as_json: bool,
) -> None:
    """Say what policy would answer, on which facts, and what would make it a yes.

    gw policy why --target orders-db --level read --incident INC-7

    gw policy why --target web-1 --verb rollback --to previous --as NAME
    """
    if bool(level) is bool(verb):
        output.fail("Ask about a --level or about a --verb.", output.EXIT_USAGE)
    question: dict[str, object] = {"target": target, "incident": incident}
    if level:
        question |= {"level": level, "break_glass": break_glass}
    else:
        question |= {"verb": verb, "override": override, "to_previous": to == "previous", "pipeline": pipeline}
    if name:
        question["as"] = name
    if on_call is not None:
        question["on_call"] = on_call
    answer = _ask(question)
    if as_json:
        output.print_json(answer)
    else:
        _show(answer)


def _ask(question: Mapping[str, object]) -> dict[str, Any]:
    answer = api().post("/api/policy/why", question)
    if not isinstance(answer, dict):
        output.fail("The server does not speak the gateway's API.", output.EXIT_ERROR, "Is GW_URL right?")
    return answer


def _show(answer: Mapping[str, Any]) -> None:
    """Shape: `decision`, `policies`, `facts`, and either `obligations` or `message`, `missing`, `next_steps`."""
    policies = ", ".join(map(str, answer.get("policies") or ())) or "no policy"
    if answer.get("decision") == "permit":
        output.say(f"Yes, by {output.safe(policies)}.")
        _pairs("under", answer.get("obligations"))
    else:
        output.say(f"No ({output.safe(policies)}): {output.safe(answer.get('message', ''))}")
        for label, key in (("missing", "missing"), ("next", "next_steps")):
            for item in answer.get(key) or ():
                output.say(f"  {label}: {output.safe(item)}")
    _pairs("fact", answer.get("facts"))


def _pairs(label: str, values: object) -> None:
    for key, value in sorted(values.items()) if isinstance(values, Mapping) else ():
        output.say(f"  {label}: {output.safe(key)} = {output.safe(_plain(value))}")


def _plain(value: object) -> str:
    """A fact as a person writes it; what a nested one does not have is left out."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if inner not in (None, "", []))
    if isinstance(value, list):
        return " and ".join(map(_plain, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


# check and test need the policy engine, which the edges may not import: they are named, as `gw serve` is.
policy = LazyGroup(
    {
        "check": ("gateway.policy_files:check", "Say whether the policy files would load."),
        "test": ("gateway.policy_files:run_tests", "Ask the questions in tests/*.yaml."),
        "why": (f"{__name__}:why", "Say what policy would answer somebody, and why."),
    },
    name="policy",
    help="Check, test and question the policies.",
)
