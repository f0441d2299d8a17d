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

for (const [feature, step] of Object.entries(steps)) {
  const late = new Promise((_, no) => setTimeout(() => no(new Error("took too long")), 30000).unref());
  try { await Promise.race([step(), late]); console.log(`ok ${feature}`); }
  catch (why) { console.log(`FAILED ${feature}: ${String(why.message ?? why).replaceAll("\n", " ")}`); }
}
process.exit(0);
