import socket

import psycopg
import pytest

from tests.servers import PostgresServer


def test_each_database_is_fresh_and_asks_for_the_password(postgres_server: PostgresServer, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres_server.url(user="postgres", password="wrong"))


def test_only_loopback_is_listened_on(postgres_server: PostgresServer) -> None:
    with socket.create_connection((postgres_server.host, postgres_server.port), timeout=5) as connection:
        assert connection.getpeername()[0] == "127.0.0.1"
