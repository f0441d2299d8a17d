from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.adapters.deploy_keys import DeployKeyring


def test_it_is_made_once_private_and_kept(tmp_path: Path):
    path = tmp_path / "keys" / "deploy.key"
    keys = DeployKeyring(path).root_keys()
    assert [len(key) for key in keys] == [32]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert DeployKeyring(path).root_keys() == keys
    assert [entry.name for entry in path.parent.iterdir()] == ["deploy.key"]


def test_gateways_that_start_at_once_agree(tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        rings = list(pool.map(lambda _: DeployKeyring(tmp_path / "deploy.key"), range(32)))
    assert len({ring.root_keys() for ring in rings}) == 1


def test_an_added_line_mints_and_the_old_one_still_verifies(tmp_path: Path):
    path = tmp_path / "deploy.key"
    (old,) = DeployKeyring(path).root_keys()
    with path.open("ab") as file:
        file.write(b64encode(b"n" * 32) + b"\n")
    assert DeployKeyring(path).root_keys() == (b"n" * 32, old)


@pytest.mark.parametrize("content", [b"", b"\n", b"c2hvcnQ=\n", b"not base64!\n"])
def test_a_damaged_file_is_not_replaced(tmp_path: Path, content: bytes):
    path = tmp_path / "deploy.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match="deploy\\.key"):
        DeployKeyring(path)
    assert path.read_bytes() == content


def test_others_may_not_read_it(tmp_path: Path):
    path = tmp_path / "deploy.key"
    DeployKeyring(path)
    path.chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        DeployKeyring(path)
