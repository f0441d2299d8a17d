"""`gw trust init github|gitlab`: a right trust policy to begin with. No network: ids are given or asked for."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from gateway.adapters.trust_policies import parse
from gateway.adapters.yaml_source import SourceError
from gateway.core.trust import Issuer
from gateway.edges.cli import output

_GITHUB = "https://token.actions.githubusercontent.com"
_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}")
_PROJECT = re.compile(r"[A-Za-z0-9_.-]{1,255}(/[A-Za-z0-9_.-]{1,255}){1,20}")
_F = TypeVar("_F", bound=Callable[..., Any])


def _common(command: _F) -> _F:
    options = [
        click.option("--audience", required=True, help="This gateway's URL: what the pipeline asks its token for."),
        click.option("--environment", default="production", show_default=True, help="The protected environment."),
        click.option("--branch", default="main", show_default=True, help="The protected branch."),
        click.option("--target", "targets", multiple=True, required=True, help="May be given several times."),
        click.option(
            "--verb", "verbs", multiple=True, default=("deploy", "rollback"), show_default=True, help="The same."
        ),
        click.option("--name", default="", help="Of the rule."),
        click.option(
            "--dir", "directory", type=click.Path(file_okay=False, path_type=Path), default="policies/trust",
            show_default=True, help="Issuers declared there are not declared again.",
        ),
        click.option("--write", is_flag=True, help="Write NAME.yaml there instead of printing it."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def init() -> None:
    """Write a correct trust policy to begin with; `gw trust check` finds nothing wrong with it."""


@init.command()
@click.argument("repository", metavar="OWNER/REPO")
@click.option("--owner-id", default="", help="The number of the owner; asked for on a terminal.")
@click.option("--repository-id", default="", help="The number of the repository; asked for on a terminal.")
@click.option("--workflow", default="deploy.yml", show_default=True, help="The file in .github/workflows.")
@click.option("--host", default="", help="Of a GitHub Enterprise Server.")
@_common
@output.json_option
def github(repository: str, owner_id: str, repository_id: str, workflow: str, host: str, **given: Any) -> None:
    """For one repository of GitHub: ids pinned, one protected environment, one branch, one workflow."""
    if not _REPOSITORY.fullmatch(repository):
        output.fail(f"{repository!r} is not OWNER/REPO.", output.EXIT_USAGE)
    place = f"https://{host or 'api.github.com'}{'/api/v3' if host else ''}/repos/{repository}"
    claims = {
        "repository_owner_id": _number("owner-id", owner_id, f"owner.id in {place}"),
        "repository_id": _number("repository-id", repository_id, f"id in {place}"),
        "ref": f"refs/heads/{given['branch']}",
        "environment": given["environment"],
        "job_workflow_ref": f"{repository}/.github/workflows/{workflow}@refs/heads/{given['branch']}",
    }
    url = f"https://{host}/_services/token" if host else _GITHUB
    _produce("github", url, repository, claims, **given)


@init.command()
@click.argument("project", metavar="GROUP/PROJECT")
@click.option("--namespace-id", default="", help="The number of the group; asked for on a terminal.")
@click.option("--project-id", default="", help="The number of the project; asked for on a terminal.")
@click.option("--config", default=".gitlab-ci.yml", show_default=True, help="The pipeline's file.")
@click.option("--host", default="gitlab.com", show_default=True, help="The GitLab.")
@_common
@output.json_option
def gitlab(project: str, namespace_id: str, project_id: str, config: str, host: str, **given: Any) -> None:
    """For one project of GitLab: ids pinned, one protected environment, one branch, one pipeline file."""
    if not _PROJECT.fullmatch(project):
        output.fail(f"{project!r} is not GROUP/PROJECT.", output.EXIT_USAGE)
    place = f"https://{host}/api/v4/projects/{project.replace('/', '%2F')}"
    claims = {
        "namespace_id": _number("namespace-id", namespace_id, f"namespace.id in {place}"),
        "project_id": _number("project-id", project_id, f"id in {place}"),
        "ref": given["branch"],
        "environment": given["environment"],
        "ci_config_ref_uri": f"{host}/{project}//{config}@refs/heads/{given['branch']}",
    }
    _produce("gitlab", f"https://{host}", project, claims, **given)


def _number(option: str, value: str, place: str) -> str:
    """Names can be given up and taken by somebody else; numbers cannot."""
    if not value and sys.stdin.isatty() and not output.wants_json():
        value = str(click.prompt(f"--{option} ({place})", type=click.IntRange(1)))
    if not (value.isascii() and value.isdigit()):
        output.fail(f"--{option} is a number: {place}.", output.EXIT_USAGE, code="id-needed")
    return value


def _produce(
    kind: str, url: str, path: str, claims: dict[str, str], *, audience: str, environment: str, branch: str,
    targets: Sequence[str], verbs: Sequence[str], name: str, directory: Path, write: bool, as_json: bool,
) -> None:  # fmt: skip
    del branch
    name = name or f"{path.rpartition('/')[2]}-{environment}".lower()
    known = _known(directory, url)
    document: dict[str, Any] = {"version": 1}
    if known is None:
        document["issuers"] = {kind: {"kind": kind, "issuer": url, "audience": audience}}
    allow = [{"targets": list(targets), "verbs": list(verbs)}]
    rule = {"description": path, "issuer": known.name if known else kind, "claims": claims, "allow": allow}
    document["rules"] = {name: rule}
    text = yaml.safe_dump(document, sort_keys=False, width=120)
    file = directory / f"{name}.yaml"
    if write:
        _write(file, text)
    if as_json:
        output.print_json({"ok": True, "rule": name, "yaml": text, "file": str(file) if write else None})
    else:
        output.say(f"{file}: written. Now: gw trust check --dir {directory}" if write else text.rstrip())


def _known(directory: Path, url: str) -> Issuer | None:
    try:
        return parse(directory).issuer_of(url)
    except SourceError as error:
        output.fail(str(error), output.EXIT_ERROR, "Put that right first.", code="trust-invalid")


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError:
        output.fail(f"{file} is there already.", output.EXIT_CONFLICT, "Choose another --name.", code="file-exists")
