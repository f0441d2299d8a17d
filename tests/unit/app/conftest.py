from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import PostgresServer
from tests.unit.app.house import House, open_house


@pytest.fixture
def house(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[House]:
    with open_house(tmp_path, postgres_server) as made:
        yield made
