"""Every SSH flaw that broke another gateway or library, and the test that would catch it here.

| flaw | tests (in test_ssh_hostile unless a file is named) |
|---|---|
| CVE-2018-7750, CVE-2018-7749, CVE-2025-32433: served before authentication | `test_nothing_but_authentication_before_authentication` |
| CVE-2018-10933, CVE-2018-1000805: the client says that it succeeded | the same with 51 to 53; `test_what_only_servers_send_ends_the_connection_after_login_too` |
| CVE-2023-43660: an offer is a login | `test_an_offer_alone_is_no_login`, `test_a_bad_signature_is_refused` |
| CVE-2024-45337: identity of the key that was asked about | `test_offering_the_victims_certificate_gives_nobody_the_victims_name`, here: `test_offering_the_victims_certificate_and_giving_ones_own_ticket` |
| CVE-2023-48712, CVE-2023-37268: started as A, finished as B | `test_a_second_user_name_ends_the_connection`; test_ssh_sign_in: `test_a_wrong_ticket_is_refused_with_a_sentence`, `test_nothing_but_the_level_decides_whoever_comes` |
| CVE-2023-46446, CVE-2023-46445: rogue session, extension info | `test_a_second_user_name_ends_the_connection`; here: `test_extension_info_changes_nobodys_name` |
| CVE-2023-48795 Terrapin | here: `test_strict_key_exchange_is_offered_and_enforced` |
| GHSA-vgvv: a length allocates | `test_impossible_lengths_before_login_are_cut_off`, `test_an_endless_identification_is_cut_off` |
| CVE-2025-22869, CVE-2026-7776: withheld handshakes, slow new keys | `test_whoever_does_not_log_in_is_cut_off`; here: `test_new_keys_that_never_come_hold_no_memory`, `test_whoever_ignores_a_request_for_new_keys_is_cut_off` |
| CVE-2026-39827: rejected channels leak | here: `test_rejected_channels_leave_nothing` |
| CVE-2026-39830: unsolicited replies | here: `test_an_answer_that_nobody_asked_for_ends_the_connection` |
| CVE-2026-39829: huge RSA moduli | here: `test_a_huge_modulus_costs_nothing` |
| CVE-2026-39834: counters wrap after 4 GB | unit/edges/proxy/test_ssh_openings: `test_more_than_four_gigabytes_pass_a_channel` |
| GSSAPI mechanism count | `test_other_methods_are_refused` |
| CVE-2026-39828: restrictions lost between two steps | test_ssh_sign_in: `test_nothing_but_the_level_decides_whoever_comes` |
| CVE-2024-7594, CVE-2026-35414, CVE-2023-38325, CVE-2025-49825: certificates | unit/adapters/test_ssh_ca: `test_certificates_of_our_own_authority_that_prove_nothing`, `test_a_certificate_signed_by_a_certificate_is_refused`, `test_host_certificates_that_prove_nothing` |
| GHSA-5cgq: @revoked in known_hosts | no known_hosts is read: host keys are the catalogue's (`test_an_unknown_host_key_is_an_event_with_fingerprints`) |
| CVE-2026-44405: RSA with SHA-1 | `test_rsa_with_sha1_is_refused` |
| GHSA-hw4x: the proxy dials | test_ssh_forwards: `test_a_dynamic_forward_with_curl`, `test_a_forward_to_the_targets_own_sshd_is_no_way_around_the_recording`; `test_no_channel_but_sessions_is_opened` |
| GHSA-c9v7: sftp on the proxy | here: `test_files_never_land_on_the_gateway` |
| GHSA-vfxf: environment that runs code | test_ssh_forwards: `test_the_environment_is_the_levels`; unit/core/test_ssh_rules: `test_what_runs_code_never_passes` |
| paramiko's defaults: 3des, md5, sha1, NIST key exchange | test_ssh_door: `test_weak_algorithms_are_not_spoken` |
| CVE-2002-20001 (DHEat): a stranger makes the server exponentiate | no finite-field group is spoken: test_ssh_door: `test_weak_algorithms_are_not_spoken`; test_ssh_audit: `test_only_what_is_meant_to_be_spoken_is_offered`; handshakes are limited: `test_whoever_does_not_log_in_is_cut_off` |
| late notices without TCP_NODELAY | here: `test_both_legs_send_at_once` |
"""

import base64
import os
import socket
import struct
import subprocess
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import SSHCertificateBuilder, SSHCertificateType

from gateway.core.session import EndReason
from gateway.edges.proxy import ssh_keys, ssh_packets
from gateway.edges.proxy.ssh_channels import WINDOW
from gateway.edges.proxy.ssh_fields import string, u32
from gateway.edges.proxy.ssh_server import DoorAuth
from tests.e2e.ssh_stage import ONCALL, VICTIM, Stage
from tests.e2e.ssh_stage import authorities as authorities
from tests.e2e.ssh_stage import sshd as sshd
from tests.e2e.ssh_stage import stage as stage
from tests.e2e.test_ssh_hostile import FAILURE, PK_OK, SUCCESS, Connect, RawClient, _resident
from tests.e2e.test_ssh_hostile import raw as raw

