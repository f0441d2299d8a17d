"""The whole stage, in its order: database, people, server, gateway; and back again."""

import fcntl
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.demo import accounts, config, idp, owners, pager, pipeline, ports, postgres, sshd
from gateway.demo.processes import Processes, StageError
from gateway.demo.programs import MissingProgramError, find, need, say

GATEWAY = "gateway"
_RESTARTS = 5


@dataclass(frozen=True, slots=True)
class Ready:
    """What is running. `missing` says what to install for the rest, "" when nothing is."""

    api: str
    issuer: str
    ci: str
    ssh: dict[str, object]
    postgres: dict[str, object]
    audit_key: str
    accounts: dict[str, dict[str, str]]
    missing: str

    def as_json(self) -> dict[str, object]:
        """The object that scripts rely on."""
        return {
            "api": self.api,
            "ssh": self.ssh,
            "postgres": self.postgres,
            "accounts": {name: {"env": env} for name, env in self.accounts.items()},
            "audit_key": self.audit_key,
            "issuer": self.issuer,
            "ci": self.ci,
        }


class Stage:
    """One stage in one state directory."""

    def __init__(self, state: Path, port_base: int | None) -> None:
        self.state = state.absolute()
        self._port_base = port_base
        self._processes = Processes()
        self._restarts = 0
        self._pager_log = self.state / "log" / "pager.log"
        self._pager_read = 0

    def start(self) -> Ready:
        """Bring everything up; StageError names the part that did not come up. Call `stop` in any case."""
        chosen = ports.choose(self.state, self._port_base)
        missing = _missing_programs()
        database = postgres.start(self._processes, self.state, chosen["orders_db"])
        issuer = idp.start(self._processes, self.state, chosen["idp"])
        pager.start(self._processes, self.state, chosen["pager"])
        ci = pipeline.start(self._processes, self.state, chosen["ci"])
        servers = self._start_servers(chosen) if find("sshd") else {}
        config.write(self.state, config.Parts(database, servers, issuer, chosen, ci))
        say("Starting the gateway …")
        facts = self._start_gateway()
        api = str(facts["api"])
        say("Signing in oncall, developer, lead and auditor …")
        ready = Ready(
            api=api,
            issuer=issuer,
            ci=ci,
            ssh=_door(facts, "ssh"),
            postgres=_door(facts, "postgres"),
            audit_key=str(facts["audit_key"]),
            accounts=accounts.sign_in_all(api, issuer, self.state),
            missing=missing,
        )
        postgres.write_secret(self.state / "stage.json", json.dumps(ready.as_json() | self._pids()))
        return ready

    def look_after(self) -> str:
        """One look at everything; the sentence that ends the stage, "" when all is well."""
        self._announce_pages()
        died = self._processes.first_dead()
        if died is None:
            return ""
        if died[0] != GATEWAY or self._restarts >= _RESTARTS:
            return died[1]
        # As an init system would: a gateway that was killed comes back and puts its house in order.
        self._restarts += 1
        say(f"{died[1]}. Starting it again …")
        self._processes.forget(GATEWAY)
        self._start_gateway()
        stage = self.state / "stage.json"
        postgres.write_secret(stage, json.dumps(json.loads(stage.read_text()) | self._pids()))
        return ""

    def stop(self) -> None:
        """Stop all parts in reverse order; nothing is left behind."""
        (self.state / "stage.json").unlink(missing_ok=True)
        self._processes.stop_all()

    def _start_servers(self, chosen: dict[str, int]) -> dict[str, sshd.Server]:
        ca_file = config.target_ca_file(self.state)
        users = (owners.shell_account(), owners.root_account())
        return {
            "web-1": sshd.start(self._processes, self.state, chosen["web_1"], ca_file, users),
            "web-2": sshd.start(self._processes, self.state, chosen["web_2"], ca_file, users, "web-2"),
        }

    def _start_gateway(self) -> dict[str, object]:
        answer = self.state / "log" / "gateway.ready"
        answer.write_text("")
        argv = [sys.executable, "-m", "gateway", "serve", "--config", str(self.state / "gateway.toml"), "--json"]
        log = self.state / "log" / "gateway.log"
        self._processes.start(GATEWAY, argv, log=log, env=config.environment(), stdout=answer)
        self._processes.await_ready(GATEWAY, lambda: answer.read_text().endswith("\n"), 60)
        facts = json.loads(answer.read_text())
        if not isinstance(facts, dict):
            raise StageError(f"the gateway said something else than its addresses; its log is {log}")
        return facts

    def _pids(self) -> dict[str, object]:
        return {"pids": self._processes.pids()}

    def _announce_pages(self) -> None:
        text = self._pager_log.read_text()
        for line in text[self._pager_read :].splitlines():
            say(f"PAGER: {line}")
        self._pager_read = len(text)


def _door(facts: dict[str, object], name: str) -> dict[str, object]:
    door = facts[name]
    assert isinstance(door, dict)
    return {"host": door["host"], "port": door["port"]}


def _missing_programs() -> str:
    """What to install, after trying to; the database's journeys work without sshd."""
    try:
        need(("psql", "ssh", "sshd"))
    except MissingProgramError as missing:
        say(str(missing))
        return str(missing)
    return ""


@contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the state directory; StageError when another demo does."""
    for directory in (state, state / "log"):
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageError(f"a demo is running in {state} already; use another --dir") from None
        yield


class Stopped(BaseException):
    """SIGTERM or SIGINT: leave through every `finally`."""


@contextmanager
def stop_signals() -> Iterator[None]:
    """Turn both signals into `Stopped`, once: a second one must not cut the stopping short."""

    def leave(number: int, _frame: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    before = {each: signal.signal(each, leave) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, action in before.items():
            signal.signal(each, action)


def run(stage: Stage) -> str:
    """Watch until something is wrong; the sentence that says what."""
    while not (why := stage.look_after()):
        time.sleep(0.2)
    return why
