import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.core.ssh_rules import certificate_serial
from gateway.wire.krl import MOST_SERIALS, revoked_certificates

NOW = datetime.now(UTC)


def certificate(authorities: SshAuthorities, directory: Path, session: str) -> Path:
    key = directory / session
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    line = authorities.target_certificate(key.with_suffix(".pub").read_text(), "deploy", session, "grt_1", NOW)
    path = directory / f"{session}-cert.pub"
    path.write_text(line + "\n")
    return path


def is_revoked(krl: Path, certificate: Path) -> bool:
    done = subprocess.run(["ssh-keygen", "-Q", "-f", str(krl), str(certificate)], capture_output=True, check=False)
    assert b"revoked" in done.stdout.lower() or b"ok" in done.stdout.lower(), done
    return done.returncode != 0


def blob(line: str) -> bytes:
    import base64

    return base64.b64decode(line.split()[1])


def test_ssh_keygen_reads_the_list(tmp_path: Path) -> None:
    ours, other = SshAuthorities(tmp_path / "ours"), SshAuthorities(tmp_path / "other")
    killed, running = certificate(ours, tmp_path, "ses_killed"), certificate(ours, tmp_path, "ses_running")
    (tmp_path / "b").mkdir()
    foreign = certificate(other, tmp_path / "b", "ses_killed")
    serials = [certificate_serial(f"ses_{n}") for n in range(500)] + [certificate_serial("ses_killed")]
    krl = tmp_path / "krl"
    krl.write_bytes(revoked_certificates(blob(ours.target_ca_public), serials, version=7, generated=1, comment="c"))
    assert is_revoked(krl, killed)
    assert not is_revoked(krl, running)
    assert not is_revoked(krl, foreign)


def test_an_empty_list_revokes_nothing(tmp_path: Path) -> None:
    ours = SshAuthorities(tmp_path / "ours")
    krl = tmp_path / "krl"
    krl.write_bytes(revoked_certificates(blob(ours.target_ca_public), [], version=1, generated=1))
    assert not is_revoked(krl, certificate(ours, tmp_path, "ses_1"))


@given(st.lists(st.integers(1, (1 << 64) - 1), min_size=1))
def test_lengths_add_up(serials: list[int]) -> None:
    made = revoked_certificates(b"ca", serials, version=1, generated=2)
    head = 8 + 4 + 8 + 8 + 8 + 4 + 4
    assert len(made) == head + 1 + 4 + (4 + 2 + 4 + 1 + 4 + 8 * len(set(serials)))


@pytest.mark.parametrize("serials", [[0], [1, 0], range(1, MOST_SERIALS + 2)])
def test_what_cannot_be_listed(serials: list[int]) -> None:
    with pytest.raises(ValueError, match="cannot be listed"):
        revoked_certificates(b"ca", serials, version=1, generated=1)
