"""What the level of a session lets pass on its session channels, with the sentences that say why not."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from gateway.core.file_rules import DIRECTIONS, allows_all
from gateway.core.ssh_rules import LONGEST_ENV, may_run, may_set, may_shell, may_transfer
from gateway.core.target import Level
from gateway.wire.scp import may_move_files, transfer_command

_EXPANDED = re.compile(rb"[{*?\[$]")  # one word that a shell makes several of, options among them


@dataclass(frozen=True, slots=True)
class Gate:
    """`permit(request)` opens the person's agent or X11 display for the session, and is False when it may not be."""

    level: Level
    target: str
    permit: Callable[[str], bool]

    def why_not(self, name: str, command: bytes) -> str:
        """Why a shell, command or subsystem may not start; "" when it may."""
        if name == "shell" and not may_shell(self.level):
            return self._no("opens no shell")
        if name == "exec" and not may_run(self.level.ssh, command):
            return self._no("does not allow this command", f"It allows: {', '.join(self.level.ssh.commands)}.")
        if name == "exec" and self._is_disguised(command):
            return self._no("has rules about files, which this command cannot be held to", "Use sftp, or scp.")
        if name == "subsystem" and not may_transfer(self.level.ssh):
            return self._no("carries no files")
        return ""

    def runs(self, name: str, command: bytes) -> tuple[str, bytes]:
        """What a shell, command or subsystem is on the target, where the level may force another command."""
        forced = self.level.force_command
        if forced is None or (name == "subsystem" and transfer_command(forced.encode()) is None):
            return name, command
        return "exec", forced.encode()

    def may_terminal(self) -> bool:
        """A terminal gives pagers and editors a shell: there is none where the shell is closed."""
        return self.level.ssh.shell

    def may_set(self, name: str, value: bytes) -> bool:
        """True when a variable may reach the target."""
        return len(value) <= LONGEST_ENV and may_set(self.level.ssh, name)

    def _is_disguised(self, command: bytes) -> bool:
        """True for a listed command that moves files and may mean something else to the target's shell than to us."""
        rules = self.level.ssh
        is_free = not rules.commands or "*" in rules.commands  # who may run anything can also `cat`
        if is_free or all(allows_all(rules.files, direction) for direction in DIRECTIONS):
            return False
        return may_move_files(command) and (transfer_command(command) is None or bool(_EXPANDED.search(command)))

    def _no(self, what: str, more: str = "") -> str:
        first = f"Level {self.level.name} of {self.target} {what}."
        return " ".join(filter(None, (first, more, "gw targets lists the levels that you can ask for.")))
