"""Files through the door with real clients: what is recorded of each, and the rules of a level."""

import hashlib
import json
import os
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import paramiko
import pytest

from gateway.core.session import EndReason
from gateway.core.target import FileRule, SshRules
from tests.e2e.ssh_stage import Stage
from tests.e2e.ssh_stage import authorities as authorities
from tests.e2e.ssh_stage import sshd as sshd
from tests.e2e.ssh_stage import stage as stage
from tests.e2e.test_ssh_door import Terminal

pytestmark = pytest.mark.servers
CONTENT = os.urandom(1 << 20) * 3 + b"the end"
SHA = hashlib.sha256(CONTENT).hexdigest()
EMPTY = hashlib.sha256(b"").hexdigest()
HOSTILE = b"new\nline \x1b[2J\xff\xe2\x80\xae name"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.write_bytes(CONTENT)
    return path


def rules(stage: Stage, *files: FileRule) -> None:
    stage.level = replace(stage.level, ssh=SshRules(files=files))


def facts(stage: Stage, kind: str = "file", session: int = 0) -> list[dict[str, Any]]:
    stage.wait(lambda: len(stage.ended) > session)
    return [json.loads(r) for r in stage.recordings[session].of(kind)]


def transfers(stage: Stage, session: int = 0) -> list[tuple[str, str, int, str, str]]:
    return [
        (f["path"], f["direction"], f["bytes"], f["sha256"], f["outcome"])
        for f in facts(stage, session=session)
        if f["op"] == "transfer"
    ]


def run(stage: Stage, program: str, *args: str | bytes) -> "subprocess.CompletedProcess[bytes]":
    command = [program, "-F", str(stage.directory / "ssh_config.me"), *args]
    return subprocess.run(command, capture_output=True, check=False, timeout=60)


def sftp(stage: Stage, *lines: str) -> "subprocess.CompletedProcess[bytes]":
    batch = stage.directory / "batch"
    batch.write_text("".join(f"-{line}\n" for line in lines))
    return run(stage, "sftp", "-b", str(batch), "web-1.gw")


@pytest.mark.parametrize("legacy", [[], ["-O"]], ids=["sftp", "legacy"])
def test_scp_leaves_a_digest_of_each_file(stage: Stage, mine: Path, tmp_path: Path, legacy: list[str]) -> None:
    there = str(tmp_path / "there")
    assert run(stage, "scp", *legacy, str(mine), f"web-1.gw:{there}").returncode == 0
    assert run(stage, "scp", *legacy, f"web-1.gw:{there}", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_bytes() == CONTENT
    assert transfers(stage) == [(there, "upload", len(CONTENT), SHA, "ok")]
    assert transfers(stage, 1) == [(there, "download", len(CONTENT), SHA, "ok")]
    assert facts(stage, "files-summary", 1) == [
        {
            "uploads": 0,
            "upload_bytes": 0,
            "downloads": 1,
            "download_bytes": len(CONTENT),
            "changes": 0,
            "failed": 0,
            "refused": 0,
        }
    ]
    assert all(s["kept"] == 0 for s in facts(stage, "stream") if s["stream"] != "err")


@pytest.mark.parametrize("legacy", [[], ["-O"]], ids=["sftp", "legacy"])
def test_a_tree_with_hostile_names_is_recorded_harmlessly(stage: Stage, tmp_path: Path, legacy: list[str]) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "empty").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(tree / "sub") + b"/" + HOSTILE)).write_bytes(b"x")
    assert run(stage, "scp", *legacy, "-q", "-r", f"web-1.gw:{tree}", str(tmp_path / "copy")).returncode == 0
    moved = {(path, digest) for path, *_, digest, _ in transfers(stage)}
    # scp's old protocol cannot carry a newline: scp sends it escaped (\^J), or not at all.
    name = os.fsdecode(HOSTILE)
    assert (f"{tree}/empty", EMPTY) in moved
    assert any(path.startswith(f"{tree}/sub/new") for path, _ in moved)
    if not legacy:
        assert (f"{tree}/sub/{name}", hashlib.sha256(b"x").hexdigest()) in moved
    for record in stage.recordings[0].of("file"):
        assert record.isascii()
        assert b"\n" not in record
        assert b"\x1b" not in record


