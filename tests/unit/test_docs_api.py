from pathlib import Path

import pytest

from gateway.app.providers import Providers
from gateway.edges.http.app import DoorFacts, create_app
from tests.unit.edges.stage import Stage, make_stage

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return make_stage(tmp_path)


def test_the_page_and_the_routes_are_the_same(stage: Stage) -> None:
    doors = DoorFacts("", 0, "", "", 0, "", "")
    document = create_app(stage.ctx, Providers(), doors, public_url="http://testserver").openapi()
    served = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    told = {part for part in PAGE.split("`") if part.startswith(("GET /", "POST /"))}
    assert told == served
    stage.store.close()
