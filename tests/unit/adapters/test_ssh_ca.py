import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_public_identity,
)
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.core.errors import Refusal
from gateway.core.principal import User
from gateway.core.ssh_rules import certificate_serial
from gateway.core.target import SshRules

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
ONCALL = User("usr_oncall", "https://idp.test", "1", "oncall")
PERSON = ed25519.Ed25519PrivateKey.generate()


@pytest.fixture
def authorities(tmp_path: Path) -> SshAuthorities:
    return SshAuthorities(tmp_path / "ssh")


def line(key: object) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()  # type: ignore[attr-defined]


def parsed(certificate: str) -> SSHCertificate:
    identity = load_ssh_public_identity(certificate.encode())
    assert isinstance(identity, SSHCertificate)
    return identity


def blob(certificate: str) -> bytes:
    return base64.b64decode(certificate.split()[1])


def code(verdict: str | Refusal) -> str:
    assert isinstance(verdict, Refusal), verdict
    return verdict.code


def forged(authority: ed25519.Ed25519PrivateKey, **changes: object) -> bytes:
    values: dict[str, object] = {
        "type": SSHCertificateType.USER,
        "key_id": b"usr_oncall",
        "principals": [b"usr_oncall"],
        "after": NOW - HOUR,
        "before": NOW + HOUR,
        "critical": [],
        **changes,
    }
    builder = SSHCertificateBuilder().public_key(PERSON.public_key()).serial(1).type(values["type"])  # type: ignore[arg-type]
    builder = builder.key_id(values["key_id"])  # type: ignore[arg-type]
    builder = (
        builder.valid_principals(values["principals"]) if values["principals"] else builder.valid_for_all_principals()
    )  # type: ignore[arg-type]
    builder = builder.valid_after(int(values["after"].timestamp())).valid_before(int(values["before"].timestamp()))  # type: ignore[attr-defined]
    for name, value in values["critical"]:  # type: ignore[attr-defined]
        builder = builder.add_critical_option(name, value)
    return blob(builder.sign(authority).public_bytes().decode())


def test_a_door_certificate_proves_who_comes(authorities: SshAuthorities) -> None:
    certificate = authorities.door_certificate(ONCALL, line(PERSON), NOW, NOW + HOUR)
    assert authorities.verify_door_certificate(blob(certificate), NOW) == ONCALL.id
    made = parsed(certificate)
    assert made.valid_principals == [ONCALL.id.encode()]
    assert made.extensions == {b"permit-pty": b""}
    assert not made.critical_options


def test_keys_are_made_once_and_kept_private(tmp_path: Path) -> None:
    first, second = SshAuthorities(tmp_path / "ssh"), SshAuthorities(tmp_path / "ssh")
    assert first.target_ca_public == second.target_ca_public
    assert first.host_key_public == second.host_key_public
    assert (tmp_path / "ssh").stat().st_mode & 0o777 == 0o700
    files = sorted((tmp_path / "ssh").iterdir())
    assert [f.name for f in files] == ["door_ca", "host_key", "target_ca"]
    assert {f.stat().st_mode & 0o777 for f in files} == {0o600}


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    SshAuthorities(tmp_path / "ssh")
    (tmp_path / "ssh" / "door_ca").chmod(0o644)
    with pytest.raises(PermissionError, match="chmod 600"):
        SshAuthorities(tmp_path / "ssh")


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 3072),
    ],
    ids=["ed25519", "p256", "p521", "rsa3072"],
)
def test_kinds_of_keys_that_are_signed(authorities: SshAuthorities, key: object) -> None:
    certificate = authorities.door_certificate(ONCALL, line(key), NOW, NOW + HOUR)
    assert authorities.verify_door_certificate(blob(certificate), NOW) == ONCALL.id


def test_weak_and_unreadable_keys_are_refused(authorities: SshAuthorities) -> None:
    own_certificate = authorities.door_certificate(ONCALL, line(PERSON), NOW, NOW + HOUR)
    for bad in (line(rsa.generate_private_key(65537, 2048)), "", "ssh-ed25519 AAAA", "nonsense", "ä", own_certificate):
        with pytest.raises(ValueError, match="key"):
            authorities.door_certificate(ONCALL, bad, NOW, NOW + HOUR)


@pytest.mark.parametrize("user_id", ["", "a,root", "usr oncall", "usr\nx", "-x", "ä", "x" * 200])
def test_an_unsafe_user_id_is_never_signed(authorities: SshAuthorities, user_id: str) -> None:
    with pytest.raises(ValueError, match="user id"):
        authorities.door_certificate(User(user_id, "i", "s", "n"), line(PERSON), NOW, NOW + HOUR)