def test_what_sftp_does_to_files_is_recorded(stage: Stage, mine: Path, tmp_path: Path) -> None:
    t = str(tmp_path)
    sftp(stage, f"mkdir {t}/d", f"put {mine} {t}/d/a", f"rename {t}/d/a {t}/d/b", f"chmod 600 {t}/d/b", f"ln -s {t}/d/b {t}/d/l",
         f"ln {t}/d/b {t}/d/h", f"ls {t}/d", f"rm {t}/d/b", f"rm {t}/d/l", f"rm {t}/d/h", f"rmdir {t}/d", f"get {t}/nowhere")  # fmt: skip
    did = {(f["op"], f["path"].removeprefix(t), f.get("to", "").removeprefix(t), f["outcome"]) for f in facts(stage)}
    assert did >= {
        ("mkdir", "/d", "", "ok"),
        ("transfer", "/d/a", "", "ok"),
        ("rename", "/d/a", "/d/b", "ok"),
        ("setstat", "/d/b", "", "ok"),
        ("symlink", "/d/b", "/d/l", "ok"),
        ("link", "/d/b", "/d/h", "ok"),
        ("list", "/d", "", "ok"),
        ("remove", "/d/b", "", "ok"),
        ("rmdir", "/d", "", "ok"),
    }
    assert not (tmp_path / "d").exists()


def test_paramiko_asks_for_a_whole_file_at_once(stage: Stage, mine: Path, tmp_path: Path) -> None:
    assert stage.door is not None
    key = paramiko.Ed25519Key.from_private_key_file(str(tmp_path / "me"))
    key.load_certificate(str(tmp_path / "me-cert.pub"))
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect("127.0.0.1", stage.door.port, "web-1", pkey=key, allow_agent=False, look_for_keys=False)
        with client.open_sftp() as files:
            files.put(str(mine), str(tmp_path / "there"))
            files.get(str(tmp_path / "there"), str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == CONTENT
    assert [t[1:4] for t in transfers(stage)] == [("upload", len(CONTENT), SHA), ("download", len(CONTENT), SHA)]


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_rsync_is_recorded_file_by_file(stage: Stage, mine: Path, tmp_path: Path, direction: str) -> None:
    shell = f"ssh -F {stage.directory / 'ssh_config.me'}"
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "b").write_bytes(CONTENT)
    (tree / "a").write_bytes(b"short")
    names = [f"{tree}/", f"web-1.gw:{tmp_path}/copy/"]
    if direction == "download":
        names = [f"web-1.gw:{tree}/", f"{tmp_path}/copy/"]
    subprocess.run(["rsync", "-a", "-e", shell, *names], check=True, timeout=60)
    assert (tmp_path / "copy" / "sub" / "b").read_bytes() == CONTENT
    *files, whole = facts(stage)
    assert [(f["op"], f["path"], f["bytes"], f["size"], f["sha256"], f["outcome"], f["direction"]) for f in files] == [
        ("transfer", "a", 5, 5, hashlib.sha256(b"short").hexdigest(), "ok", direction),
        ("transfer", "sub/b", len(CONTENT), len(CONTENT), SHA, "ok", direction),
    ]
    assert (whole["op"], whole["direction"], whole["outcome"]) == ("rsync", direction, "ok")
    assert whole["bytes"] > len(CONTENT)
    assert whole["path"].endswith(f"{tmp_path}/copy/" if direction == "upload" else f"{tree}/")
    (summary,) = facts(stage, "files-summary")
    assert (summary[f"{direction}s"], summary[f"{direction}_bytes"], summary["failed"]) == (2, len(CONTENT) + 5, 0)
    assert {s["blake3"] is not None for s in facts(stage, "stream")} == {True}


