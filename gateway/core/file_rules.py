"""Which files a level lets through, by name and direction. Pure, and linear in the length of a name.

Rules
1. No rules at all let everything through. Otherwise the first rule that matches decides, and nothing matching is a no.
2. `*` and `?` stay within a component, `**` goes across any number of components, none included: `/var/log/**` is also
   `/var/log` itself. Everything else is literal.
3. Names are absolute and normalised by `resolve` before they are compared. What cannot be resolved matches nothing;
   a name with `..` cannot: behind a symbolic link it leads elsewhere than its text says (`/var/run/..` is `/`).
4. A rename, a link or a symbolic link may give nobody a right to content that its old name did not give (`may_alias`),
   not even below it: whoever may not read /etc/shadow may not read it as /tmp/etc/shadow either.
5. What the kernel makes lead anywhere (`/proc/PID/root`, `cwd`, `fd` and the like, `/dev/fd`) matches nothing, and
   nothing may be linked to `/proc`.

Rules are about names: any other symbolic link that stands on the target already is followed there. Names are text in
which octets that are not UTF-8 stand as surrogates (PEP 383).
"""

from collections.abc import Sequence
from functools import lru_cache

from gateway.core.target import FileRule

LONGEST_PATH = 4096  # PATH_MAX on Linux
DOWNLOAD, UPLOAD = "download", "upload"
DIRECTIONS = (DOWNLOAD, UPLOAD)
_ACROSS = "**"
_Pattern = tuple[str, ...]


def resolve(path: bytes, base: bytes | None) -> str | None:
    """An absolute name without `.` and doubled slashes; None when that cannot be said.

    `base` is where relative names start, as the target told it; None when it has not.
    """
    if b"\0" in path or len(path) > LONGEST_PATH:  # a server in C would see a shorter name than we do
        return None
    if not path.startswith(b"/"):
        if base is None or not base.startswith(b"/"):
            return None
        path = base + b"/" + path
    components: list[bytes] = []
    for component in path.split(b"/"):
        if component == b"..":
            return None
        if component not in (b"", b"."):
            components.append(component)
    return "/" + b"/".join(components).decode("utf-8", "surrogateescape")


def matching_rule(rules: Sequence[FileRule], direction: str, path: str) -> FileRule | None:
    """The first rule for that direction and absolute name; None is a no."""
    if _leads_anywhere(_components(path)):
        return None
    return next((rule for rule in rules if _applies(rule, direction) and _matches(rule.path, path)), None)


def allows(rules: Sequence[FileRule], direction: str, path: str | None) -> bool:
    """True when a file of that name (None: cannot be resolved) may be moved that way."""
    if not rules:
        return True
    if path is None:
        return False
    rule = matching_rule(rules, direction, path)
    return rule is not None and rule.allow


def allows_all(rules: Sequence[FileRule], direction: str) -> bool:
    """True when every file may be moved that way; False when in doubt."""
    return not rules or (allows(rules, direction, "/") and allows_all_below(rules, direction, "/"))


def allows_all_below(rules: Sequence[FileRule], direction: str, path: str) -> bool:
    """True when everything below a directory may be moved that way; False when in doubt."""
    for rule in rules:
        if _applies(rule, direction):
            if rule.allow and _covers_below(rule.path, path):
                return True
            if not rule.allow and _may_match_below(rule.path, path):
                return False
    return not rules


def allows_any_below(rules: Sequence[FileRule], direction: str, path: str) -> bool:
    """False when nothing below a directory may be moved that way; True when in doubt."""
    return not rules or any(
        rule.allow and _applies(rule, direction) and _may_match_below(rule.path, path) for rule in rules
    )


def denies_some_below(rules: Sequence[FileRule], direction: str, path: str) -> bool:
    """True when a rule says no to something that may be below a directory."""
    return any(not rule.allow and _applies(rule, direction) and _may_match_below(rule.path, path) for rule in rules)


def may_alias(rules: Sequence[FileRule], old: str | None, new: str | None) -> bool:
    """True when what `old` names may also be called `new`: rule 4."""
    if not rules:
        return True
    if old is None or new is None or _components(old)[:1] == ["proc"] or _components(old) == ["dev"]:
        return False
    return allows(rules, UPLOAD, new) and all(_gains_nothing(rules, direction, old, new) for direction in DIRECTIONS)


