"""Drivers at a level with masks, and at one with a dry-run: what they prepare, fetch in parts, ask for in binary formats."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import pytest

from gateway.adapters.postgres_parser import PostgresParser
from gateway.app.commit_ports import Asking, Told
from gateway.core.dry_run import Confirm, DryRun
from gateway.core.masking import ColumnName, Mask
from gateway.core.session import Session
from gateway.core.target import Level, Target
from gateway.edges.proxy.postgres_keeper import Doorkeeper
from tests.conformance.postgres_drivers import DRIVERS, outcomes
from tests.e2e.postgres_stage import Stage, database, door_tls, leased, running_door
from tests.servers import PostgresServer

MASKED = ("read", "named", "binary", "portal", "refused")
DRY_RUN = ("read", "yes", "no", "error", "pipeline", "copy")
AT: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "masked": {
        "psycopg 3": (*MASKED, "pipeline"),
        "asyncpg": MASKED,
        "SQLAlchemy with psycopg": ("read", "portal", "refused"),
        "SQLAlchemy with asyncpg": ("read", "portal", "refused"),
        "node-postgres": MASKED,
        "pgjdbc": MASKED,
        "pg8000": ("read", "named", "refused"),
    },
    "dry-run": {
        "psycopg 3": DRY_RUN,
        "asyncpg": DRY_RUN,
        "SQLAlchemy with psycopg": ("read", "yes", "no", "error", "pipeline"),
        "SQLAlchemy with asyncpg": ("read", "yes", "no", "error", "pipeline"),
        "node-postgres": ("read", "yes", "no", "error", "copy"),
        "pgjdbc": DRY_RUN,
        "pg8000": ("read", "yes", "no", "error", "copy"),
    },
}
LEVELS = {
    "masked": {"masks": {ColumnName("public", "people", "email"): Mask.LAST4}},
    "dry-run": {"dry_run": DryRun(Confirm.APPROVER)},
}


@dataclass
class AnsweringStage(Stage):
    """Where a COMMIT is held, somebody answers before the next one: yes to what was written into `yes_notes` alone."""

    asked: set[str] = field(default_factory=set)

    def keeper(self) -> Doorkeeper:
        return replace(super().keeper(), reader=PostgresParser(), ask_commit=self._ask, mask_key=bytes(32))

    def _ask(self, session: Session, asking: Asking) -> Told:
        del session
        with self.changed:
            if asking.mark not in self.asked:
                self.asked.add(asking.mark)
                return Told(may_pass=False)
        is_yes = any("yes_notes" in write.sql for write in asking.writes) and bool(asking.under)
        return Told(may_pass=is_yes, is_refused=not is_yes, by="lead", reason="no")


@pytest.fixture(scope="module")
def target(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with database(postgres_server, tmp_path_factory.mktemp("target")) as made:
        postgres_server.execute(
            "CREATE TABLE yes_notes (n int, note text); CREATE TABLE no_notes (n int, note text);"
            "CREATE TABLE people AS SELECT g AS id, format('p%s@secret.example', g) AS email, 'Leeds'::text AS city"
            f' FROM generate_series(1, 2000) g; GRANT ALL ON yes_notes, no_notes, people TO "{made.levels["read"].account}"',
            made.database,
        )
        yield made


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def stage(level: str, target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    context, ca = door_tls(tmp_path_factory.mktemp("tls"))
    plain: Level = target.levels["read"]
    made = replace(target, levels={"read": replace(plain, **LEVELS[level])})  # type: ignore[arg-type]
    name = f"gw_{level.replace('-', '_')}_drivers"
    with leased(made, name) as login, running_door(AnsweringStage(made, login, ca), context) as running:
        yield running


@pytest.mark.timeout(300)
@pytest.mark.parametrize("driver", [pytest.param(each, marks=pytest.mark.driver(each, "levels")) for each in DRIVERS])
def test_driver_at_a_level(stage: Stage, level: str, driver: str) -> None:
    said = outcomes(stage.port, driver, str(stage.ca_file), stage.target.name, level)
    assert said == dict.fromkeys(AT[level][driver], "ok")
