import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from gateway.edges.cli import main, output
from gateway.edges.cli.main import COMMANDS, make_cli


def test_help_names_every_command_and_imports_none() -> None:
    code = (
        "import sys; from gateway.edges.cli.main import make_cli\n"
        "try:\n    make_cli({'serve': 'gateway.serve:serve'})(['--help'])\n"
        "finally:\n    print('IMPORTED', [m for m in sys.modules if m.startswith('gateway.edges.cli.') and "
        "m.rsplit('.')[-1] not in ('main', 'output')], 'httpx2' in sys.modules, 'pydantic' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.endswith("IMPORTED [] False False\n")
    for name in (*COMMANDS, "serve"):
        assert f"  {name} " in ran.stdout


def test_a_bug_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def broken() -> None:
        raise RuntimeError("gwc_secret")

    monkeypatch.setattr(main, "broken", broken, raising=False)
    cli = make_cli({"broken": "gateway.edges.cli.main:broken"})
    ran = CliRunner().invoke(cli, ["broken"], env={"GW_DEBUG": None})
    assert ran.exit_code == 1
    assert "RuntimeError" in ran.output
    assert "gwc_secret" not in ran.output
    assert "Traceback" in CliRunner().invoke(cli, ["broken"], env={"GW_DEBUG": "1"}).output


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def waiting() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "waiting", waiting, raising=False)
    ran = CliRunner().invoke(make_cli({"waiting": "gateway.edges.cli.main:waiting"}), ["waiting"])
    assert ran.exit_code == 130


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    assert "_GW_COMPLETE" in CliRunner().invoke(make_cli(), ["completion", shell]).output


def test_moments_are_local_and_relative() -> None:
    from datetime import UTC, datetime

    now = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
    assert output.moment("2026-03-02T09:59:00+00:00", now).endswith("(in 59 min)")
    assert output.moment("2026-03-02T08:59:30Z", now).endswith("(30 s ago)")
    assert output.moment("2026-03-02T19:00:00Z", now).endswith("(in 10.0 h)")
    assert output.moment("2026-03-12T09:00:00Z", now).endswith("(in 10 days)")
    assert output.moment(None, now) == ""