def may_rename(rules: Sequence[FileRule], old: str | None, new: str | None) -> bool:
    """True when `old` may be moved to `new`: an alias, and nothing is taken away that may not be changed."""
    if not rules:
        return True
    return (
        old is not None
        and may_alias(rules, old, new)
        and allows(rules, UPLOAD, old)
        and not denies_some_below(rules, UPLOAD, old)
    )


def _gains_nothing(rules: Sequence[FileRule], direction: str, old: str, new: str) -> bool:
    return (allows(rules, direction, old) or not allows(rules, direction, new)) and (
        allows_all_below(rules, direction, old) or not allows_any_below(rules, direction, new)
    )


def _leads_anywhere(components: Sequence[str]) -> bool:
    """proc(5): links that are followed without regard to their text."""
    match components:
        case ["proc", _, "root" | "cwd" | "exe" | "fd" | "map_files" | "task", *_]:
            return True
        case ["dev", "fd" | "stdin" | "stdout" | "stderr", *_]:
            return True
    return False


def _applies(rule: FileRule, direction: str) -> bool:
    return rule.direction in (direction, "both")


# ---------------------------------------------------------------- globs


def _matches(glob: str, path: str) -> bool:
    components = _components(path)
    return any(len(pattern) in _reached(pattern, components) for pattern in _patterns(glob))


def _may_match_below(glob: str, path: str) -> bool:
    """True when the glob matches some name below the path: any pattern that is not used up does."""
    components = _components(path)
    return any(min(_reached(pattern, components), default=len(pattern)) < len(pattern) for pattern in _patterns(glob))


def _covers_below(glob: str, path: str) -> bool:
    components = _components(path)
    return any(
        pattern[-1:] == (_ACROSS,) and len(pattern) - 1 in _reached(pattern, components) for pattern in _patterns(glob)
    )


def _components(path: str) -> list[str]:
    return [component for component in path.split("/") if component]


@lru_cache(maxsize=1024)
def _patterns(glob: str) -> tuple[_Pattern, ...]:
    """A glob's components; several when `**` stands inside a component, where it may or may not cross a slash."""
    patterns: list[_Pattern] = [()]
    for component in _components(glob):
        ways: tuple[_Pattern, ...] = ((component,),)
        if _ACROSS in component and component != _ACROSS:
            before, _, after = component.partition(_ACROSS)
            after = after.replace(_ACROSS, "*")
            ways = ((f"{before}*{after}",), (f"{before}*", _ACROSS, f"*{after}"))
        patterns = [pattern + way for pattern in patterns for way in ways]
    return tuple(patterns)


def _reached(pattern: _Pattern, components: Sequence[str]) -> frozenset[int]:
    """The places in a pattern where one can stand after these components; its length is the end."""
    places = _with_empty(pattern, {0})
    for component in components:
        onward = set()
        for place in places:
            if place < len(pattern):
                if pattern[place] == _ACROSS:
                    onward.add(place)
                elif _matches_component(pattern[place], component):
                    onward.add(place + 1)
        places = _with_empty(pattern, onward)
        if not places:
            break
    return frozenset(places)


def _with_empty(pattern: _Pattern, places: set[int]) -> set[int]:
    """Those places, and the ones behind a `**` that matches nothing."""
    for place in list(places):
        while place < len(pattern) and pattern[place] == _ACROSS:
            place += 1  # noqa: PLW2901 - walks on from where the set's place is
            places.add(place)
    return places


def _matches_component(glob: str, text: str) -> bool:
    """`*` and `?` against one component: going back to the last star only, so never exponential."""
    at = in_glob = 0
    star, resume = -1, 0
    while at < len(text):
        wanted = glob[in_glob] if in_glob < len(glob) else ""
        if wanted == "*":
            star, resume = in_glob, at
            in_glob += 1
        elif wanted in ("?", text[at]):
            at, in_glob = at + 1, in_glob + 1
        elif star >= 0:
            resume += 1
            at, in_glob = resume, star + 1
        else:
            return False
    return all(c == "*" for c in glob[in_glob:])
