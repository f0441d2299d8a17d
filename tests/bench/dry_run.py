"""What a dry-run costs each INSERT of a transaction: `python -m tests.bench.dry_run`. One door in this process."""

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.adapters.postgres_parser import PostgresParser
from gateway.core.dry_run import Confirm, DryRun
from gateway.core.statement_rules import StatementRules
from gateway.core.target import Level
from gateway.edges.proxy.postgres_keeper import Doorkeeper
from tests.e2e.postgres_stage import Stage, database, door_tls, leased, running_door
from tests.servers import running_postgres

INSERTS, ROUNDS = 500, 5


@dataclass
class ReadingStage(Stage):
    def keeper(self) -> Doorkeeper:
        return replace(super().keeper(), reader=PostgresParser())


def milliseconds(stage: Stage, *, writes: bool) -> float:
    """The median of one statement's."""
    took = []
    with stage.connect() as session:
        for _ in range(ROUNDS):
            session.execute("BEGIN")
            for n in range(INSERTS):
                begun = time.perf_counter()
                if writes:
                    session.execute("INSERT INTO orders VALUES (%s, 'x')", (n,))
                else:
                    session.execute("SELECT note FROM orders WHERE id = %s", (n,))
                took.append(time.perf_counter() - begun)
            session.execute("ROLLBACK")
    return statistics.median(took) * 1000


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="gw-bench-"))
    with running_postgres() as server, database(server, folder) as target:
        plain: Level = target.levels["read"]
        levels = {
            "ordinary": plain,
            "rules": replace(plain, rules=StatementRules(require_where=True)),
            "dry-run": replace(plain, dry_run=DryRun(Confirm.SELF)),
        }
        for name, level in levels.items():
            made = replace(target, levels={"read": level})
            context, ca = door_tls(folder / name)
            role = f"gw_bench_{name.replace('-', '_')}"
            with leased(made, role) as login, running_door(ReadingStage(made, login, ca), context) as stage:
                told = [f"{milliseconds(stage, writes=each):.2f} ms" for each in (False, True)]
                print(f"{name}: SELECT {told[0]}, INSERT {told[1]}")


if __name__ == "__main__":
    main()
