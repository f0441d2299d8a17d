"""Run as a process of its own and killed: eight sessions say on standard output what they were told is durable."""

import resource
import signal
import sys
from datetime import timedelta
from pathlib import Path
from threading import Lock, Thread

from gateway.adapters.recordings import FileRecorder, SpoolLimits, SpoolRecording
from gateway.app.recording_ports import RecordingFailed
from gateway.core.obligation import Record
from tests.unit.adapters.recordings.stage import AT, PATIENCE, keyring, nothing, session

said = Lock()


def say(line: str) -> None:
    with said:
        print(line, flush=True)


def write_for_ever(name: str, recording: SpoolRecording, *, wait_each: bool) -> None:
    n = 0
    try:
        while True:
            n += 1
            seq = recording.append("out", AT, f"{name} {n} ".encode() * (1 + n % 50))
            if wait_each:
                recording.wait_durable(seq, PATIENCE)
                say(f"{name} {seq}")
            elif n % 20 == 0:
                recording.on_durable(seq, lambda ok, seq=seq: say(f"{name} {seq}") if ok else None)  # type: ignore[misc]
    except RecordingFailed:
        count, digest = recording.digest()
        say(f"failed {name} {count} {digest}")


def main(directory: str, file_limit: str) -> None:
    if file_limit != "0":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then the write fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_limit), int(file_limit)))
    limits = SpoolLimits(segment_bytes=400_000 if file_limit == "0" else 1 << 30, append_timeout=timedelta(seconds=5))
    recorder = FileRecorder(Path(directory), "gw1", keyring(Path(directory)), limits=limits)
    threads = []
    for k in range(8):
        recording = recorder.open(session(f"ses_{k}"), Record.REQUIRE if k % 2 else Record.SPOOL, nothing)
        threads.append(Thread(target=write_for_ever, args=(f"ses_{k}", recording), kwargs={"wait_each": bool(k % 2)}))
    short = recorder.open(session("ses_short"), Record.SPOOL, nothing)
    count, digest = short.seal()
    say(f"sealed {count} {digest}")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
