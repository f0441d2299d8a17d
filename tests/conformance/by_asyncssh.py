"""Run by the interpreter that has asyncssh: `by_asyncssh.py certificate|ticket PORT DIRECTORY`; the ticket is in TICKET."""

import asyncio
import os
import sys
from pathlib import Path

import asyncssh


async def main(credential: str, port: int, folder: Path) -> None:
    own = (
        {"username": "web-1", "client_keys": [(str(folder / "me"), str(folder / "me-cert.pub"))]}
        if credential == "certificate"
        else {"username": "oncall%web-1", "password": os.environ["TICKET"], "client_keys": None}
    )
    known = str(folder / "known")
    async with asyncssh.connect("127.0.0.1", port, known_hosts=known, config=None, agent_path=None, **own) as door:
        done = await door.run("cat; echo err >&2; exit 6", input="in" * 500_000)
        assert (done.stdout, done.stderr, done.exit_status) == ("in" * 500_000, "err\n", 6)
        seen = await door.run("stty size", term_type="xterm", term_size=(101, 42))
        assert seen.stdout is not None
        assert "42 101" in seen.stdout
        many = await asyncio.gather(*(door.run(f"sleep 0.2; echo {n}") for n in range(10)))
        assert [each.stdout for each in many] == [f"{n}\n" for n in range(10)]
        (folder / "here").write_bytes(os.urandom(3 << 20))
        async with door.start_sftp_client() as sftp:
            await sftp.put(str(folder / "here"), str(folder / "there"))
            await sftp.get(str(folder / "there"), str(folder / "back"))
        assert (folder / "back").read_bytes() == (folder / "here").read_bytes()
    print("command, streams, status, terminal, ten channels, files")


asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
