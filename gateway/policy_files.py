"""`gw policy check` and `gw policy test`: judge a directory of policies without any gateway.

They stand beside `serve` because they need the real policy engine, which the edges do not know.
"""

from collections.abc import Sequence
from pathlib import Path

import click

from gateway.adapters.cedar import CedarPolicy, PolicyLoadError
from gateway.adapters.policy_cases import read_cases
from gateway.adapters.yaml_source import SourceError
from gateway.app.simulate_policy import CaseResult, PolicyCase, run_policy_tests
from gateway.edges.cli import output

_directory = click.option(
    "--dir",
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="policies",
    show_default=True,
    help="Where schema.cedarschema and the *.cedar files are.",
)


@click.command()
@_directory
@output.json_option
def check(directory: Path, as_json: bool) -> None:
    """Say whether the policies would load: schema, ids, duties, and no condition that could fail."""
    policy = _load(directory, {})
    if as_json:
        output.print_json({"ok": True, "digest": policy.digest(), "policies": sorted(policy.ids())})
        return
    output.say(f"{len(policy.ids())} policies would load (set {policy.digest()[:12]}).")


@click.command("test")
@_directory
@output.json_option
def run_tests(directory: Path, as_json: bool) -> None:
    """Ask the questions in tests/*.yaml and compare the answers; every policy must decide at least one."""
    cases = _cases(directory / "tests")
    policy = _load(directory, {role: frozenset({role}) for case in cases for role in case.roles})
    results = run_policy_tests(policy, cases)
    idle = sorted(policy.ids() - {name for result in results for name in result.decided})
    failed = [result for result in results if result.faults]
    if as_json:
        output.print_json(_told(results, idle))
    else:
        for result in failed:
            output.say(f"{result.case.place}: {output.safe(result.case.question)}")
            for fault in result.faults:
                output.say(f"    {output.safe(fault)}")
        for name in idle:
            output.say(f"No question is decided by the policy {name}.")
        output.say(f"{len(results) - len(failed)} of {len(results)} answers as expected.")
    if failed or idle:
        raise click.exceptions.Exit(output.EXIT_ERROR)


def _told(results: Sequence[CaseResult], idle: list[str]) -> dict[str, object]:
    return {
        "ok": not idle and not any(result.faults for result in results),
        "cases": [
            {
                "place": result.case.place,
                "question": result.case.question,
                "ok": not result.faults,
                "faults": list(result.faults),
                "policies": list(result.decided),
            }
            for result in results
        ],
        "undecided_policies": idle,
    }


def _load(directory: Path, role_groups: dict[str, frozenset[str]]) -> CedarPolicy:
    try:
        return CedarPolicy(directory, role_groups)
    except PolicyLoadError as error:
        first, *more = str(error).splitlines()
        output.fail(first, output.EXIT_ERROR, *more, code="policy-invalid")


def _cases(directory: Path) -> tuple[PolicyCase, ...]:
    try:
        cases = read_cases(directory)
    except SourceError as error:
        output.fail(str(error), output.EXIT_ERROR, code="policy-tests-invalid")
    if not cases:
        output.fail(f"There are no tests in {directory}.", output.EXIT_ERROR, code="policy-tests-missing")
    return cases
