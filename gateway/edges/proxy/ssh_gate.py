"""What the level of a session lets pass on its session channels, with the sentences that say why not."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.core.ssh_rules import LONGEST_ENV, may_run, may_set, may_shell, may_transfer
from gateway.core.target import Level


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
        if name == "subsystem" and not may_transfer(self.level.ssh):
            return self._no("carries no files")
        return ""

    def may_terminal(self) -> bool:
        """A terminal gives pagers and editors a shell: there is none where the shell is closed."""
        return self.level.ssh.shell

    def may_set(self, name: str, value: bytes) -> bool:
        """True when a variable may reach the target."""
        return len(value) <= LONGEST_ENV and may_set(self.level.ssh, name)

    def _no(self, what: str, more: str = "") -> str:
        first = f"Level {self.level.name} of {self.target} {what}."
        return " ".join(filter(None, (first, more, "gw targets lists the levels that you can ask for.")))
