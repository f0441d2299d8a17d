-- The staging copy: small, invented, and any developer may read it.
SELECT setseed(0.42);

CREATE TABLE orders (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer  text NOT NULL,
    placed_at timestamptz NOT NULL,
    total     numeric(12, 2) NOT NULL
);
INSERT INTO orders (customer, placed_at, total)
SELECT 'Test customer ' || n % 97, timestamptz '2026-11-01 00:00Z' - n * interval '37 minutes', round((5 + random() * 300)::numeric, 2)
FROM generate_series(1, 5000) AS n;

GRANT CONNECT ON DATABASE staging TO access_broker, staging_read;
GRANT USAGE ON SCHEMA public TO staging_read;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO staging_read;