def test_validity_is_half_open(authorities: SshAuthorities) -> None:
    certificate = blob(authorities.door_certificate(ONCALL, line(PERSON), NOW, NOW + HOUR))
    assert code(authorities.verify_door_certificate(certificate, NOW - timedelta(seconds=31))) == "certificate-early"
    assert authorities.verify_door_certificate(certificate, NOW + HOUR - timedelta(seconds=1)) == ONCALL.id
    assert code(authorities.verify_door_certificate(certificate, NOW + HOUR)) == "certificate-expired"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"type": SSHCertificateType.HOST}, "certificate-kind"),
        ({"principals": []}, "certificate-principal"),
        ({"principals": [b"usr_oncall,root"]}, "certificate-principal"),
        ({"principals": [b"usr_oncall", b"root"]}, "certificate-principal"),
        ({"principals": [b"usr_other"]}, "certificate-principal"),
        ({"key_id": b""}, "certificate-principal"),
        ({"key_id": b"\xff"}, "certificate-principal"),
        ({"key_id": b"usr,root", "principals": [b"usr,root"]}, "certificate-principal"),
        ({"key_id": b"-x", "principals": [b"-x"]}, "certificate-principal"),
        ({"critical": [(b"unknown@example.com", b"")]}, "certificate-options"),
        ({"critical": [(b"force-command", b"true")]}, "certificate-options"),
        ({"critical": [(b"source-address", b"10.0.0.0/8")]}, "certificate-options"),
        ({"before": NOW - timedelta(seconds=1)}, "certificate-expired"),
        ({"after": NOW + timedelta(seconds=1)}, "certificate-early"),
    ],
    ids=str,
)
def test_certificates_of_our_own_authority_that_prove_nothing(
    authorities: SshAuthorities, changes: dict[str, object], why: str
) -> None:
    assert code(authorities.verify_door_certificate(forged(authorities._door, **changes), NOW)) == why


def test_another_authority_proves_nothing(authorities: SshAuthorities, tmp_path: Path) -> None:
    stranger = SshAuthorities(tmp_path / "stranger")
    certificate = blob(stranger.door_certificate(ONCALL, line(PERSON), NOW, NOW + HOUR))
    assert code(authorities.verify_door_certificate(certificate, NOW)) == "certificate-foreign"


def test_the_two_authorities_are_not_each_other(authorities: SshAuthorities) -> None:
    certificate = blob(authorities.target_certificate(line(PERSON), "web", "ses_1", "grt_1", NOW))
    assert code(authorities.verify_door_certificate(certificate, NOW)) == "certificate-foreign"


def test_a_certificate_signed_by_a_certificate_is_refused(authorities: SshAuthorities) -> None:
    # Put the door certificate itself where the authority's key belongs (CVE-2025-49825).
    good = blob(authorities.door_certificate(ONCALL, line(PERSON), NOW, NOW + HOUR))
    authority = authorities._door.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    key = base64.b64decode(authority.split()[1])
    nested = good.replace(len(key).to_bytes(4, "big") + key, len(good).to_bytes(4, "big") + good)
    assert nested != good
    assert isinstance(authorities.verify_door_certificate(nested, NOW), Refusal)


@given(st.data())
def test_a_changed_certificate_is_refused(data: st.DataObject) -> None:
    authorities = _kept_authorities()
    good = bytearray(blob(authorities.door_certificate(ONCALL, line(PERSON), NOW, NOW + HOUR)))
    position = data.draw(st.integers(0, len(good) - 1))
    good[position] ^= data.draw(st.integers(1, 255))
    assert isinstance(authorities.verify_door_certificate(bytes(good), NOW), Refusal)


@given(st.binary(max_size=600))
def test_garbage_is_refused(garbage: bytes) -> None:
    authorities = _kept_authorities()
    kind = b"ssh-ed25519-cert-v01@openssh.com"
    assert isinstance(authorities.verify_door_certificate(garbage, NOW), Refusal)
    framed = len(kind).to_bytes(4, "big") + kind + garbage
    assert isinstance(authorities.verify_door_certificate(framed, NOW), Refusal)


_kept: list[SshAuthorities] = []


def _kept_authorities() -> SshAuthorities:
    if not _kept:
        import tempfile

        _kept.append(SshAuthorities(Path(tempfile.mkdtemp()) / "ssh"))
    return _kept[0]


def test_a_target_certificate_names_grant_session_and_user(authorities: SshAuthorities) -> None:
    made = parsed(authorities.target_certificate(line(PERSON), "deploy", "ses_1", "grt_1", NOW, user="on call"))
    assert made.key_id == b"grant=grt_1 session=ses_1 user=on_call"
    assert made.valid_principals == [b"deploy"]
    assert made.valid_after == int(NOW.timestamp()) - 30
    assert made.valid_before == int(NOW.timestamp()) + 300
    assert made.extensions == {b"permit-pty": b""}
    assert made.type is SSHCertificateType.USER
    made.verify_cert_signature()
    assert line_of(made) in authorities.target_ca_public


def line_of(certificate: SSHCertificate) -> str:
    return certificate.signature_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_a_target_certificate_never_lives_longer_than_five_minutes(authorities: SshAuthorities) -> None:
    made = parsed(authorities.target_certificate(line(PERSON), "deploy", "ses_1", "grt_1", NOW, life=HOUR))
    assert made.valid_before == int(NOW.timestamp()) + 300


