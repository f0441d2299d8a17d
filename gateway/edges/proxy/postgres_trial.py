"""A session of the doctor's: dialled, encrypted and logged in by the code that relays those of people."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from gateway.app.doctor_ports import Finding
from gateway.app.target_ports import DatabaseLogin
from gateway.core.errors import Refusal, Unavailable
from gateway.core.session_settings import Asked
from gateway.core.target import Level, Target
from gateway.edges.proxy.postgres_ask import AskFailed, ask
from gateway.edges.proxy.postgres_known import MasksUnsure, learn
from gateway.edges.proxy.postgres_leg import SCRATCH, Leg, LegClosed
from gateway.edges.proxy.postgres_upstream import TargetUnreachable, dial, log_in
from gateway.wire.postgres_machine import TargetRefused

_ENDED_S = 5.0
_MOST_ANSWER = 1 << 16
_ACCOUNT = "SELECT current_user"
# Needs no privilege, belongs to the role itself and goes with it: what must be cleared up is cleared up for once.
_OWNED = "SET ROLE NONE; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC"


class PostgresTrial:
    """Implements `TrialSession`: a loop of its own, which runs only while somebody asks."""

    def __init__(self, target: Target, level: Level, login: DatabaseLogin) -> None:
        """Raises Unavailable with what the target says, or why nothing came about."""
        self._runner = asyncio.Runner()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="trial")
        self._leg: Leg | None = None
        self.masks_problem = ""
        try:
            self._runner.run(self._open(target, level, login))
        except TargetUnreachable as why:
            self.close()
            raise _unavailable(f"A session on {target.name} does not come about: {why}.") from why
        except TargetRefused as no:
            self.close()
            said = no.fields.get("M", "it gave no reason").replace(login.password, "…")[:500]
            raise _unavailable(f"{target.name} refuses the login: {said}") from no
        except Unavailable:
            self.close()
            raise

    def ended(self) -> bool:
        """True once the target has closed the connection."""
        return self._runner.run(self._ended())

    def close(self) -> None:
        """Idempotent."""
        if self._leg is not None:
            self._runner.run(self._close(self._leg))
            self._leg = None
        self._runner.close()
        self._pool.shutdown(wait=False)

    async def _open(self, target: Target, level: Level, login: DatabaseLogin) -> None:
        leg = self._leg = await dial(target, memoryview(bytearray(SCRATCH)))
        await log_in(leg, target, login, {}, self._pool)
        account = await _ask(leg, _ACCOUNT)
        if level.account.encode() not in account:
            raise _unavailable(f"A role made for level {level.name} does not act as {level.account}.")
        if level.dry_run is not None:
            await _ask(leg, Asked().question().decode())  # sessions fail their transactions where this does
        await _ask(leg, _OWNED)
        if level.masks:
            try:
                await learn(leg, level.masks)
            except MasksUnsure as why:
                self.masks_problem = str(why)

    async def _ended(self) -> bool:
        leg = self._leg
        if leg is None:
            return True
        try:
            async with asyncio.timeout(_ENDED_S):
                while True:
                    await leg.read()
        except LegClosed:
            return True
        except TimeoutError:
            return False

    async def _close(self, leg: Leg) -> None:
        leg.abort()
        await leg.wait_closed()


def reach(target: Target) -> Finding:
    """Whether the catalogue's address and TLS settings lead to the target."""
    try:
        asyncio.run(_reach(target))
    except TargetUnreachable as why:
        remedy = () if target.tls == "disable" else (_tls_remedy(target),)
        return Finding("reach", f"{target.host}:{target.port}", False, f"{target.name}: {why}.", remedy)
    return Finding("reach", f"{target.host}:{target.port}", ok=True)


def _tls_remedy(target: Target) -> str:
    return (
        f"psql 'host={target.host} port={target.port} dbname={target.database} sslmode={target.tls}"
        f" sslrootcert={target.ca_file or 'system'}' must get as far as the password"
    )


async def _reach(target: Target) -> None:
    leg = await dial(target, memoryview(bytearray(SCRATCH)))
    leg.abort()
    await leg.wait_closed()


async def _ask(leg: Leg, sql: str) -> bytes:
    """The answer; Unavailable with the server's words for an error."""
    try:
        return await ask(leg, sql, _MOST_ANSWER)
    except AskFailed as why:
        if why.said:
            raise _unavailable(f"A statement fails there: {why.said}") from why
        raise _unavailable("A session came about, but a first statement got no answer.") from why


def _unavailable(sentence: str) -> Unavailable:
    return Unavailable(Refusal("trial-failed", sentence))
