"""Where the demo's loud notifications go: a webhook receiver that prints one line each. Run as a process."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from gateway.demo.processes import Processes, listens

NAME = "pager"
_LONGEST = 64 * 1024


def start(processes: Processes, state: Path, port: int) -> Path:
    """Start the receiver; the log file that its lines appear in."""
    log = state / "log" / "pager.log"
    log.write_text("")
    processes.start(NAME, [sys.executable, "-m", __name__, str(port)], log=log)
    processes.await_ready(NAME, lambda: listens("127.0.0.1", port), 15)
    return log


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        size = min(int(self.headers.get("content-length") or 0), _LONGEST)
        try:
            text = str(json.loads(self.rfile.read(size)).get("text", ""))
        except (ValueError, AttributeError):
            self.send_error(400)
            return
        print(" ".join("".join(c if c.isprintable() else " " for c in text).split()), flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Only the messages themselves are of interest."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Receiver).serve_forever()