def test_a_level_may_force_a_command(authorities: SshAuthorities) -> None:
    made = parsed(authorities.target_certificate(line(PERSON), "deploy", "ses_1", "grt_1", NOW, force_command="uptime"))
    assert made.critical_options == {b"force-command": b"uptime"}


@pytest.mark.parametrize("account", ["", "root,admin", "a b", "a\n", "*", "-root"])
def test_an_unsafe_account_is_never_signed(authorities: SshAuthorities, account: str) -> None:
    with pytest.raises(ValueError, match="account"):
        authorities.target_certificate(line(PERSON), account, "ses_1", "grt_1", NOW)


def test_the_serial_follows_from_the_session(authorities: SshAuthorities) -> None:
    serials = {
        parsed(authorities.target_certificate(line(PERSON), "deploy", f"ses_{n}", "grt_1", NOW)).serial
        for n in range(20)
    }
    assert serials == {certificate_serial(f"ses_{n}") for n in range(20)}
    assert len(serials) == 20


@pytest.mark.parametrize(
    ("rules", "extensions"),
    [
        (SshRules(shell=False), set()),
        (SshRules(), {b"permit-pty"}),
        (SshRules(forwards=("127.0.0.1:1",)), {b"permit-pty", b"permit-port-forwarding"}),
        (SshRules(remote_forwards=("/run/x",), shell=False), {b"permit-port-forwarding"}),
        (SshRules(agent_forwarding=True), {b"permit-pty", b"permit-agent-forwarding"}),
        (SshRules(x11_forwarding=True), {b"permit-pty", b"permit-X11-forwarding"}),
    ],
)
def test_a_target_certificate_allows_no_more_than_its_level(
    authorities: SshAuthorities, rules: SshRules, extensions: set[bytes]
) -> None:
    made = parsed(authorities.target_certificate(line(PERSON), "deploy", "ses_1", "grt_1", NOW, rules=rules))
    assert set(made.extensions) == extensions


def test_a_target_certificate_is_worth_something_from_one_address(authorities: SshAuthorities) -> None:
    made = parsed(
        authorities.target_certificate(line(PERSON), "deploy", "ses_1", "grt_1", NOW, source_address="fe80::1%eth0")
    )
    assert made.critical_options == {b"source-address": b"fe80::1"}
    with pytest.raises(ValueError, match="not appear"):
        authorities.target_certificate(line(PERSON), "deploy", "ses_1", "grt_1", NOW, source_address="0.0.0.0/0,x")


# ---------------------------------------------------------------- host certificates

HOST_CA = ed25519.Ed25519PrivateKey.generate()
HOST = {"type": SSHCertificateType.HOST, "principals": [b"web-1.internal"]}


def key_blob(key: object) -> bytes:
    return base64.b64decode(line(key).split()[1])


def test_a_host_certificate_vouches_for_the_host_that_was_dialled(authorities: SshAuthorities) -> None:
    made = forged(HOST_CA, **HOST)
    assert authorities.verify_host_certificate(made, [key_blob(HOST_CA)], "web-1.internal", NOW) == ""
    assert authorities.verify_host_certificate(made, [key_blob(HOST_CA)], "WEB-1.internal", NOW) == ""
    assert "does not name" in authorities.verify_host_certificate(made, [key_blob(HOST_CA)], "web-2.internal", NOW)
    assert "another authority" in authorities.verify_host_certificate(made, [], "web-1.internal", NOW)
    assert "another" in authorities.verify_host_certificate(made, [key_blob(PERSON)], "web-1.internal", NOW)
    assert "neither" in authorities.verify_host_certificate(
        key_blob(PERSON), [key_blob(HOST_CA)], "web-1.internal", NOW
    )
    assert "neither" in authorities.verify_host_certificate(b"", [key_blob(HOST_CA)], "web-1.internal", NOW)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"type": SSHCertificateType.USER}, "person's"),
        ({"principals": []}, "does not name"),
        ({"principals": [b"web-1.internal,web-2.internal"]}, "does not name"),
        ({"principals": [b"*"]}, "does not name"),
        ({"critical": [(b"unknown@example.com", b"")]}, "options"),
        ({"before": NOW - timedelta(seconds=1)}, "expired"),
        ({"after": NOW + timedelta(seconds=1)}, "expired or is not valid yet"),
    ],
)
def test_host_certificates_that_prove_nothing(authorities: SshAuthorities, change: dict[str, object], why: str) -> None:
    made = forged(HOST_CA, **{**HOST, **change})
    assert why in authorities.verify_host_certificate(made, [key_blob(HOST_CA)], "web-1.internal", NOW)


def test_a_host_certificate_that_was_changed_or_signed_by_rsa(authorities: SshAuthorities) -> None:
    made = bytearray(forged(HOST_CA, **HOST))
    made[-1] ^= 1
    assert "signature" in authorities.verify_host_certificate(bytes(made), [key_blob(HOST_CA)], "web-1.internal", NOW)
    weak = rsa.generate_private_key(65537, 3072)
    by_rsa = forged(weak, **HOST)  # type: ignore[arg-type]
    assert "kind of key" in authorities.verify_host_certificate(by_rsa, [key_blob(weak)], "web-1.internal", NOW)
