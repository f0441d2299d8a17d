"""A database door at a level with masks, on a shop's database made to give its secrets away in every way there is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.adapters.postgres_parser import PostgresParser
from gateway.core.masking import ColumnName, Mask, Masks
from gateway.core.session import Session
from gateway.core.target import Target
from gateway.edges.proxy.postgres_keeper import Doorkeeper
from tests.e2e.postgres_stage import WITHIN, Stage, database
from tests.servers import PostgresServer

KEY = bytes(range(32))
SECRET = "ada.lovelace@secret.example"
PHONE = "+44 20 7946 0991"
MASKS: Masks = {
    ColumnName("public", "customers", "email"): Mask.LAST4,
    ColumnName("public", "customers", "phone"): Mask.FULL,
    ColumnName("public", "customers", "card"): Mask.HASH,
    ColumnName("public", "customers", "note"): Mask.NULL,
    ColumnName("public", "customers", "born"): Mask.FULL,
    ColumnName("public", "shown", "email"): Mask.FULL,
    ColumnName("public", "accounts", "email"): Mask.FULL,
}
MADE = f"""
    CREATE TABLE customers (id int PRIMARY KEY, name text, email text UNIQUE, phone varchar(40), card char(24),
                            note text, born date, city text);
    INSERT INTO customers SELECT g, 'name ' || g, g || '{SECRET}', '{PHONE}' || g, '4000-1234-5678-' || 9000 + g,
                                 'secret note', date '1815-12-10' + g, 'Leeds' FROM generate_series(1, 50) g;
    CREATE TABLE visits (id int, customer_id int, page text);
    INSERT INTO visits SELECT g, g % 50 + 1, '/p' FROM generate_series(1, 200) g;
    CREATE VIEW hidden AS SELECT id, email AS contact FROM customers;
    CREATE VIEW hidden_again AS SELECT upper(contact) AS contact FROM hidden;
    CREATE VIEW shown AS SELECT id, email FROM customers;
    CREATE MATERIALIZED VIEW kept AS SELECT id, email FROM customers;
    CREATE VIEW sampled AS SELECT histogram_bounds::text AS values FROM pg_stats WHERE tablename = 'customers';
    CREATE TABLE archive () INHERITS (customers);
    INSERT INTO archive SELECT g, 'old', 'old{SECRET}', '{PHONE}', 'x', 'secret note', NULL, 'York' FROM generate_series(101, 103) g;
    CREATE FUNCTION email_of(n int) RETURNS text STABLE LANGUAGE sql AS 'SELECT email FROM customers WHERE id = n';
    CREATE FUNCTION contact(visits) RETURNS text STABLE LANGUAGE sql
        AS 'SELECT email FROM customers WHERE id = $1.customer_id';
    CREATE FUNCTION upper(n int) RETURNS text STABLE LANGUAGE sql AS 'SELECT email FROM customers WHERE id = n';
    CREATE FUNCTION steal(int, int) RETURNS text STABLE LANGUAGE sql AS 'SELECT email FROM customers WHERE id = $1';
    CREATE OPERATOR <#> (FUNCTION = steal, LEFTARG = int, RIGHTARG = int);
    CREATE VIEW through AS SELECT email_of(1) AS said;
    CREATE FUNCTION gather(text, int) RETURNS text STABLE LANGUAGE sql AS 'SELECT email FROM customers WHERE id = $2';
    CREATE AGGREGATE gathered(int) (SFUNC = gather, STYPE = text);
    CREATE VIEW through_aggregate AS SELECT gathered(id) AS said FROM visits;
    CREATE AGGREGATE harmless(int) (SFUNC = int4larger, STYPE = int);
    CREATE OPERATOR <~> (FUNCTION = ts_rewrite, LEFTARG = tsquery, RIGHTARG = text);
    CREATE FUNCTION compare(int, text) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT email LIKE $2 FROM customers WHERE id = $1';
    CREATE OPERATOR <= (FUNCTION = compare, LEFTARG = int, RIGHTARG = text);
    CREATE TABLE plans (id int PRIMARY KEY, label text CHECK (label <> 'bad'));
    CREATE TABLE accounts (id int, email text, plan int NOT NULL REFERENCES plans ON DELETE SET NULL);
    CREATE SCHEMA spare;
    CREATE TABLE spare.accounts (id int, email text);
    INSERT INTO plans VALUES (1, 'a'), (2, 'b');
    INSERT INTO accounts VALUES (1, '{SECRET}', 1);
    ANALYZE customers;
"""


@dataclass
class MaskedStage(Stage):
    events: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)

    def keeper(self) -> Doorkeeper:
        return replace(super().keeper(), reader=PostgresParser(), note=self._note, mask_key=KEY)

    def _note(self, session: Session, type: str, data: Mapping[str, object]) -> None:
        with self.changed:
            self.events.append((type, data))
            self.changed.notify_all()

    def told(self, count: int = 1) -> list[tuple[str, Mapping[str, object]]]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.events) >= count, WITHIN), self.events
            return list(self.events)


@contextmanager
def masked_database(server: PostgresServer, folder: Path) -> Iterator[Target]:
    """The target, whose only level has every right on everything, and masks."""
    with database(server, folder) as made:
        group = made.levels["read"].account
        server.execute(MADE, made.database)
        server.execute(f'GRANT ALL ON ALL TABLES IN SCHEMA public, spare TO "{group}"', made.database)
        server.execute(f'GRANT USAGE ON SCHEMA spare TO "{group}"', made.database)
        yield replace(made, levels={"read": replace(made.levels["read"], masks=MASKS)})
