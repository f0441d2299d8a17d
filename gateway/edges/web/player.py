"""The replay page. It loads scripts of this site only; `wasm-unsafe-eval` is for the player and for no other page."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gateway.app.replay_session import Replay

CSP = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "font-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
MOST_LINES = 5000
_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
)


def replay_page(found: Replay, viewer: str, lines: Sequence[str] | None = None, left_out: str = "") -> str:
    """The HTML, to be sent with `content-security-policy: CSP`.

    `lines` None plays `/api/sessions/{id}/cast` in the player; otherwise they are the session's transcript.
    `left_out` is what the player does not show, in words. Everything is escaped: recordings hold whatever somebody
    typed.
    """
    shown = lines
    if lines is not None and len(lines) > MOST_LINES:
        shown = [*lines[:MOST_LINES], f"… there is more: gw session replay {found.session.id}"]
    return _templates.get_template("replay.html").render(
        session=found.session,
        viewer=viewer,
        lines=shown,
        cast_path=f"/api/sessions/{quote(found.session.id, safe='')}/cast",
        count=found.count,
        digest=found.digest,
        is_complete=found.is_complete,
        gaps=found.gaps,
        left_out=left_out,
    )