def test_an_rsync_that_cannot_be_followed_goes_on_and_says_so(stage: Stage, mine: Path, tmp_path: Path) -> None:
    shell = f"ssh -F {stage.directory / 'ssh_config.me'}"
    subprocess.run(["rsync", "-aX", "-e", shell, str(mine), f"web-1.gw:{tmp_path}/copy"], check=True, timeout=60)
    assert (tmp_path / "copy").read_bytes() == CONTENT
    (whole,) = facts(stage)
    assert (whole["op"], whole["outcome"], whole["why"]) == ("rsync", "not-parsed", "the option -X")
    (summary,) = facts(stage, "files-summary")
    assert (summary["uploads"], summary["upload_bytes"], summary["failed"]) == (0, whole["bytes"], 0)
    assert "sha256" not in whole


# ---------------------------------------------------------------- rules


def test_rules_by_path_and_direction(stage: Stage, mine: Path, tmp_path: Path) -> None:
    t = str(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").write_bytes(CONTENT)
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("secret")
    rules(stage, FileRule(True, f"{t}/logs/**", "download"), FileRule(True, f"{t}/in/*", "upload"))
    done = sftp(stage, f"get {t}/logs/a.log {t}/got", f"put {mine} {t}/in/new", f"get {t}/secret {t}/stolen", f"put {mine} {t}/logs/fake",
                f"get {t}/logs/../secret {t}/stolen", f"rm {t}/logs/a.log", f"rename {t}/secret {t}/logs/x", f"ln -s {t}/secret {t}/in/link",
                f"ln {t}/secret {t}/in/link", f"ls {t}", f"rename {t}/in/new {t}/in/renamed", f"mkdir {t}/elsewhere", f"chmod 777 {t}/secret")  # fmt: skip
    assert (tmp_path / "got").read_bytes() == CONTENT
    assert (tmp_path / "in" / "renamed").read_bytes() == CONTENT
    assert not (tmp_path / "stolen").exists()
    assert sorted(p.name for p in tmp_path.rglob("*") if p.parent.name in ("logs", "in")) == ["a.log", "renamed"]
    assert not (tmp_path / "elsewhere").exists()
    assert b"does not let this file be downloaded" in done.stderr or b"ermission denied" in done.stderr
    refused = [(f["op"], f["path"].removeprefix(t)) for f in facts(stage, "file-refused")]
    # get looks with stat first, then opens: each refusal is one record.
    assert set(refused) == {
        ("open", "/secret"),
        ("open", "/logs/../secret"),
        ("open", "/logs/fake"),
        ("remove", "/logs/a.log"),
        ("rename", "/secret"),
        ("symlink", "/secret"),
        ("link", "/secret"),
        ("mkdir", "/elsewhere"),
        ("setstat", "/secret"),
    }
    assert facts(stage, "files-summary")[0]["refused"] == len(refused)
    assert stage.ended[0][1] is EndReason.CLIENT_CLOSED  # a refused file is no end of the session


def test_a_deny_rule_with_scp_in_both_protocols(stage: Stage, mine: Path, tmp_path: Path) -> None:
    rules(stage, FileRule(False, f"{tmp_path}/secret*"), FileRule(True, "/**"))
    (tmp_path / "secret-1").write_text("secret")
    assert run(stage, "scp", str(mine), f"web-1.gw:{tmp_path}/fine").returncode == 0
    denied = run(stage, "scp", f"web-1.gw:{tmp_path}/secret-1", str(tmp_path / "stolen"))
    assert denied.returncode != 0
    assert not (tmp_path / "stolen").exists()
    legacy = run(stage, "scp", "-O", f"web-1.gw:{tmp_path}/fine", str(tmp_path / "back"))
    assert legacy.returncode != 0
    assert b"Use scp without -O, or sftp." in legacy.stderr
    assert not (tmp_path / "back").exists()
    assert facts(stage, "file-refused", 2)[0]["op"] == "scp"


def test_rsync_needs_a_level_without_rules(stage: Stage, mine: Path, tmp_path: Path) -> None:
    rules(stage, FileRule(True, f"{tmp_path}/in/**"))
    shell = f"ssh -F {stage.directory / 'ssh_config.me'}"
    done = subprocess.run(
        ["rsync", "-e", shell, str(mine), f"web-1.gw:{tmp_path}/copy"], capture_output=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert b"rsync cannot be held to them. Use sftp, or scp." in done.stderr
    assert not (tmp_path / "copy").exists()


def test_rules_that_allow_everything_allow_every_program(stage: Stage, mine: Path, tmp_path: Path) -> None:
    rules(stage, FileRule(True, "/**"))
    assert run(stage, "scp", "-O", str(mine), f"web-1.gw:{tmp_path}/there").returncode == 0
    assert (tmp_path / "there").read_bytes() == CONTENT


def test_an_sftp_server_as_a_command_is_held_to_the_rules(stage: Stage, tmp_path: Path) -> None:
    server = next(p for p in ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server") if Path(p).exists())
    rules(stage, FileRule(False, f"{tmp_path}/secret"), FileRule(True, "/**"))
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "batch").write_text(f"-get {tmp_path}/secret {tmp_path}/stolen\n")
    run(stage, "sftp", "-s", server, "-b", str(tmp_path / "batch"), "web-1.gw")
    assert not (tmp_path / "stolen").exists()
    assert len(facts(stage, "file-refused")) == 1


# ---------------------------------------------------------------- bad input


def test_what_is_not_sftp_ends_the_subsystem_and_not_the_connection(stage: Stage, tmp_path: Path) -> None:
    stage.config("me", f"ControlPath {tmp_path / 'mux'}", "ControlMaster auto", "ControlPersist 60")
    done = stage.ssh("-s", "web-1.gw", "sftp", input=b"GET / HTTP/1.1\r\n\r\n")
    assert done.returncode == 254
    assert b"cannot follow this file transfer" in done.stderr
    assert stage.ssh("web-1.gw", "echo still here").stdout == b"still here\n"
    subprocess.run(stage.ssh_args("-O", "exit", "web-1.gw"), check=True, capture_output=True, timeout=30)
    assert any("sftp" in f["what"] for f in facts(stage, "refused"))


def test_a_target_that_speaks_no_sftp_ends_the_subsystem(stage: Stage, tmp_path: Path) -> None:
    server = tmp_path / "sftp-server"
    server.write_text("#!/bin/sh\necho Welcome to this machine\ncat >/dev/null\n")
    server.chmod(0o755)
    done = stage.ssh("web-1.gw", str(server), input=b"\0\0\0\5\1\0\0\0\3")
    assert done.returncode == 254
    assert b"cannot follow this file transfer" in done.stderr


def test_a_transfer_that_is_cut_is_recorded_as_far_as_it_came(stage: Stage, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 64
    (tmp_path / "big").write_bytes(content)
    copy = tmp_path / "copy"
    args = [
        "scp",
        "-q",
        "-l",
        "80000",
        "-F",
        str(stage.directory / "ssh_config.me"),
        f"web-1.gw:{tmp_path}/big",
        str(copy),
    ]
    process = subprocess.Popen(args, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not (copy.exists() and copy.stat().st_size) and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    stage.live["ses_0"].terminate(EndReason.KILLED, "")
    process.wait(20)
    (cut,) = [f for f in facts(stage) if f["op"] == "transfer"]
    assert cut["outcome"] == "interrupted"
    assert 0 < cut["bytes"] < len(content)
    assert cut["sha256"] == hashlib.sha256(content[: cut["bytes"]]).hexdigest()


# ---------------------------------------------------------------- what is typed


def test_input_is_kept_when_it_was_echoed_and_never_a_password(stage: Stage) -> None:
    person = Terminal(stage, "bash --norc --noprofile -i")
    person.expect("# |\\$ ")
    person.type("echo hel''lo\r")
    person.expect("hello")
    person.expect("# |\\$ ")
    person.type("read -s -p 'Pass''word: ' x; echo done\r")
    person.expect("Password: ")
    person.type("hunter2\r")
    person.expect("done")
    person.type("exit\r")
    person.close()
    typed = [f["text"] for f in facts(stage, "input")]
    assert "echo hel''lo" in typed
    assert not any(b"hunter2" in data for _, data in stage.recordings[0].records)
