// node-postgres with pg-cursor and pg-copy-streams. Environment and output as in steps.py.
import { readFileSync } from "node:fs";
import { Readable } from "node:stream";
import { pipeline as streams } from "node:stream/promises";
import assert from "node:assert/strict";
import pg from "pg";
import Cursor from "pg-cursor";
import { from as copyFrom, to as copyTo } from "pg-copy-streams";

const { DRIVER_HOST, DRIVER_PORT, DRIVER_USER, DRIVER_PASSWORD, DRIVER_DATABASE, DRIVER_CA } = process.env;
const settings = {
  host: DRIVER_HOST, port: Number(DRIVER_PORT), user: DRIVER_USER, password: DRIVER_PASSWORD, database: DRIVER_DATABASE,
  ssl: { ca: readFileSync(DRIVER_CA), rejectUnauthorized: true },
};

async function session(use, more = {}) {
  const client = new pg.Client({ ...settings, ...more });
  await client.connect();
  try { await use(client); } finally { await client.end(); }
}

const steps = {
  connect: () => session(async (c) => assert.equal((await c.query("SELECT 1 AS n")).rows[0].n, 1)),
  simple: () => session(async (c) => {
    const results = await c.query("SELECT 1; SELECT 2 AS two");
    assert.equal(results[1].rows[0].two, 2);
  }),
  extended: () => session(async (c) => {
    assert.equal((await c.query("SELECT note FROM orders WHERE id = $1", [7])).rows[0].note.length, 100);
  }),
  named: () => session(async (c) => {
    for (let id = 1; id <= 50; id++) {
      const found = await c.query({ name: "one", text: "SELECT id FROM orders WHERE id = $1", values: [id] });
      assert.equal(found.rows[0].id, id);
    }
  }),
  portal: () => session(async (c) => {
    const cursor = c.query(new Cursor("SELECT id FROM orders WHERE id > $1", [0]));
    let count = 0;
    for (let rows; (rows = await cursor.read(150)).length;) count += rows.length;
    assert.equal(count, 2000);
    await cursor.close();
  }),
  copy: () => session(async (c) => {
    await c.query("CREATE TEMP TABLE t (n int, note text)");
    const rows = function* () { for (let n = 0; n < 20000; n++) yield `${n}\t${"x".repeat(100)}\n`; };
    await streams(Readable.from(rows()), c.query(copyFrom("COPY t FROM STDIN")));
    let size = 0;
    for await (const chunk of c.query(copyTo("COPY t TO STDOUT"))) size += chunk.length;
    assert.equal(size, [...rows()].join("").length);
  }),
  cancel: () => session(async (c) => {
    const query = new pg.Query("SELECT pg_sleep(30)");
    const failed = new Promise((yes) => query.on("error", yes));
    c.query(query);
    setTimeout(() => new pg.Client(settings).cancel(c, query), 500);
    assert.equal((await failed).code, "57014");
    assert.equal((await c.query("SELECT 1 AS n")).rows[0].n, 1);
  }),
  notify: () => session((c) => session(async (other) => {
    await c.query("LISTEN news");
    const heard = new Promise((yes) => c.on("notification", yes));
    await other.query("SELECT pg_notify('news', 'flash')");
    assert.equal((await heard).payload, "flash");
  })),
  notice: () => session(async (c) => {
    const heard = new Promise((yes) => c.on("notice", yes));
    await c.query("DO $$ BEGIN RAISE NOTICE 'hello'; END $$");
    assert.equal((await heard).message, "hello");
  }),
  transaction: () => session(async (c) => {
    await c.query("CREATE TEMP TABLE t (n int)");
    await c.query("BEGIN");
    await c.query("INSERT INTO t VALUES ($1)", [1]);
    await c.query("ROLLBACK");
    assert.equal((await c.query("SELECT count(*)::int AS n FROM t")).rows[0].n, 0);
  }),
  error: () => session(async (c) => {
    await assert.rejects(c.query("SELECT 1 / $1::int", [0]), { code: "22012" });
    assert.equal((await c.query("SELECT 1 AS n")).rows[0].n, 1);
  }),
  // Its parsers of binary floats and arrays with NULL are wrong without the gateway, too (pg-types), so others are asked for.
  binary: () => session(async (c) => {
    const found = await c.query("SELECT 12.5::numeric AS m, true AS b, 7::int8 AS i, $1::int AS n", [7]);
    assert.deepEqual({ ...found.rows[0] }, { m: 12.5, b: true, i: "7", n: 7 });
  }, { binary: true }),
};

