from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.edges.stage import Stage, make_stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = make_stage(tmp_path)
    yield made
    made.store.close()
