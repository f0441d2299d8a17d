import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.adapters.incidents_file import IncidentsFile
from gateway.core.errors import Unavailable

AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
GOOD = """\
version: 1
incidents:
  - id: INC-1042
    service: orders
    title: p99 of search 8 s
    opened_at: 2026-03-02T09:00:00+01:00
    closed_at:
  - {id: INC-1, service: orders, opened_at: 2026-01-01T00:00:00Z, closed_at: 2026-01-02T00:00:00Z}
"""


def test_incidents_are_read_and_read_again_when_changed(tmp_path: Path):
    path = tmp_path / "incidents.yaml"
    path.write_text(GOOD)
    source = IncidentsFile(path)
    first, second = source.fetch(AT)
    assert (first.id, first.service, first.opened_at.isoformat()) == ("INC-1042", "orders", "2026-03-02T08:00:00+00:00")
    assert first.is_open(AT)
    assert first.fetched_at == AT
    assert first.source == source.name
    assert not second.is_open(AT)
    path.write_text(GOOD.replace("closed_at:\n", "closed_at: 2026-03-02T08:59:00Z\n"))
    assert not source.fetch(AT)[0].is_open(AT)


def test_an_unchanged_file_is_not_parsed_again(tmp_path: Path):
    path = tmp_path / "incidents.yaml"
    path.write_text(GOOD)
    source = IncidentsFile(path)
    source.fetch(AT)
    parsed = source._file._found
    source.fetch(AT)
    assert source._file._found is parsed
    os.utime(path, ns=(1, 1))
    source.fetch(AT)
    assert source._file._found is not parsed


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    service: orders\n", "", r"incidents.yaml:3: incidents\[0\]: service is missing"),
        ("+01:00", "", "needs its offset from UTC"),
        ("2026-03-02T09:00:00+01:00", "yesterday", r"incidents.yaml:6: incidents\[0\].opened_at"),
        ("id: INC-1,", "id: INC-1042,", "appears twice"),
        ("closed_at: 2026-01-02", "closed_at: 2025-01-02", "is before opened_at"),
        ("title", "titel", "unknown key"),
    ],
)
def test_a_fault_makes_the_source_unavailable(tmp_path: Path, old: str, new: str, said: str):
    path = tmp_path / "incidents.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    source = IncidentsFile(path)
    for _ in range(2):
        with pytest.raises(Unavailable, match=said):
            source.fetch(AT)
    path.write_text(GOOD)
    assert len(source.fetch(AT)) == 2


def test_a_missing_file_is_unavailable(tmp_path: Path):
    with pytest.raises(Unavailable, match=r"incidents\.yaml: No such file"):
        IncidentsFile(tmp_path / "incidents.yaml").fetch(AT)
