"""Documents under test: every setting, event type, command and decision is where a reader looks for it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from gateway.edges.cli.main import COMMANDS
from gateway.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_EVENT = re.compile(r"[a-z]+(-[a-z]+)*:[a-z]+(-[a-z]+)*")
_TEST = re.compile(r"`((?:contract|conformance|e2e|unit)/[\w/]+\.py)(?:::(test_\w+))?`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)")
# Put together from two words: app/reload_rules.py.
_COMPOSED = frozenset(
    {"policy:loaded", "policy:rejected", "catalogue:loaded", "catalogue:rejected", "trust:loaded", "trust:rejected"}
)


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from settings_of(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def event_types() -> set[str]:
    """String constants of that shape that are given to a call: `journal.append(ctx, uow, "grant:issued", …)`."""
    found = set()
    for path in (ROOT / "gateway").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call):
                values = [*call.args, *(keyword.value for keyword in call.keywords)]
                words = (v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str))
                found |= {word for word in words if _EVENT.fullmatch(word)}
    return found | _COMPOSED


@pytest.mark.parametrize("name", list(settings_of(Settings)))
def test_every_setting_is_described(name: str) -> None:
    assert f"`{name}`" in (DOCS / "configure.md").read_text()


def test_every_event_type_is_described() -> None:
    described = (DOCS / "events.md").read_text()
    assert sorted(t for t in event_types() if f"`{t}`" not in described) == []


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda p: p.name)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    named = _TEST.findall(page.read_text().replace("`tests/", "`"))
    assert named or page.name != "attacks.md"
    texts = {file: ROOT / "tests" / file for file, _ in named}
    assert [file for file, path in texts.items() if not path.is_file()] == []
    assert [f"{file}::{name}" for file, name in named if name and f"def {name}(" not in texts[file].read_text()] == []


def test_no_event_type_is_described_that_nothing_writes() -> None:
    code = "".join(path.read_text() for path in (ROOT / "gateway").rglob("*.py"))
    described = re.findall(r"^\| `([a-z-]+:[a-z-]+)`", (DOCS / "events.md").read_text(), re.MULTILINE)
    assert described
    assert [t for t in described if f'"{t}"' not in code and t not in _COMPOSED] == []


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_is_described(name: str) -> None:
    assert f"`gw {name}" in (DOCS / "cli.md").read_text()


@pytest.mark.parametrize("page", sorted(p for p in (ROOT / "README.md", *DOCS.rglob("*.md"))), ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    local = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_decisions_name_what_they_cost() -> None:
    for record in (DOCS / "adr").glob("[0-9]*.md"):
        assert "## What it costs" in record.read_text(), record.name
