from gateway.core.target import FileRule, Level, SshRules
from gateway.edges.proxy.ssh_gate import Gate


def gate(force_command: str | None = None, **rules: object) -> Gate:
    level = Level("logs", "deploy", 0, force_command=force_command, ssh=SshRules(**rules))  # type: ignore[arg-type]
    return Gate(level, "web-1", lambda _request: False)


def test_there_is_no_terminal_where_there_is_no_shell() -> None:
    assert gate().may_terminal()
    assert not gate(shell=False).may_terminal()
    assert not gate("rescue", shell=False).may_terminal()


def test_what_runs_is_what_is_forced() -> None:
    assert gate().runs("exec", b"id") == ("exec", b"id")
    assert gate("rescue").runs("shell", b"") == ("exec", b"rescue")
    assert gate("rescue").runs("subsystem", b"sftp") == ("subsystem", b"sftp")
    assert gate("internal-sftp -u 77").runs("subsystem", b"sftp") == ("exec", b"internal-sftp -u 77")


def test_a_listed_program_for_files_must_be_one_that_can_be_followed() -> None:
    some = (FileRule(True, "/in/**"),)
    for rules, is_refused in (({"files": some, "commands": ("scp *",)}, True), ({"files": some}, False), ({"commands": ("scp *",)}, False),
                              ({"files": some, "commands": ("scp *", "*")}, False), ({"files": (FileRule(True, "/**"),), "commands": ("scp *",)}, False)):  # fmt: skip
        assert bool(gate(**rules).why_not("exec", b"scp -{f,q} /x")) is is_refused  # type: ignore[arg-type]
    assert gate(files=some, commands=("scp *",)).why_not("exec", b"scp -f /x") == ""  # the rules are asked about that
