from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.sealed_secrets import SealedSecrets
from gateway.app.people_ports import Sealer


@pytest.fixture(scope="module")
def sealer(tmp_path_factory: pytest.TempPathFactory) -> Sealer:
    return SealedSecrets(tmp_path_factory.mktemp("keys") / "tokens.key")


@given(st.text(max_size=200), st.text(max_size=40))
def test_what_was_sealed_opens_where_it_belongs_and_nowhere_else(sealer: Sealer, secret: str, bound: str) -> None:
    sealed = sealer.seal(secret, bound)
    assert sealer.unseal(sealed, bound) == secret
    assert sealed != sealer.seal(secret, bound)
    with pytest.raises(ValueError):
        sealer.unseal(sealed, bound + "x")


@given(st.binary(max_size=100), st.text(max_size=60))
def test_damage_is_found(sealer: Sealer, junk: bytes, text: str) -> None:
    for damaged in (junk.hex(), text, sealer.seal("s", "b")[:-8]):
        with pytest.raises(ValueError):
            sealer.unseal(damaged, "b")


def test_keys_rotate_and_a_lost_key_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens.key"
    old = SealedSecrets(path).seal("s", "b")
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("a") as file:
        file.write("A" * 43 + "=\n")
    assert SealedSecrets(path).unseal(old, "b") == "s"
    path.unlink()
    with pytest.raises(ValueError):
        SealedSecrets(path).unseal(old, "b")
