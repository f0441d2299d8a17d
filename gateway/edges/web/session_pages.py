"""The page of live sessions, with what their databases work on. It has no script, and asks for nothing by itself."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from fastapi import Request
from starlette.responses import Response

from gateway.app.running_statements import Shown
from gateway.core.exact_text import exact_lines
from gateway.core.principal import User
from gateway.core.session import Session
from gateway.edges.web.views import render


def sessions_page(
    request: Request,
    user: User,
    now: datetime,
    sessions: Sequence[Session],
    shown: Mapping[str, Shown],
    *,
    is_cut: bool,
) -> Response:
    """What is in a statement is somebody's: it is escaped, and so is what would draw elsewhere than where it stands, so
    that no two texts look the same.
    """
    rows = []
    for session in sessions:
        running = shown.get(session.id)
        seconds = max(0, int((now - running.since).total_seconds())) if running else 0
        sql = "\n".join(exact_lines(running.sql)) if running else ""
        rows.append({"session": session, "running": running, "seconds": seconds, "sql": sql})
    return render(request, "sessions.html", {"user": user, "now": now, "sessions": rows, "is_cut": is_cut})
