import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from gateway.app.deploy_live import Feed
from gateway.app.deploy_ports import Output
from gateway.core.rollout import Run, RunState, Step, StepState
from gateway.edges.http import deploy_stream
from gateway.edges.http.deploy_stream import Lines, RunLines, follow, look

AT = datetime(2026, 3, 1, tzinfo=UTC)
RUN = Run(
    "run_1", "k", "wkl_1", "workload", "ci", "deploy", ("web-1",), {}, "", is_rollback=False, gateway="other",
    started_at=AT, deadline=AT + timedelta(minutes=1),
)  # fmt: skip
STEP = Step("run_1", "web-1", 0, "ses_1", "app", 1, StepState.RUNNING)


def out(data: bytes, target: str = "web-1") -> Output:
    return Output("out", AT, target, data)


async def _all(lines: AsyncIterator[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) async for line in lines]


@given(st.text(max_size=40), st.integers(1, 5))
def test_characters_cut_in_two_come_out_whole(text: str, size: int) -> None:
    data, lines = text.encode("utf-8", "surrogatepass"), Lines()
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    told = [json.loads(lines.of(out(piece))) for piece in pieces]
    whole = data.decode("utf-8", "replace")
    assert whole.startswith("".join(t["text"] for t in told).rstrip("\ufffd")[: len(whole)])
    if "\ufffd" not in whole:
        assert "".join(t["text"] for t in told) == whole


def test_targets_do_not_share_half_characters() -> None:
    lines = Lines()
    lines.of(out(b"\xc3", "web-1"))
    assert json.loads(lines.of(out(b"\xa9", "web-2")))["text"] == "\ufffd"
    assert json.loads(lines.of(out(b"\xa9", "web-1")))["text"] == "\u00e9"


def test_a_run_is_followed_to_its_end_with_a_sign_of_life_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy_stream, "SILENCE_S", 0.01)
    feed = Feed()
    feed.put(out(b"before\n"))

    async def watch() -> list[str]:
        seen: list[str] = []
        async for line in follow(feed):
            told = json.loads(line)
            seen.append(told["type"])
            if told["type"] == "progress" and "progress" not in seen[:-1]:
                feed.put(out(b"after\n"))
                feed.close()
        return seen

    seen = asyncio.run(watch())
    assert seen[0] == seen[-1] == "output"
    assert "progress" in seen


def test_a_reader_who_is_too_slow_is_told_what_is_missing() -> None:
    feed = Feed()
    for _ in range(40):
        feed.put(out(b"x" * 60_000))
    feed.close()
    first, *rest = asyncio.run(_all(follow(feed)))
    assert first["type"] == "note"
    assert str(40 - len(rest)) in first["text"]


def test_another_gateway_s_run_is_looked_at_until_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy_stream, "LOOK_EVERY_S", 0.001)
    over = replace(RUN, state=RunState.FAILED, ended_at=AT, exit_status=7, detail="web-1: exit status 7")
    stages: list[tuple[Run, Sequence[Step]]] = [
        (RUN, [STEP]), (RUN, [STEP]), (over, [replace(STEP, state=StepState.FAILED, exit_status=7)])
    ]  # fmt: skip
    told = asyncio.run(_all(look(lambda: stages.pop(0))))
    assert [(t["type"], t.get("state")) for t in told] == [
        ("run", None), ("step", "running"), ("step", "failed"), ("end", "failed")
    ]  # fmt: skip
    assert told[0]["repeated"]
    assert told[-1]["exit_status"] == 7


def test_a_caller_who_leaves_before_the_first_line_is_gone_all_the_same() -> None:
    gone: list[bool] = []

    async def leaves(_message: object) -> None:
        raise OSError("the connection is closed")

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    answer = RunLines(follow(Feed()), lambda: gone.append(True))
    scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
    with pytest.raises(ClientDisconnect):
        asyncio.run(answer(scope, receive, leaves))
    assert gone == [True]
