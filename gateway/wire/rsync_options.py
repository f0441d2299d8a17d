"""What rsync's server was started with, as far as it says how the sender's octets are to be read."""

import re
from dataclasses import dataclass

# One letter each, which change nothing in what the sender sends.
_INDIFFERENT = frozenset("vqbudrRLkKWpStxIEOJyhiH")
_LETTERS = {
    "o": ("owners",), "g": ("groups",), "D": ("devices", "specials"), "l": ("links",), "c": ("checksums",),
    "U": ("atimes",), "N": ("crtimes",), "n": ("is_dry",), "z": ("compresses",), "m": ("receiver_filters",),
}  # fmt: skip
_LONG_INDIFFERENT = frozenset({
    "server", "sender", "partial", "inplace", "stats", "existing", "ignore-existing", "ignore-errors", "force",
    "size-only", "delete", "delete-before", "delete-during", "delete-after", "delete-delay", "delete-excluded",
    "delay-updates", "remove-source-files", "fsync", "safe-links", "munge-links", "no-implied-dirs", "mkpath",
    "numeric-ids", "append", "append-verify", "specials", "no-specials", "whole-file", "no-whole-file", "super",
    "preallocate", "open-noatime", "no-msgs2stderr", "old-args", "no-r", "omit-link-times", "fuzzy", "from0",
    "new-compress", "old-compress",
})  # fmt: skip
_LONG_WITH_VALUE = re.compile(
    r"--(timeout|bwlimit|max-size|min-size|max-alloc|modify-window|compress-level|skip-compress|checksum-seed|info|debug"
    r"|log-format|out-format|partial-dir|temp-dir|backup-dir|suffix|stop-at|max-delete|files-from|compress-choice|checksum-choice"
    r"|compare-dest|copy-dest|link-dest|chmod)=.*",
    re.DOTALL,
)
_LONG_WITH_WORD = frozenset(
    {"--partial-dir", "--temp-dir", "--backup-dir", "--suffix", "--compare-dest", "--copy-dest"}
)
_BLOCK_SIZE = re.compile(r"-B[0-9]{1,10}|-[f]?@-?[0-9]{1,10}")


class UnknownOptionError(Exception):
    """An option of which nobody here knows what it changes."""


@dataclass(slots=True)
class Options:
    """Of `rsync --server`."""

    owners: bool = False
    groups: bool = False
    devices: bool = False
    specials: bool = False
    links: bool = False
    checksums: bool = False
    atimes: bool = False
    crtimes: bool = False
    numeric_ids: bool = False
    is_dry: bool = False
    appends: bool = False
    compresses: bool = False
    compression: str = ""  # where the client chose it
    checksum: str = ""  # likewise: one for files, or that and, behind a comma, another for the list
    receiver_filters: bool = False  # the sending client tells its filters, for the receiver deletes or prunes


def options_of(arguments: tuple[str, ...]) -> Options:
    """UnknownOptionError unless each is known."""
    found = Options()
    words = iter(arguments)
    for word in words:
        if word in (".", "--") or not word.startswith("-"):  # the operands
            break
        if word in _LONG_WITH_WORD:
            next(words, "")
        elif word.startswith("--"):
            _long(found, word)
        elif not _BLOCK_SIZE.fullmatch(word):
            _letters(found, word[1:])
    return found


def _letters(found: Options, letters: str) -> None:
    for letter in letters:
        if letter == "e":  # what the client can do stands behind it, up to the end
            return
        if letter not in _LETTERS and letter not in _INDIFFERENT:
            raise UnknownOptionError(f"the option -{letter}")
        for name in _LETTERS.get(letter, ()):
            setattr(found, name, True)


def _long(found: Options, word: str) -> None:
    name, _, value = word[2:].partition("=")
    if name not in _LONG_INDIFFERENT and not _LONG_WITH_VALUE.fullmatch(word):
        raise UnknownOptionError(f"the option --{name[:40]}")
    match name:
        case "numeric-ids":
            found.numeric_ids = True
        case "append" | "append-verify":
            found.appends = True
        case "specials":
            found.specials = True
        case "no-specials":
            found.specials = False
        case "new-compress" | "old-compress":
            found.compresses, found.compression = True, "zlibx" if name == "new-compress" else "zlib"
        case "compress-choice":
            found.compresses, found.compression = True, value
        case "checksum-choice":
            found.checksum = value
        case _ if name.startswith("delete"):
            found.receiver_filters = True