pytestmark = [
    pytest.mark.servers,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


def give_ticket(client: RawClient, user: bytes, secret: bytes) -> None:
    head = b"\x32" + string(user) + string(b"ssh-connection") + string(b"password")
    client.send(head, b"\0", string(secret))


def open_session(client: RawClient, number: int = 0) -> None:
    client.transport._handler_table[91] = lambda _m: None
    client.send(b"\x5a", string(b"session"), u32(number), u32(WINDOW), u32(32768))


def test_offering_the_victims_certificate_and_giving_ones_own_ticket(stage: Stage, raw: Connect) -> None:
    grant = stage._grant_for(ONCALL, "web-1", "shell")
    stage.tickets[("web-1", "gwt_mine")] = (ONCALL, grant)
    client = raw()
    client.begin()
    client.offer(client.credential("victim")[1])
    assert client.answer() == PK_OK
    give_ticket(client, b"web-1", b"gwt_mine")
    assert client.answer() == SUCCESS
    open_session(client)
    stage.wait(lambda: stage.opened)
    assert stage.opened[0].session.holder == ONCALL.id != VICTIM.id


def test_a_ticket_counts_as_a_try(raw: Connect) -> None:
    client = raw()
    client.begin()
    for _ in range(5):
        give_ticket(client, b"web-1", b"gwt_guess")
        assert client.answer() == FAILURE
    give_ticket(client, b"web-1", b"gwt_guess")
    assert client.has_ended()


@pytest.mark.parametrize("secret", [b"", b"\xff\xfe", b"x" * 20_000, b"a\0b"])
def test_a_password_that_is_no_ticket(raw: Connect, secret: bytes) -> None:
    client = raw()
    client.begin()
    give_ticket(client, b"web-1", secret)
    assert client.answer() == FAILURE


def test_an_answer_to_a_prompt_that_was_abandoned_ends_the_connection(stage: Stage, raw: Connect) -> None:
    stage.tickets[("web-1", "gwt_mine")] = (ONCALL, stage._grant_for(ONCALL, "web-1", "shell"))
    client = raw()
    client.begin()
    client.send(b"\x32", string(b"web-1"), string(b"ssh-connection"), string(b"keyboard-interactive"), u32(0) * 2)
    assert client.answer() == PK_OK  # 60 is INFO_REQUEST here
    client.send(b"\x32", string(b"web-1"), string(b"ssh-connection"), string(b"none"))
    assert client.answer() == FAILURE
    client.send(b"\x3d", u32(1), string(b"gwt_mine"))
    assert client.has_ended()


def test_extension_info_changes_nobodys_name(stage: Stage, raw: Connect) -> None:
    client = raw()
    client.begin()
    client.send(b"\x07", u32(1), string(b"server-sig-algs"), string(b"none,ssh-rsa"))
    client.prove(*client.credential("me"))
    assert client.answer() == SUCCESS
    open_session(client)
    stage.wait(lambda: stage.asked)
    assert stage.asked[0][0] == ONCALL.id


def _packet(payload: bytes) -> bytes:
    padding = 8 - (len(payload) + 5) % 8
    padding += 8 if padding < 4 else 0
    return struct.pack(">IB", len(payload) + padding + 1, padding) + payload + bytes(padding)


def _kexinit(*kex: bytes) -> bytes:
    lists = [
        b",".join(kex), b"ssh-ed25519", *[b"aes128-gcm@openssh.com"] * 2, *[b"hmac-sha2-256-etm@openssh.com"] * 2,
        *[b"none"] * 2, b"", b"",
    ]  # fmt: skip
    return b"\x14" + os.urandom(16) + b"".join(map(string, lists)) + b"\0" + u32(0)


def _read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


@pytest.mark.parametrize("injected", [b"\x02" + string(b"x"), b"\x04\0" + string(b"x") + string(b""), b"\x07" + u32(0)])
def test_strict_key_exchange_is_offered_and_enforced(stage: Stage, injected: bytes) -> None:
    assert stage.door is not None
    with socket.create_connection(("127.0.0.1", stage.door.port), timeout=10) as sock:
        sock.sendall(b"SSH-2.0-x\r\n")
        while _read(sock, 1) != b"\n":
            pass
        offered = _read(sock, struct.unpack(">I", _read(sock, 4))[0])
        assert b"kex-strict-s-v00@openssh.com" in offered
        sock.sendall(_packet(_kexinit(b"curve25519-sha256", b"kex-strict-c-v00@openssh.com")) + _packet(injected))
        key = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        assert _is_cut_off(sock, key)


def _is_cut_off(sock: socket.socket, key: bytes) -> bool:
    """True when the door ends the exchange; it waits for ever otherwise, and that is a TimeoutError."""
    try:
        sock.sendall(_packet(b"\x1e" + string(key)))
        while True:
            _read(sock, struct.unpack(">I", _read(sock, 4))[0])
    except (EOFError, ConnectionError):
        return True


def test_new_keys_that_never_come_hold_no_memory(stage: Stage, raw: Connect) -> None:
    client = raw()
    client.log_in()
    open_session(client)
    stopped = threading.Event()
    client.transport._handler_table[20] = lambda _m: stopped.set()
    client.send(b"\x62", u32(0), string(b"exec"), b"\0", string(b"head -c 400000000 /dev/zero"))
    stage.wait(lambda: "ses_0" in stage.live)
    before = _resident()
    client.send(_kexinit(b"curve25519-sha256"))
    assert stopped.wait(10)  # the gateway answered, and waits for the rest
    threading.Event().wait(1.0)
    assert _resident() - before < 60_000  # KiB
    stage.live["ses_0"].terminate(EndReason.KILLED, "")
    stage.wait(lambda: stage.ended, 5)


def test_whoever_ignores_a_request_for_new_keys_is_cut_off(
    stage: Stage, raw: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_keys, "REKEY_OCTETS", 100_000)
    monkeypatch.setattr(ssh_packets, "OVERDUE_OCTETS", 200_000)
    client = raw()
    client.log_in()
    open_session(client)
    asked = threading.Event()
    client.transport._handler_table[20] = lambda _m: asked.set()
    client.send(b"\x62", u32(0), string(b"exec"), b"\0", string(b"cat > /dev/null"))
    stage.wait(lambda: "ses_0" in stage.live)
    for _ in range(10):
        client.send(b"\x5e", u32(0), string(bytes(20_000)))
    assert asked.wait(10)
    assert client.transport.is_alive()  # what is under way may still come
    for _ in range(10):
        client.send(b"\x5e", u32(0), string(bytes(20_000)))
    assert client.has_ended()


def test_rejected_channels_leave_nothing(stage: Stage, raw: Connect) -> None:
    client = raw()
    client.log_in()
    refused = threading.Semaphore(0)
    client.transport._handler_table[92] = lambda _m: refused.release()
    threads = threading.active_count()
    fields = string(b"127.0.0.1") + u32(1) + string(b"127.0.0.1") + u32(1)
    for number in range(1000):
        kind = (b"direct-tcpip", b"x11", b"tun@openssh.com")[number % 3]
        client.send(b"\x5a", string(kind), u32(number), u32(WINDOW), u32(32768), fields)
        assert refused.acquire(timeout=10)
    assert stage.door is not None
    [connection] = stage.door._connections()
    assert len(connection._transport._channels) == 0  # type: ignore[attr-defined]
    assert threading.active_count() <= threads + 8
    assert len(stage.events_of("forward:refused")) <= 20


@pytest.mark.parametrize("number", [99, 100])
def test_an_answer_that_nobody_asked_for_ends_the_connection(stage: Stage, raw: Connect, number: int) -> None:
    client = raw()
    client.log_in()
    open_session(client)
    client.send(bytes((number,)), u32(0))
    assert client.has_ended()


def test_a_huge_modulus_costs_nothing(raw: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[str] = []

    def verify(_auth: DoorAuth, _user: str, algorithm: str, _blob: bytes, _signature: bytes) -> bool:
        computed.append(algorithm)
        return False

    monkeypatch.setattr(DoorAuth, "_is_signed", verify)
    huge = RSAPublicNumbers(65537, (1 << 16_384) - 1).public_key()
    builder = SSHCertificateBuilder().public_key(huge).serial(1).type(SSHCertificateType.USER).key_id(b"usr_oncall")
    builder = builder.valid_principals([b"usr_oncall"]).valid_after(0).valid_before(1 << 40)
    line = builder.sign(Ed25519PrivateKey.generate()).public_bytes()

    blob = base64.b64decode(line.split()[1])
    client = raw()
    client.begin()
    head = b"\x32" + string(b"web-1") + string(b"ssh-connection") + string(b"publickey") + b"\x01"
    algorithm = b"rsa-sha2-512-cert-v01@openssh.com"
    signature = string(string(b"rsa-sha2-512") + string(bytes(2048)))
    for _ in range(5):
        client.send(head, string(algorithm), string(blob), signature)
        assert client.answer() == FAILURE
    assert not computed  # whose certificate is not the gateway's has no signature checked


def test_files_never_land_on_the_gateway(stage: Stage) -> None:
    stage.with_target(port=1)  # nobody is there: whatever is written was written by the gateway itself
    mine, there = stage.directory / "mine", stage.directory / "there"
    mine.write_text("x")
    for tool in (["scp"], ["scp", "-O"]):
        command = [*tool, "-F", str(stage.directory / "ssh_config.me"), str(mine), f"web-1.gw:{there}"]
        assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode != 0
        assert not there.exists()


def test_both_legs_send_at_once(stage: Stage, raw: Connect) -> None:
    client = raw()
    client.log_in()
    open_session(client)
    client.send(b"\x62", u32(0), string(b"exec"), b"\0", string(b"sleep 60"))
    stage.wait(lambda: stage.recordings and stage.recordings[0].of("channel"))
    assert stage.door is not None
    [connection] = stage.door._connections()
    for leg in (connection._transport, connection._upstream.leg):
        assert leg is not None
        assert leg.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
