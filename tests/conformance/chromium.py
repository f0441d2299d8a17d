"""Chromium without a driver: its DevTools protocol over two pipes, one JSON value each, ended by NUL."""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WITHIN_S = 30.0


class Browser:
    """One page. `session` is the attached target's."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._number = 0
        self._rest = b""
        self.session = ""
        self.authenticator = ""
        self.complaints: list[str] = []

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command, and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + WITHIN_S
        while True:
            said = self._next(end)
            if said.get("id") == self._number:
                assert "error" not in said, said["error"]
                result: dict[str, Any] = said["result"]
                return result
            if said.get("method") == "Log.entryAdded":
                self.complaints.append(said["params"]["entry"]["text"])

    def run(self, script: str) -> Any:
        """The value of an expression on the page."""
        done = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.wait(f"document.readyState == 'complete' && location.href == {json.dumps(url)}")

    def wait(self, condition: str) -> None:
        end = time.monotonic() + WITHIN_S
        while not self.run(f"document.body !== null && ({condition})"):  # between two pages there is none
            assert time.monotonic() < end, (
                f"not within {WITHIN_S:.0f} s: {condition}\n{self.run('document.body.innerText')}"
            )
            time.sleep(0.1)

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            assert ready, "chromium does not answer"
            part = os.read(self._read, 1 << 16)
            assert part, "chromium has ended"
            self._rest += part
        first, self._rest = self._rest.split(b"\0", 1)
        said: dict[str, Any] = json.loads(first)
        return said


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A headless one with a page, and nothing left afterwards."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert binary, "no chromium was found; on Debian: apt-get install chromium"
    to_them, we_write = os.pipe()
    we_read, from_them = os.pipe()

    argv = [
        binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    log = (profile.parent / "chromium.log").open("w")
    # The protocol's pipes are descriptors 3 and 4.
    shell = ["/bin/sh", "-c", f'exec "$@" 3</dev/fd/{to_them} 4>/dev/fd/{from_them}', "sh"]
    process = subprocess.Popen(
        [*shell, *argv], pass_fds=(to_them, from_them), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        start_new_session=True,
    )  # fmt: skip
    os.close(to_them)
    os.close(from_them)
    try:
        browser = Browser(we_write, we_read)
        target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        browser.session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            browser.send(f"{domain}.enable")
        yield browser
    finally:
        os.killpg(process.pid, 9)
        process.wait(10)
        log.close()
        os.close(we_write)
        os.close(we_read)
