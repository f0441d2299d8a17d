"""The lock file is in step with pyproject.toml, pinned, hashed, and says nothing about where things come from."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
_ENTRY = re.compile(
    r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^ ;\\]+)(?P<rest>.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL
)
LOCKED = {canonicalize_name(m["name"]): m for m in _ENTRY.finditer(LOCK)}
WANTED = [
    Requirement(text)
    for text in (
        *PROJECT["project"]["dependencies"],
        *(d for group in PROJECT["dependency-groups"].values() for d in group),
    )
]


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_every_dependency_is_locked_at_a_version_that_fits(wanted: Requirement) -> None:
    entry = LOCKED.get(canonicalize_name(wanted.name))
    assert entry, f"{wanted.name} is not in requirements.lock: make lock"
    assert wanted.specifier.contains(Version(entry["version"])), f"{wanted} but {entry['version']} is locked: make lock"


def test_every_entry_has_hashes() -> None:
    assert len(LOCKED) > len(WANTED)
    assert [name for name, entry in LOCKED.items() if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry["rest"])] == []


def test_no_download_address_is_in_it() -> None:
    lines = [
        line
        for line in LOCK.splitlines()
        if "://" in line or line.lstrip().startswith(("-i", "--index", "--extra", "--find"))
    ]
    assert lines == []
    assert " @ " not in LOCK
