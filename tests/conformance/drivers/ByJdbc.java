// pgjdbc, as DBeaver and other Java tools use it: `java -cp postgresql.jar ByJdbc.java`. Environment and output as in steps.py.

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;

public class ByJdbc {
    interface Step { void run() throws Exception; }

    static String env(String name) { return System.getenv("DRIVER_" + name); }

    static Connection session(String... more) throws SQLException {
        Properties about = new Properties();
        about.setProperty("user", env("USER"));
        about.setProperty("password", env("PASSWORD"));
        about.setProperty("sslmode", "verify-full");
        about.setProperty("sslrootcert", env("CA"));
        about.setProperty("ApplicationName", "DBeaver");
        for (String pair : more) about.setProperty(pair.split("=")[0], pair.split("=")[1]);
        return DriverManager.getConnection("jdbc:postgresql://" + env("HOST") + ":" + env("PORT") + "/" + env("DATABASE"), about);
    }

    static void check(boolean holds) { if (!holds) throw new AssertionError("not as expected"); }

    static long count(Connection c, String what) throws SQLException {
        try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT count(*) FROM " + what)) {
            r.next();
            return r.getLong(1);
        }
    }

    static void connect() throws Exception {
        try (Connection c = session()) {  // what DBeaver reads on connecting
            check(c.getMetaData().getDatabaseMajorVersion() >= 14);
            try (ResultSet tables = c.getMetaData().getTables(null, "public", "%", new String[] {"TABLE"})) { check(tables.next()); }
            check(c.isValid(5));
        }
    }

    static void simple() throws Exception {
        try (Connection c = session("preferQueryMode=simple"); Statement s = c.createStatement()) {
            check(s.execute("SELECT 1; SELECT 2"));
            check(s.getMoreResults());
        }
    }

    static void extended() throws Exception {
        try (Connection c = session(); PreparedStatement p = c.prepareStatement("SELECT note FROM orders WHERE id = ?")) {
            p.setInt(1, 7);
            try (ResultSet r = p.executeQuery()) { check(r.next() && r.getString(1).length() == 100); }
        }
    }

    static void named() throws Exception {  // a server-side statement S_1 from the first execution on
        try (Connection c = session("prepareThreshold=1"); PreparedStatement p = c.prepareStatement("SELECT id FROM orders WHERE id = ?")) {
            for (int id = 1; id <= 50; id++) {
                p.setInt(1, id);
                try (ResultSet r = p.executeQuery()) { check(r.next() && r.getInt(1) == id); }
            }
            check(count(c, "pg_prepared_statements") >= 1);
        }
    }

    static void portal() throws Exception {
        try (Connection c = session("defaultRowFetchSize=200"); Statement s = c.createStatement()) {
            c.setAutoCommit(false);
            s.setFetchSize(150);
            try (ResultSet r = s.executeQuery("SELECT id FROM orders")) {
                int rows = 0;
                while (r.next()) rows++;
                check(rows == 2000);
            }
            c.rollback();
        }
    }

    static void pipeline() throws Exception {
        try (Connection c = session(); Statement s = c.createStatement()) {
            s.execute("CREATE TEMP TABLE t (n int, note text)");
            try (PreparedStatement p = c.prepareStatement("INSERT INTO t VALUES (?, ?)")) {
                for (int n = 0; n < 5000; n++) { p.setInt(1, n); p.setString(2, "x"); p.addBatch(); }
                check(p.executeBatch().length == 5000);
            }
            check(count(c, "t") == 5000);
        }
    }

    static void copy() throws Exception {
        try (Connection c = session(); Statement s = c.createStatement()) {
            s.execute("CREATE TEMP TABLE t (n int, note text)");
            StringBuilder rows = new StringBuilder();
            for (int n = 0; n < 20000; n++) rows.append(n).append('\t').append("x".repeat(100)).append('\n');
            check(c.unwrap(PGConnection.class).getCopyAPI().copyIn("COPY t FROM STDIN", new StringReader(rows.toString())) == 20000);
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            check(c.unwrap(PGConnection.class).getCopyAPI().copyOut("COPY t TO STDOUT", out) == 20000);
            check(out.size() == rows.length());
        }
    }

    static void cancel() throws Exception {
        ExecutorService later = Executors.newSingleThreadExecutor();
        try (Connection c = session(); Statement s = c.createStatement()) {
            later.submit(() -> { Thread.sleep(500); s.cancel(); return null; });
            try { s.execute("SELECT pg_sleep(30)"); check(false); } catch (SQLException no) { check("57014".equals(no.getSQLState())); }
            check(count(c, "orders") == 2000);
            s.setQueryTimeout(1);
            try { s.execute("SELECT pg_sleep(30)"); check(false); } catch (SQLException no) { check("57014".equals(no.getSQLState())); }
        } finally { later.shutdown(); later.awaitTermination(5, TimeUnit.SECONDS); }
    }

    static void listen() throws Exception {
        try (Connection c = session(); Connection other = session(); Statement s = c.createStatement(); Statement o = other.createStatement()) {
            s.execute("LISTEN news");
            o.execute("SELECT pg_notify('news', 'flash')");
            PGNotification[] heard = c.unwrap(PGConnection.class).getNotifications(10000);
            check(heard.length == 1 && heard[0].getParameter().equals("flash"));
        }
    }

    static void notice() throws Exception {
        try (Connection c = session(); Statement s = c.createStatement()) {
            s.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$");
            check(s.getWarnings().getMessage().equals("hello"));
        }
    }

    static void largeObject() throws Exception {  // by FunctionCall messages (fastpath)
        try (Connection c = session()) {
            c.setAutoCommit(false);
            LargeObjectManager manager = c.unwrap(PGConnection.class).getLargeObjectAPI();
            long oid = manager.createLO();
            byte[] data = new byte[1 << 20];
            Arrays.fill(data, (byte) 7);
            LargeObject object = manager.open(oid, LargeObjectManager.READWRITE);
            object.write(data);
            object.seek(0);
            check(Arrays.equals(object.read(data.length), data));
            object.close();
            manager.delete(oid);
            c.commit();
        }
    }

    @SuppressWarnings("deprecation")
    static void function() throws Exception {
        try (Connection c = session()) {
            org.postgresql.fastpath.Fastpath calls = c.unwrap(PGConnection.class).getFastpathAPI();
            calls.addFunctions(c.createStatement().executeQuery("SELECT proname, oid FROM pg_proc WHERE oid = 'int4inc'::regproc"));
            check(calls.getInteger("int4inc", new org.postgresql.fastpath.FastpathArg[] {new org.postgresql.fastpath.FastpathArg(41)}) == 42);
        }
    }

    static void transaction() throws Exception {
        try (Connection c = session(); Statement s = c.createStatement()) {
            s.execute("CREATE TEMP TABLE t (n int)");
            c.setAutoCommit(false);
            s.execute("INSERT INTO t VALUES (1)");
            Savepoint point = c.setSavepoint();
            s.execute("INSERT INTO t VALUES (2)");
            c.rollback(point);
            c.commit();
            check(count(c, "t") == 1);
        }
    }

    static void error() throws Exception {
        try (Connection c = session(); PreparedStatement p = c.prepareStatement("SELECT 1 / ?")) {
            p.setInt(1, 0);
            try { p.executeQuery(); check(false); } catch (SQLException no) { check("22012".equals(no.getSQLState())); }
            check(count(c, "orders") == 2000);
        }
    }

    static void binary() throws Exception {
        try (Connection c = session("prepareThreshold=-1"); PreparedStatement p = c.prepareStatement("SELECT ?::uuid, ?::float8, ?::bytea, ?::timestamptz")) {
            java.util.UUID id = java.util.UUID.randomUUID();
            p.setObject(1, id); p.setDouble(2, 1.5); p.setBytes(3, new byte[] {0, (byte) 255});
            p.setObject(4, java.time.OffsetDateTime.parse("2026-02-28T23:59:59Z"));
            try (ResultSet r = p.executeQuery()) {
                check(r.next() && r.getObject(1).equals(id) && r.getDouble(2) == 1.5 && r.getBytes(3)[1] == (byte) 255);
            }
        }
    }

    static final String ONE = "SELECT id, email, city FROM people WHERE id = ?";

    static void checkPeople(Connection c, int upTo) throws SQLException {
        try (PreparedStatement p = c.prepareStatement(ONE)) {
            for (int id = 1; id <= upTo; id++) {
                p.setInt(1, id);
                try (ResultSet r = p.executeQuery()) {
                    check(r.next() && r.getInt(1) == id && r.getString(2).equals("****mple") && r.getString(3).equals("Leeds"));
                }
            }
        }
    }

    static void maskedRead() throws Exception {
        try (Connection c = session()) { checkPeople(c, 3); }
        try (Connection c = session("preferQueryMode=simple")) { checkPeople(c, 3); }
    }

    static void maskedNamed() throws Exception { try (Connection c = session("prepareThreshold=1")) { checkPeople(c, 50); } }

    static void maskedBinary() throws Exception { try (Connection c = session("prepareThreshold=-1")) { checkPeople(c, 50); } }

    static void maskedPortal() throws Exception {
        try (Connection c = session(); Statement s = c.createStatement()) {
            c.setAutoCommit(false);
            s.setFetchSize(150);
            try (ResultSet r = s.executeQuery("SELECT email FROM people")) {
                int rows = 0;
                for (; r.next(); rows++) check(r.getString(1).equals("****mple"));
                check(rows == 2000);
            }
            c.rollback();
        }
    }

    static void fails(String code, Step step) throws Exception {
        try { step.run(); } catch (SQLException no) { check(code.equals(no.getSQLState())); return; }
        check(false);
    }

    static void maskedRefused() throws Exception {
        try (Connection c = session(); Statement s = c.createStatement()) {
            c.setAutoCommit(false);
            fails("42501", () -> s.executeQuery("SELECT id FROM people WHERE email LIKE 'p%'"));
            fails("25P02", () -> s.executeQuery("SELECT 1"));
            c.rollback();
            checkPeople(c, 3);
        }
    }

    static void dryRead() throws Exception {
        try (Connection c = session("prepareThreshold=1")) {
            c.setAutoCommit(false);
            for (int n = 0; n < 10; n++) check(count(c, "orders") == 2000);
            c.commit();
        }
    }

    static void insert(Connection c, String table, String note, int rows) throws SQLException {
        try (PreparedStatement p = c.prepareStatement("INSERT INTO " + table + " VALUES (?, '" + note + "')")) {
            for (int n = 0; n < rows; n++) { p.setInt(1, n); p.executeUpdate(); }
        }
    }

    static void dryYes() throws Exception {
        for (String threshold : new String[] {"1", "-1", "5"}) {
            String note = "jdbc " + threshold;
            try (Connection c = session("prepareThreshold=" + threshold)) {
                c.setAutoCommit(false);
                insert(c, "yes_notes", note, 7);
                fails("55000", c::commit);
                check(count(c, "yes_notes WHERE note = '" + note + "'") == 7);
                c.commit();
            }
            try (Connection other = session()) { check(count(other, "yes_notes WHERE note = '" + note + "'") == 7); }
        }
    }

    static void dryNo() throws Exception {
        try (Connection c = session()) {
            c.setAutoCommit(false);
            insert(c, "no_notes", "jdbc", 1);
            fails("55000", c::commit);
            fails("55000", c::commit);
            c.rollback();
            check(count(c, "no_notes WHERE note = 'jdbc'") == 0);
        }
    }

    static void dryError() throws Exception {
        try (Connection c = session("autosave=always"); Statement s = c.createStatement()) {
            c.setAutoCommit(false);
            insert(c, "yes_notes", "jdbc kept", 1);
            fails("22012", () -> s.executeQuery("SELECT 1 / 0"));  // rolled back to the driver's own savepoint
            fails("55000", c::commit);
            c.commit();
        }
        try (Connection c = session(); Statement s = c.createStatement()) {
            c.setAutoCommit(false);
            insert(c, "yes_notes", "jdbc kept", 1);
            Savepoint point = c.setSavepoint();
            fails("22012", () -> s.executeQuery("SELECT 1 / 0"));
            c.rollback(point);
            fails("55000", c::commit);
            c.commit();
            insert(c, "yes_notes", "jdbc kept", 1);
            fails("22012", () -> s.executeQuery("SELECT 1 / 0"));
            c.rollback();
            check(count(c, "yes_notes WHERE note = 'jdbc kept'") == 2);
        }
    }

    static void dryPipeline() throws Exception {
        try (Connection c = session()) {
            c.setAutoCommit(false);
            try (PreparedStatement p = c.prepareStatement("INSERT INTO yes_notes VALUES (?, 'jdbc batch')")) {
                for (int n = 0; n < 3000; n++) { p.setInt(1, n); p.addBatch(); }
                check(p.executeBatch().length == 3000);
            }
            fails("55000", c::commit);
            c.commit();
            check(count(c, "yes_notes WHERE note = 'jdbc batch'") == 3000);
        }
    }

    static void dryCopy() throws Exception {
        try (Connection c = session()) {
            c.setAutoCommit(false);
            check(c.unwrap(PGConnection.class).getCopyAPI().copyIn("COPY yes_notes FROM STDIN", new StringReader("1\tjdbc copy\n2\tjdbc copy\n")) == 2);
            fails("55000", c::commit);
            c.commit();
            check(count(c, "yes_notes WHERE note = 'jdbc copy'") == 2);
        }
    }

    static void run(Map<String, Step> steps) {
        steps.forEach((feature, step) -> {
            try { step.run(); System.out.println("ok " + feature); }
            catch (Throwable why) { System.out.println("FAILED " + feature + ": " + String.valueOf(why).replace('\n', ' ')); }
        });
        System.exit(0);
    }

    public static void main(String[] args) {
        Map<String, Step> steps = new LinkedHashMap<>();
        String level = String.valueOf(env("LEVEL"));
        if (level.equals("masked")) {
            steps.put("read", ByJdbc::maskedRead);
            steps.put("named", ByJdbc::maskedNamed);
            steps.put("binary", ByJdbc::maskedBinary);
            steps.put("portal", ByJdbc::maskedPortal);
            steps.put("refused", ByJdbc::maskedRefused);
            run(steps);
        } else if (level.equals("dry-run")) {
            steps.put("read", ByJdbc::dryRead);
            steps.put("yes", ByJdbc::dryYes);
            steps.put("no", ByJdbc::dryNo);
            steps.put("error", ByJdbc::dryError);
            steps.put("pipeline", ByJdbc::dryPipeline);
            steps.put("copy", ByJdbc::dryCopy);
            run(steps);
        }
        steps.put("connect", ByJdbc::connect);
        steps.put("simple", ByJdbc::simple);
        steps.put("extended", ByJdbc::extended);
        steps.put("named", ByJdbc::named);
        steps.put("portal", ByJdbc::portal);
        steps.put("pipeline", ByJdbc::pipeline);
        steps.put("copy", ByJdbc::copy);
        steps.put("cancel", ByJdbc::cancel);
        steps.put("notify", ByJdbc::listen);
        steps.put("notice", ByJdbc::notice);
        steps.put("large", ByJdbc::largeObject);
        steps.put("function", ByJdbc::function);
        steps.put("transaction", ByJdbc::transaction);
        steps.put("error", ByJdbc::error);
        steps.put("binary", ByJdbc::binary);
        run(steps);
    }
}
