"""What rsync's server was started with, as far as it says how the sender's octets are to be read."""

import re
from dataclasses import dataclass

# One letter each, which change nothing in what the sender sends.
_INDIFFERENT = frozenset("vqbudrRLkKWpStxIEOJyhiHC")
_LETTERS = {
    "o": ("owners",), "g": ("groups",), "D": ("devices", "specials"), "l": ("links",), "c": ("checksums",),
    "U": ("atimes",), "N": ("crtimes",), "n": ("is_dry",), "z": ("compresses",), "m": ("receiver_filters",),
}  # fmt: skip
_LONG_INDIFFERENT = frozenset({
    "server", "sender", "partial", "inplace", "stats", "existing", "ignore-existing", "ignore-errors", "force",
    "size-only", "delete", "delete-before", "delete-during", "delete-after", "delete-delay", "delete-excluded",
    "delay-updates", "remove-source-files", "fsync", "safe-links", "munge-links", "no-implied-dirs", "mkpath",
    "numeric-ids", "append", "append-verify", "specials", "no-specials", "whole-file", "no-whole-file", "super",
    "preallocate", "open-noatime", "msgs2stderr", "no-msgs2stderr", "old-args", "no-r", "fuzzy", "from0",
    "omit-link-times", "new-compress", "old-compress", "no-relative", "no-W", "copy-unsafe-links",
    "ignore-missing-args",
})  # fmt: skip
_LONG_WITH_VALUE = re.compile(
    r"--(timeout|bwlimit|max-size|min-size|max-alloc|modify-window|compress-level|skip-compress|checksum-seed|info|debug"
    r"|log-format|out-format|partial-dir|temp-dir|backup-dir|suffix|stop-at|max-delete|files-from|compress-choice|checksum-choice"
    r"|compare-dest|copy-dest|link-dest|chmod|usermap|groupmap)=.*",
    re.DOTALL,
)
_LONG_WITH_WORD = frozenset(
    {"--partial-dir", "--temp-dir", "--backup-dir", "--suffix", "--compare-dest", "--copy-dest", "--link-dest"}
)
_COMPRESSIONS = frozenset({"zlib", "zlibx", "zstd", "lz4", "none"})
_LEVEL = re.compile(r"-?[1-9][0-9]{0,4}")  # 0 means, to one compression, that it is none
_BLOCK_SIZE = re.compile(r"-B[0-9]{1,10}|-@-?[0-9]{1,10}")


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
    for word in words:  # popt looks for options behind operands, too
        if word == "--":
            break
        if not word.startswith("-"):
            if word.startswith(("*", "?", "[")):
                raise UnknownOptionError("a name that the shell may make an option of")
        elif word in _LONG_WITH_WORD:
            next(words, "")
        elif word.startswith("--"):
            _long(found, word)
        elif not _BLOCK_SIZE.fullmatch(word):
            _letters(found, word[1:])
    return found


def _letters(found: Options, letters: str) -> None:
    for at, letter in enumerate(letters, 1):
        if letter == "e":  # what the client can do stands behind it, up to the end
            can = letters[at:]
            if not can or "V" in can:  # the next word, or a version between two
                raise UnknownOptionError(f"the option -e{can[:40]}")
            return
        if (letter not in _LETTERS and letter not in _INDIFFERENT) or (letter == "z" and found.compresses):
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
        case "checksum-choice":
            found.checksum = value
        case "new-compress" | "old-compress" | "compress-choice" | "compress-level":
            _compression(found, name, value)
        case _ if name.startswith("delete"):
            found.receiver_filters = True


def _compression(found: Options, name: str, value: str) -> None:
    found.compresses = True
    if name.endswith("-compress"):
        found.compression = "zlibx" if name == "new-compress" else "zlib"
    elif name == "compress-choice" and value in _COMPRESSIONS:
        found.compression = value
    elif name == "compress-choice" or not _LEVEL.fullmatch(value):
        raise UnknownOptionError(f"the option --{name}={value[:40]}")
