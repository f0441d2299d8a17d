import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.file_rules import (
    DIRECTIONS,
    allows,
    allows_all,
    allows_all_below,
    allows_any_below,
    matching_rule,
    may_alias,
    may_rename,
    resolve,
)
from gateway.core.target import FileRule

LOGS = (FileRule(True, "/var/log/**", "download"), FileRule(True, "/in/*.csv", "upload"))
NO_SHADOW = (FileRule(False, "/etc/shadow*"), FileRule(True, "/**"))

# Few letters, so that names and globs meet.
components = st.text("ab", min_size=1, max_size=3)
paths = st.lists(components, max_size=4).map(lambda parts: "/" + "/".join(parts))
globs = st.lists(st.one_of(st.text("ab*?", min_size=1, max_size=3), st.just("**")), max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)
rules = st.lists(st.builds(FileRule, st.booleans(), globs, st.sampled_from(["both", *DIRECTIONS])), max_size=4)


@pytest.mark.parametrize(
    ("path", "base", "name"),
    [
        (b"/a/./b//c/", None, "/a/b/c"),
        (b"/a/../../b", None, None),
        (b"/..a/b../...", None, "/..a/b../..."),
        (b"x", b"/home/me", "/home/me/x"),
        (b"../you/x", b"/home/me", None),
        (b"", b"/home/me", "/home/me"),
        (b"x", None, None),
        (b"x", b"home", None),
        (b"/a\0/b", None, None),
        (b"/" + b"a" * 5000, None, None),
        (b"/\xff\n\x1b[2J", None, "/\udcff\n\x1b[2J"),
    ],
)
def test_names_are_resolved(path: bytes, base: bytes | None, name: str | None) -> None:
    assert resolve(path, base) == name


@given(st.binary(max_size=200), st.one_of(st.none(), st.binary(max_size=50)))
def test_any_octets_resolve_to_a_normal_name_or_to_none(path: bytes, base: bytes | None) -> None:
    name = resolve(path, base)
    if name is not None:
        assert name.startswith("/")
        assert not {"", ".", ".."} & set(name.split("/")[1:]) or name == "/"
        assert resolve(name.encode("utf-8", "surrogateescape"), None) == name


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("/var/log/**", "/var/log", True),
        ("/var/log/**", "/var/log/a/b", True),
        ("/var/log/**", "/var/logs", False),
        ("/var/log/*", "/var/log/a/b", False),
        ("/**/x", "/x", True),
        ("/**/x", "/a/b/x", True),
        ("/etc/shadow**", "/etc/shadow.d/x", True),
        ("/a**z", "/a/b/cz", True),
        ("/a?c", "/a/c", False),
        ("/[ab]", "/a", False),
        ("/**", "/", True),
        ("/a.c", "/abc", False),
        ("/*", "/new\nline", True),
    ],
)
def test_globs(glob: str, path: str, matches: bool) -> None:
    assert allows([FileRule(True, glob)], "upload", path) is matches


@given(globs, paths)
def test_globs_agree_with_regular_expressions(glob: str, path: str) -> None:
    """The plain, exponential way to say the same, for short names."""
    said = ""
    for part in glob.split("/")[1:]:
        if part == "**":
            said += "(/[^/]+)*"
        elif part:
            inner = re.sub(r"\*+", "*", part) if "**" not in part else part
            said += "/" + "".join({"*": "[^/]*", "?": "[^/]"}.get(c, c) for c in inner)
    if "**" in re.sub(r"(?<=/)\*\*(?=/|$)", "", glob):
        return  # inside a component: tested above
    assert allows([FileRule(True, glob)], "upload", path) is bool(re.fullmatch(said, "" if path == "/" else path))


def test_a_hostile_name_costs_little() -> None:
    glob = "/" + "*a" * 30 + "b"
    assert not allows([FileRule(True, glob)], "upload", "/" + "a" * 4000)
    assert not allows([FileRule(True, "/**/a" * 10 + "/b")], "upload", "/a" * 2000)


def test_the_first_rule_decides_and_none_is_a_no() -> None:
    assert allows(NO_SHADOW, "download", "/etc/passwd")
    assert not allows(NO_SHADOW, "download", "/etc/shadow-")
    assert not allows(LOGS, "upload", "/var/log/a")
    assert allows(LOGS, "download", "/var/log/a")
    assert not allows(LOGS, "download", "/etc/passwd")
    assert not allows(LOGS, "download", None)
    assert matching_rule(NO_SHADOW, "upload", "/etc/shadow") == NO_SHADOW[0]
    assert allows((), "download", None)


def test_renames_and_links_give_no_new_rights() -> None:
    assert not may_rename(NO_SHADOW, "/etc/shadow", "/tmp/x")
    assert not may_rename(NO_SHADOW, "/etc", "/tmp/etc")
    assert not may_alias(NO_SHADOW, "/etc", "/tmp/etc")
    assert not may_alias(NO_SHADOW, "/", "/tmp/all")
    assert may_rename(NO_SHADOW, "/tmp/a", "/tmp/b")
    assert may_rename(LOGS, "/in/x.csv", "/in/y.csv")
    assert not may_rename(LOGS, "/in/x.csv", "/in/y.exe")
    assert not may_rename(LOGS, "/in/x.csv", "/var/log/y.csv")
    assert not may_rename(NO_SHADOW, None, "/x")
    assert may_rename((), None, None)
    kept = (FileRule(False, "/d/keep"), FileRule(True, "/d/**"), FileRule(True, "/x"))
    assert not may_rename(kept, "/d", "/x")  # takes away what may not be changed


@given(rules, paths, paths, st.lists(components, max_size=3))
def test_an_alias_never_gives_what_the_name_did_not(
    known: list[FileRule], old: str, new: str, below: list[str]
) -> None:
    if known and may_alias(known, old, new):
        tail = "".join(f"/{part}" for part in below)
        for direction in DIRECTIONS:
            if allows(known, direction, (new.rstrip("/") + tail) or "/"):
                assert allows(known, direction, (old.rstrip("/") + tail) or "/")


@given(rules, paths, st.lists(components, min_size=1, max_size=3), st.sampled_from(DIRECTIONS))
def test_what_is_said_about_everything_below_holds_for_each(
    known: list[FileRule], path: str, below: list[str], direction: str
) -> None:
    name = path.rstrip("/") + "/" + "/".join(below)
    if allows_all_below(known, direction, path) or allows_all(known, direction):
        assert allows(known, direction, name)
    if not allows_any_below(known, direction, path):
        assert not allows(known, direction, name)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/root/etc/shadow", "/proc/1/root", "/proc/thread-self/cwd/x", "/proc/self/fd/3", "/proc/self/task/7/root/x",
        "/proc/self/exe", "/proc/self/map_files/0-1", "/dev/fd/3", "/dev/stdin",
    ],
)  # fmt: skip
def test_links_of_the_kernels_that_lead_anywhere_match_nothing(path: str) -> None:
    for direction in DIRECTIONS:
        assert not allows(NO_SHADOW, direction, path)
    assert not may_alias(NO_SHADOW, path, "/tmp/x")


def test_nothing_is_linked_to_where_those_are() -> None:
    for path in ("/proc", "/proc/self", "/proc/1", "/dev"):
        assert not may_alias(NO_SHADOW, path, "/tmp/x")
    assert may_alias(NO_SHADOW, "/dev/null", "/etc/systemd/system/x.service")
    assert allows(NO_SHADOW, "download", "/proc/self/status")
    assert allows(NO_SHADOW, "download", "/proc/cpuinfo")
    assert allows(NO_SHADOW, "download", "/home/proc/x/root/y")
