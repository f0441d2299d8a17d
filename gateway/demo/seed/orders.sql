-- A shop's order database. Written in one pass by generate_series; the same rows every time (setseed).
SELECT setseed(0.42);

CREATE TABLE customers (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL,
    email      text NOT NULL UNIQUE,
    city       text NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE TABLE products (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku   text NOT NULL UNIQUE,
    name  text NOT NULL,
    price numeric(10, 2) NOT NULL CHECK (price > 0)
);
CREATE TABLE orders (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL,
    placed_at   timestamptz NOT NULL,
    status      text NOT NULL CHECK (status IN ('placed', 'paid', 'shipped', 'delivered', 'cancelled')),
    channel     text NOT NULL,
    total       numeric(12, 2) NOT NULL DEFAULT 0
);
CREATE TABLE order_items (
    order_id   bigint NOT NULL,
    line       int NOT NULL,
    product_id bigint NOT NULL,
    quantity   int NOT NULL CHECK (quantity > 0),
    price      numeric(10, 2) NOT NULL,
    PRIMARY KEY (order_id, line)
);

INSERT INTO customers (name, email, city, created_at)
SELECT given || ' ' || family,
       lower(given) || '.' || lower(family) || '.' || n || '@example.com',
       (ARRAY['Leeds', 'Bristol', 'Cardiff', 'Glasgow', 'York', 'Lyon', 'Nantes', 'Lille', 'Ghent', 'Antwerp',
              'Utrecht', 'Delft', 'Bremen', 'Kassel', 'Leipzig', 'Graz', 'Linz', 'Basel', 'Bergen', 'Malmö'])
           [1 + floor(random() * 20)::int],
       timestamptz '2026-11-01 00:00Z' - random() * interval '6 years'
FROM generate_series(1, 20000) AS n,
     LATERAL (SELECT (ARRAY['Ada', 'Ben', 'Clara', 'David', 'Elif', 'Femke', 'Goran', 'Hana', 'Ines', 'Jonas',
                            'Katya', 'Liam', 'Mira', 'Noah', 'Olga', 'Priya', 'Quentin', 'Rosa', 'Sami', 'Tara'])
                         [1 + n % 20] AS given,
                     (ARRAY['Abbott', 'Becker', 'Costa', 'Dahl', 'Evans', 'Fischer', 'Garcia', 'Haas', 'Ivanov',
                            'Jansen', 'Keller', 'Lindt', 'Moreau', 'Novak', 'Okafor', 'Patel', 'Quist', 'Rossi',
                            'Silva', 'Tanaka', 'Ueda', 'Vogel', 'Weber', 'Xu', 'Young', 'Zeman'])
                         [1 + (n / 20) % 26] AS family) AS names;

INSERT INTO products (sku, name, price)
SELECT 'SKU-' || lpad(n::text, 5, '0'),
       (ARRAY['Oak', 'Steel', 'Linen', 'Copper', 'Walnut', 'Ceramic', 'Wool', 'Glass'])[1 + n % 8] || ' ' ||
       (ARRAY['lamp', 'chair', 'table', 'bowl', 'shelf', 'clock', 'rug', 'kettle', 'mirror', 'tray'])[1 + (n / 8) % 10],
       round((4 + random() * 400)::numeric, 2)
FROM generate_series(1, 400) AS n;

INSERT INTO orders (customer_id, placed_at, status, channel)
SELECT 1 + floor(random() * 20000)::int,
       timestamptz '2026-11-01 00:00Z' - (240000 - n) * interval '11 minutes',
       (ARRAY['delivered', 'delivered', 'delivered', 'shipped', 'paid', 'placed', 'cancelled'])[1 + floor(random() * 7)::int],
       (ARRAY['web', 'web', 'app', 'phone'])[1 + floor(random() * 4)::int]
FROM generate_series(1, 240000) AS n;

INSERT INTO order_items (order_id, line, product_id, quantity, price)
SELECT o.order_id, o.line, p.id, 1 + (o.order_id % 4)::int, p.price
FROM (SELECT n AS order_id, line, 1 + floor(random() * 400)::int AS product_id
      FROM generate_series(1, 240000) AS n, generate_series(1, 2) AS line) AS o
JOIN products p ON p.id = o.product_id;

UPDATE orders SET total = items.total
FROM (SELECT order_id, sum(quantity * price) AS total FROM order_items GROUP BY order_id) AS items
WHERE items.order_id = orders.id;

ALTER TABLE order_items ADD FOREIGN KEY (order_id) REFERENCES orders (id);
ALTER TABLE order_items ADD FOREIGN KEY (product_id) REFERENCES products (id);
-- A foreign key brings no index on its own side. There is none on orders (customer_id): that is incident INC-1042.
ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers (id);

-- What the customer search of the shop asks; slow until the index is there.
CREATE VIEW customer_search AS
SELECT c.id, c.name, c.email, c.city,
       (SELECT count(*) FROM orders o WHERE o.customer_id = c.id) AS orders,
       (SELECT max(o.placed_at) FROM orders o WHERE o.customer_id = c.id) AS last_order
FROM customers c;

-- Tables belong to the admin group, so that its members may change the schema (CREATE INDEX) and others may not.
ALTER TABLE customers OWNER TO orders_admin;
ALTER TABLE products OWNER TO orders_admin;
ALTER TABLE orders OWNER TO orders_admin;
ALTER TABLE order_items OWNER TO orders_admin;
ALTER VIEW customer_search OWNER TO orders_admin;

GRANT CONNECT ON DATABASE orders TO access_broker, orders_read, orders_write, orders_admin, orders_migrate;
GRANT TEMPORARY ON DATABASE orders TO orders_write, orders_admin;
GRANT USAGE ON SCHEMA public TO orders_read, orders_write, orders_admin, orders_migrate;
GRANT CREATE ON SCHEMA public TO orders_admin, orders_migrate;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO orders_read;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO orders_write;
ALTER DEFAULT PRIVILEGES FOR ROLE orders_admin IN SCHEMA public GRANT SELECT ON TABLES TO orders_read;
ALTER DEFAULT PRIVILEGES FOR ROLE orders_admin IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO orders_write;
