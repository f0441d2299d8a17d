"""One command on a target, without a person: the same client, host key pins and certificates as a session has.

What runs deploys is given this as its way to targets; it asks for one session channel, one command, and nothing else.
"""

import logging
import threading
from collections.abc import Callable
from datetime import datetime

from paramiko import SSHException

from gateway.app.deploy_ports import Ended, Job
from gateway.core.errors import Refusal, Unavailable
from gateway.core.target import SshRules
from gateway.edges.proxy.ssh_channels import ChannelEnd
from gateway.edges.proxy.ssh_client import TargetTransport
from gateway.edges.proxy.ssh_fields import Fields, ProtocolViolationError, string
from gateway.edges.proxy.ssh_messages import CLOSE, DATA, EXTENDED_DATA, FAILURE, LOST, REQUEST, Item
from gateway.edges.proxy.ssh_target import Authority, Leg, dial_target

LOG = logging.getLogger(__name__)
OPEN_WITHIN_S = 10.0
GRACE_S = 5.0  # from TERM to KILL, and from KILL to hanging up
_NOTHING_ELSE = SshRules(shell=False)  # no terminal, no forward, no agent
_GONE = (SSHException, EOFError, OSError, ProtocolViolationError)


class SshCommands:
    """Implements `app.deploy_ports.Runner` on the proxy's own SSH client."""

    def __init__(self, authority: Authority, now: Callable[[], datetime]) -> None:
        self._authority = authority
        self._now = now

    def run(
        self, job: Job, output: Callable[[str, bytes], None], on_start: Callable[[Callable[[], None]], None]
    ) -> Ended:
        """See `Runner`. The connection is closed when it returns, however it does."""
        leg = Leg(job.session, job.target, job.account, None, _NOTHING_ELSE)
        transport = dial_target(leg, self._authority, self._now(), lambda: None)
        try:
            return _Command(transport, job, output).run(on_start)
        finally:
            transport.close()


class _Command:
    def __init__(self, transport: TargetTransport, job: Job, output: Callable[[str, bytes], None]) -> None:
        self._transport = transport
        self._job = job
        self._output = output
        self._channel: ChannelEnd | None = None
        self._stopping = threading.Event()
        self._over = threading.Event()
        self._status: int | None = None
        self._detail = ""

    def run(self, on_start: Callable[[Callable[[], None]], None]) -> Ended:
        """One channel, one command, to its end."""
        try:
            channel = self._transport.open_session_channel(OPEN_WITHIN_S)
        except _GONE as why:
            message = f"{self._job.target.name} opens no session."
            raise Unavailable(Refusal("target-unreachable", message, (self._job.target.name,))) from why
        self._channel = channel
        on_start(self.stop)
        try:
            channel.request("exec", string(self._job.command.encode()), wants_reply=True)
            feeder = threading.Thread(target=self._feed, args=(channel,), name="deploy-input", daemon=True)
            feeder.start()
            self._pump(channel)
        except _GONE as why:
            self._detail = self._detail or f"the connection broke ({type(why).__name__})"
        finally:
            self._over.set()
            self._transport.close()
        return Ended(self._status, self._detail if self._status is None else "")

    def stop(self) -> None:
        """TERM to the command's process group, then KILL, then hang up (RFC 4254 §6.9; OpenSSH 7.9 or newer)."""
        if not self._stopping.is_set():
            self._stopping.set()
            threading.Thread(target=self._end, name="deploy-stop", daemon=True).start()

    def _end(self) -> None:
        for signal in ("TERM", "KILL"):
            try:
                if self._channel is not None:
                    self._channel.request("signal", string(signal.encode()), wants_reply=False)
            except _GONE:
                break
            if self._over.wait(GRACE_S):
                return
        self._transport.close()

    def _feed(self, channel: ChannelEnd) -> None:
        try:
            channel.send(self._job.stdin)
            channel.send_eof()
        except _GONE:
            LOG.debug("the target went away before it had all of its input")

    def _pump(self, channel: ChannelEnd) -> None:
        while True:
            for item in channel.take():
                if item.kind in (DATA, EXTENDED_DATA):
                    self._output("out" if item.kind == DATA else "err", bytes(item.octets))
                    channel.consumed(len(item.octets))
                elif item.kind == REQUEST:
                    self._told(channel, item)
                elif item.kind == FAILURE:
                    self._detail = "the target does not run commands"
                elif item.kind in (CLOSE, LOST):
                    if self._status is None and not self._detail:
                        self._detail = "the connection ended before the command did"
                    channel.close()
                    return
            if self._detail == "the target does not run commands":
                channel.close()
                return

    def _told(self, channel: ChannelEnd, item: Item) -> None:
        fields = Fields(bytes(item.octets))
        if item.name == "exit-status":
            self._status = fields.u32()
        elif item.name == "exit-signal":
            self._detail = f"ended by signal {fields.text()[:20]}"
        elif item.wants_reply:
            channel.reply(ok=False)


__all__ = ["SshCommands"]