const ONE = "SELECT id, email, city FROM people WHERE id = $1";
const shown = (id) => ({ id, email: "****mple", city: "Leeds" });
const held = (c) => assert.rejects(c.query("COMMIT"), { code: "55000" });
const count = async (c, table, note) => (await c.query(`SELECT count(*)::int AS n FROM ${table} WHERE note = $1`, [note])).rows[0].n;

const masked = {
  read: () => session(async (c) => {
    assert.deepEqual((await c.query(ONE, [7])).rows, [shown(7)]);
    assert.deepEqual((await c.query("SELECT * FROM people WHERE id = 7")).rows, [shown(7)]);
  }),
  named: () => session(async (c) => {
    for (let id = 1; id <= 50; id++) assert.deepEqual((await c.query({ name: "one", text: ONE, values: [id] })).rows, [shown(id)]);
  }),
  binary: () => session(async (c) => assert.deepEqual((await c.query(ONE, [7])).rows, [shown(7)]), { binary: true }),
  portal: () => session(async (c) => {
    const cursor = c.query(new Cursor("SELECT email FROM people WHERE id > $1", [0]));
    let rows = 0;
    for (let some; (some = await cursor.read(150)).length; rows += some.length) assert.equal(some[0].email, "****mple");
    assert.equal(rows, 2000);
    await cursor.close();
  }),
  refused: () => session(async (c) => {
    await c.query("BEGIN");
    await assert.rejects(c.query("SELECT id FROM people WHERE email LIKE $1", ["p%"]), { code: "42501" });
    await assert.rejects(c.query("SELECT 1"), { code: "25P02" });
    await c.query("ROLLBACK");
    assert.deepEqual((await c.query(ONE, [7])).rows, [shown(7)]);
  }),
};

const dryRun = {
  read: () => session(async (c) => {
    await c.query("BEGIN");
    for (let id = 1; id <= 10; id++) await c.query({ name: "one", text: "SELECT id FROM orders WHERE id = $1", values: [id] });
    await c.query("COMMIT");
  }),
  yes: () => session(async (c) => {
    await c.query("BEGIN");
    for (let n = 0; n < 5; n++) await c.query({ name: "in", text: "INSERT INTO yes_notes VALUES ($1, 'node')", values: [n] });
    await held(c);
    assert.equal(await count(c, "yes_notes", "node"), 5);
    await c.query("COMMIT");
    await session(async (other) => assert.equal(await count(other, "yes_notes", "node"), 5));
  }),
  no: () => session(async (c) => {
    await c.query("BEGIN");
    await c.query("INSERT INTO no_notes VALUES ($1, 'node')", [1]);
    await held(c);
    await held(c);
    await c.query("ROLLBACK");
    assert.equal(await count(c, "no_notes", "node"), 0);
  }),
  error: () => session(async (c) => {
    await c.query("BEGIN");
    await c.query("INSERT INTO yes_notes VALUES ($1, 'node kept')", [1]);
    await c.query("SAVEPOINT s");
    await assert.rejects(c.query("SELECT 1 / $1::int", [0]), { code: "22012" });
    await c.query("ROLLBACK TO s");
    await held(c);
    await c.query("COMMIT");
    await c.query("BEGIN");
    await c.query("INSERT INTO yes_notes VALUES ($1, 'node kept')", [1]);
    await assert.rejects(c.query("SELECT 1 / $1::int", [0]), { code: "22012" });
    assert.equal((await c.query("COMMIT")).command, "ROLLBACK");
    assert.equal(await count(c, "yes_notes", "node kept"), 1);
  }),
  copy: () => session(async (c) => {
    const rows = function* () { for (let n = 0; n < 1000; n++) yield `${n}\tnode copy\n`; };
    await c.query("BEGIN");
    await streams(Readable.from(rows()), c.query(copyFrom("COPY yes_notes FROM STDIN")));
    await held(c);
    await c.query("COMMIT");
    assert.equal(await count(c, "yes_notes", "node copy"), 1000);
  }),
};

const chosen = { "": steps, masked, "dry-run": dryRun }[process.env.DRIVER_LEVEL ?? ""];
for (const [feature, step] of Object.entries(chosen)) {
  const late = new Promise((_, no) => setTimeout(() => no(new Error("took too long")), 30000).unref());
  try { await Promise.race([step(), late]); console.log(`ok ${feature}`); }
  catch (why) { console.log(`FAILED ${feature}: ${String(why.message ?? why).replaceAll("\n", " ")}`); }
}
process.exit(0);
