-- Group roles: what a level is. Ephemeral roles become members of exactly one of them and own nothing.
CREATE ROLE orders_read NOLOGIN;
CREATE ROLE orders_write NOLOGIN;
CREATE ROLE orders_admin NOLOGIN;
CREATE ROLE staging_read NOLOGIN;
-- Of pipelines: may make tables, and reads none.
CREATE ROLE orders_migrate NOLOGIN;

-- The gateway's own login; its name is outside `gw_…`, which is where ephemeral roles live. It is no superuser and may not create databases; it hands out membership in these groups.
CREATE ROLE access_broker LOGIN CREATEROLE NOSUPERUSER NOCREATEDB;
GRANT orders_read, orders_write, orders_admin, orders_migrate, staging_read TO access_broker WITH ADMIN TRUE, INHERIT FALSE, SET TRUE;
GRANT pg_signal_backend TO access_broker;
-- PostgreSQL 16 and newer: a role's maker may administer it, but is a member of it only when told so.
ALTER ROLE access_broker SET createrole_self_grant = 'set, inherit';

REVOKE ALL ON DATABASE postgres FROM PUBLIC;
REVOKE ALL ON DATABASE template1 FROM PUBLIC;
