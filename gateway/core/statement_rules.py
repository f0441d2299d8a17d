"""Rules of a level about statements, on what their parse tree shows.

A seat belt: the boundary is the role's privileges. Whoever may call functions, or make them, can do inside one what
these rules do not see.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gateway.core.client_encoding import depends_on_encoding, may_change_encoding
from gateway.core.statement_facts import StatementFacts, StatementKind

# With standard_conforming_strings off, which a session may set, a string goes on behind \' where the grammar that is
# asked here ends it: no text is judged that the two would cut up differently.
_AMBIGUOUS = re.compile(rb"(?<!\\)(?:\\\\)*\\'")


@dataclass(frozen=True, slots=True)
class StatementRules:
    """Nothing is refused by default. `unparsed`: what cannot be judged passes all the same."""

    require_where: bool = False
    deny_ddl: bool = False
    deny_copy_files: bool = False
    deny_functions: tuple[str, ...] = ()
    forward_unparsed: bool = False

    def is_set(self) -> bool:
        """True when there is a rule that could refuse something."""
        return self.require_where or self.deny_ddl or self.deny_copy_files or bool(self.deny_functions)


@dataclass(frozen=True, slots=True)
class Broken:
    """Which rule, in a word for machines, a sentence and what to do instead."""

    rule: str
    sentence: str
    hint: str


def judge(
    rules: StatementRules,
    facts: StatementFacts,
    sql: bytes,
    *,
    is_masked: bool = False,
    is_dry_run: bool = False,
    is_behind: bool = False,
) -> Broken | None:
    """The first rule that a text breaks; None lets it pass. Of several statements in a text every one counts.

    `is_masked`, `is_dry_run`: the level has masks, or a dry-run, which judge the same text. `is_behind`: something that
    runs before it is not answered, and no rule sees into a function that sets the client's encoding.
    """
    if (is_masked or is_dry_run or rules.is_set()) and may_change_encoding(sql, facts.settings, facts.functions):
        return Broken(
            "client-encoding",
            "The encoding of the session stays UTF8 (or SQL_ASCII): in others the rules would read another text.",
            "Convert on your side. set_config takes a constant name here.",
        )
    is_strict = is_masked or (not rules.forward_unparsed and (rules.is_set() or not is_dry_run))
    if is_strict or is_dry_run:
        opaque = _opaque(facts, sql, may_do=not is_strict)
        if opaque:
            return opaque
        if is_behind and depends_on_encoding(sql):
            return Broken(
                "client-encoding",
                "What was sent before it is not answered yet, and in another encoding this text would be another one.",
                "Send it once the answer is there, or put what is not ASCII into a parameter.",
            )
    if rules.require_where and facts.unbounded:
        what = facts.unbounded[0]
        if what == "TRUNCATE":
            return Broken("require-where", "TRUNCATE empties a table, which is refused here.", "DELETE … WHERE.")
        return Broken(
            "require-where",
            f"{what} without a condition on a column would change every row.",
            "Say which ones (WHERE, ON).",
        )
    if rules.deny_ddl and facts.kind in (StatementKind.DDL, StatementKind.PRIVILEGE):
        return Broken("deny-ddl", "Definitions and privileges are not changed at this level.", "Ask for another level.")
    if rules.deny_copy_files and facts.copies:
        return Broken(
            "deny-copy-files",
            f"{facts.copies[0]} reads or writes on the database's own host.",
            "COPY … FROM STDIN or TO STDOUT, or \\copy in psql.",
        )
    denied = sorted(name for name in facts.functions if any(fnmatchcase(name, p) for p in rules.deny_functions))
    if denied:
        why = f"The function {denied[0][:63]} is not called at this level."
        return Broken("deny-functions", why, "Ask for a level that allows it.")
    return None


def _opaque(facts: StatementFacts, sql: bytes, *, may_do: bool) -> Broken | None:
    if _AMBIGUOUS.search(sql):
        return Broken(
            "unparsed",
            "A backslash before a quote means one thing or another, depending on a setting.",
            "Write '' for a quote inside a string, or use a parameter.",
        )
    if "DO" in facts.opaque and not may_do:
        return Broken("unparsed", "What a DO block does cannot be judged.", "Send its statements one by one.")
    if facts.count == 0 and facts.kind is StatementKind.UNKNOWN:
        return Broken(
            "unparsed",
            "The statement cannot be judged: it does not parse, or is too long.",
            "Correct it; send data as parameters or with COPY … FROM STDIN.",
        )
    return None
