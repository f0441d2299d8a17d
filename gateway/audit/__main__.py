"""`python -m gateway.audit DIRECTORY --key VKEY`: verify an exported log with this folder and `cryptography` alone."""

import argparse
import sys
from pathlib import Path

from gateway.audit.checkpoint import parse_vkey
from gateway.audit.directory import fetch_from
from gateway.audit.verify import Kept, verify


def main() -> int:
    """0 verified, 1 not verified, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="gateway.audit", description="Verify an exported audit log.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--key", required=True, help="the log's verifier key, which you got by another way")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint that you kept from before")
    parser.add_argument("--receipt", type=Path, action="append", default=[], help="a receipt that you kept")
    options = parser.parse_args()
    try:
        key = parse_vkey(options.key)
        earlier = options.checkpoint.read_text() if options.checkpoint else ""
        kept = Kept(earlier, receipts=[path.read_text() for path in options.receipt])
        report = verify(fetch_from(options.directory), key, kept)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for finding in report.findings:
        sys.stdout.write(f"{finding.fault}: {finding.sentence}".encode("unicode_escape").decode() + "\n")
    if report.is_verified and report.checkpoint is not None:
        newest = f", the newest of {report.newest_at}" if report.newest_at else ""
        sys.stdout.write(f"verified: {report.checkpoint.size} events of {report.checkpoint.origin}{newest}\n")
    return 0 if report.is_verified else 1


if __name__ == "__main__":
    sys.exit(main())
