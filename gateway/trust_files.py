"""`gw trust check`, `explain` and `init`: trust policies in a directory, judged without any gateway.

They stand beside `serve` because they need the adapters, which the edges do not know.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import click

from gateway.adapters.catalogue import CatalogueFile
from gateway.adapters.issuer_keys import IssuerKeys
from gateway.adapters.job_tokens import SignedJobTokens
from gateway.adapters.trust_policies import parse
from gateway.adapters.yaml_source import SourceError
from gateway.app.identity import SignedClaims
from gateway.app.judge_job_token import Judged, judge
from gateway.app.workload_ports import UnverifiedToken
from gateway.core.errors import Unavailable
from gateway.core.job_token import LONGEST_TOKEN
from gateway.core.trust import ClaimResult, Issuer, TrustPolicies
from gateway.core.trust_lint import ERROR, Finding, lint, lint_against
from gateway.edges.cli import output
from gateway.trust_init import init

__all__ = ["check", "explain", "init"]

_directory = click.option(
    "--dir",
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="policies/trust",
    show_default=True,
    help="Where the *.yaml files are.",
)


@click.command()
@_directory
@click.option(
    "--catalogue", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Look targets and verbs up in it."
)
@click.option("--strict", is_flag=True, help="Let warnings fail, too.")
@output.json_option
def check(directory: Path, catalogue: Path | None, strict: bool, as_json: bool) -> None:
    """Say what is wrong: a name without its id, patterns, events of forks, open refs, overlapping rules, …

    Errors keep the files from loading and end with exit code 1; warnings are advice, unless --strict.
    """
    policies = _parsed(directory)
    findings = [*lint(policies), *(_against(policies, catalogue) if catalogue else ())]
    errors = sum(found.severity == ERROR for found in findings)
    if as_json:
        told = {"ok": not errors, "digest": policies.digest, "rules": sorted(policies.rules)}
        output.print_json({**told, "findings": [asdict(found) for found in findings]})
    else:
        _show(policies, findings)
    if errors or (strict and findings):
        raise click.exceptions.Exit(output.EXIT_ERROR)


def _parsed(directory: Path) -> TrustPolicies:
    try:
        return parse(directory)
    except SourceError as error:
        output.fail(str(error), output.EXIT_ERROR, code="trust-invalid")


def _against(policies: TrustPolicies, path: Path) -> tuple[Finding, ...]:
    try:
        targets = CatalogueFile(path).current().targets
    except SourceError as error:
        output.fail(str(error), output.EXIT_ERROR, code="catalogue-invalid")
    environments = {name: target.environment for name, target in targets.items()}
    return lint_against(policies, environments, {name: frozenset(target.verbs) for name, target in targets.items()})


def _show(policies: TrustPolicies, findings: Sequence[Finding]) -> None:
    for found in findings:
        output.say(f"{output.safe(found.place)}: {found.severity}: {found.subject}: {output.safe(found.message)}")
        output.say(f"    {output.safe(found.fix)} ({found.code})")
    errors = sum(found.severity == ERROR for found in findings)
    output.say(
        f"{len(policies.rules)} rules of {len(policies.issuers)} issuers: "
        f"{errors} errors, {len(findings) - errors} warnings."
    )


# ---------------------------------------------------------------- explain


class _Unchecked:
    """The `JobTokens` port without any keys: what a token says is taken for true, to explain it."""

    def __init__(self, real: SignedJobTokens) -> None:
        self._real = real

    def read(self, text: str) -> UnverifiedToken | None:
        """As ever."""
        return self._real.read(text)

    def verify(self, issuer: Issuer, token: UnverifiedToken) -> SignedClaims | ClaimResult:
        """Whatever it says."""
        del issuer
        return SignedClaims(token.unverified_claims)


@click.command()
@click.argument("file", default="-", metavar="[FILE]")
@_directory
@click.option("--offline", is_flag=True, help="Do not fetch the issuer's keys: the signature is not looked at.")
@click.option("--at", "instant", default="", help="Judge it as of then (2026-03-01T09:00:00Z) instead of now.")
@output.json_option
def explain(file: str, directory: Path, offline: bool, instant: str, as_json: bool) -> None:
    """Say for each claim which rule held or failed. The token is read from FILE, or from standard input.

    Never on the command line, where other people of the machine could read it. Exit code 3 when no rule holds.
    """
    text = _token(file)
    policies, at = _parsed(directory), _instant(instant)
    tokens = SignedJobTokens(IssuerKeys(_Now()))
    try:
        judged = judge(policies, _Unchecked(tokens) if offline else tokens, text, at)
    except Unavailable as no:
        output.fail(
            no.refusal.message, output.EXIT_ERROR, "Use --offline to leave the signature out.", code=no.refusal.code
        )
    finally:
        tokens.close()
    if offline:
        judged = replace(judged, token=tuple(_as_offline(result) for result in judged.token))
    if as_json:
        output.print_json(_told(judged, offline))
    else:
        _tell(judged)
    if judged.rule() is None:
        raise click.exceptions.Exit(output.EXIT_DENIED)


class _Now:
    def now(self) -> datetime:
        """The present."""
        return datetime.now(UTC)


def _token(file: str) -> str:
    if file.count(".") == 2 and file.startswith("ey"):
        output.fail(
            "That is a token: others on this machine can read what stands on a command line.", output.EXIT_USAGE,
            "Give it on standard input, or in a file.", code="token-in-argv",
        )  # fmt: skip
    if file == "-":
        return sys.stdin.read(LONGEST_TOKEN + 1).strip()
    try:
        with Path(file).open(encoding="utf-8", errors="replace") as source:
            return source.read(LONGEST_TOKEN + 2).strip()
    except OSError as error:
        output.fail(f"{file}: {error.strerror}.", output.EXIT_USAGE)


def _instant(text: str) -> datetime:
    if not text:
        return datetime.now(UTC)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        output.fail(f"{text!r} is not an instant such as 2026-03-01T09:00:00Z.", output.EXIT_USAGE)
    return at.astimezone(UTC)


def _as_offline(result: ClaimResult) -> ClaimResult:
    return replace(result, said="was not looked at (--offline)") if result.claim == "signature" else result


def _told(judged: Judged, offline: bool) -> dict[str, object]:
    rule = judged.rule()
    return {
        "ok": rule is not None,
        "rule": rule.rule.name if rule else None,
        "issuer": judged.issuer.name if judged.issuer else None,
        "signature_verified": judged.is_signed and not offline,
        "token": [asdict(result) for result in judged.token],
        "rules": [
            {"rule": r.rule.name, "place": r.rule.place, "ok": r.holds(), "claims": [asdict(c) for c in r.claims]}
            for r in judged.rules
        ],
        "rights": sorted(f"{right.verb}:{right.target}" for right in rule.rule.rights) if rule else [],
    }


def _tell(judged: Judged) -> None:
    output.say(f"The token itself{f', of {judged.issuer.name}' if judged.issuer else ''}:")
    _tell_claims(judged.token)
    for result in judged.rules:
        output.say(
            f"{result.rule.name} ({output.safe(result.rule.place)}): {'holds' if result.holds() else 'does not hold'}"
        )
        _tell_claims(result.claims)
    rule = judged.rule()
    if rule is not None:
        rights = ", ".join(sorted(f"{right.verb} on {right.target}" for right in rule.rule.rights))
        output.say(f"Yes: {rule.rule.name} allows {rights}.")
    elif judged.is_good() and not judged.rules:
        output.say("No: there is no rule for this issuer.")
    else:
        output.say(f"No: {', '.join(output.safe(name) for name in judged.failed())}.")


def _tell_claims(results: Sequence[ClaimResult]) -> None:
    for result in results:
        output.say(f"  {'held  ' if result.held else 'FAILED'} {output.safe(result.claim)} {output.safe(result.said)}")
