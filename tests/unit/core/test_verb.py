import shlex
import string
import subprocess
import unicodedata
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from gateway.core.verb import BadVerbError, Bound, Parameter, Type, Verb, bind, is_undone_by, takes

VERSION = Parameter(Type.VERSION)
ANY = {
    Type.VERSION: VERSION,
    Type.IDENTIFIER: Parameter(Type.IDENTIFIER),
    Type.INTEGER: Parameter(Type.INTEGER, 1, 500),
    Type.CHOICE: Parameter(Type.CHOICE, choices=("blue", "green")),
    Type.GIT_SHA: Parameter(Type.GIT_SHA),
    Type.DIGEST: Parameter(Type.DIGEST),
    Type.TEXT: Parameter(Type.TEXT),
}
GOOD = {
    Type.VERSION: "v1.2.3-rc.1+build",
    Type.IDENTIFIER: "orders_worker",
    Type.INTEGER: "42",
    Type.CHOICE: "blue",
    Type.GIT_SHA: "0123456789abcdef0123456789abcdef01234567",
    Type.DIGEST: "sha256:" + "0a" * 32,
    Type.TEXT: "because we can",
}
HOSTILE = (
    "", " ", "1.2 3", "1;id", "1\n2", "1\n", "1\r", "1\0", "\t1", "-1", "--help", "-", "$(id)", "`id`", "${HOME}", "a&&b",
    "a|b", "a>b", "*", "?", "~root", "'", '"', "\\", "a'b", "{version}", "%s", "1\u2028", "1\u00a02", "\uff0drf", "\u2010rf",
    "\u2212rf", "\u0661", "\uff11", "\u0430dmin", "v1\u200b", "v1\u202e", "\ud800", "1\x7f", "1\x85", "v" * 65, "../../etc/passwd",
)  # fmt: skip


def verb_of(parameter: Parameter) -> Verb:
    return Verb("deploy", "app", ("/opt/app/deploy", "--to={value}", "{value}", "a b;c"), {"value": parameter})


def bound(parameter: Parameter, value: str) -> Bound | Refusal:
    return bind(verb_of(parameter), {"value": value})


@pytest.mark.parametrize("type_", Type)
def test_what_each_type_takes(type_: Type) -> None:
    made = bound(ANY[type_], GOOD[type_])
    assert isinstance(made, Bound)
    assert made.argv()[2] == GOOD[type_]
    assert takes(ANY[type_])


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("type_", [t for t in Type if t is not Type.TEXT])
def test_hostile_values_are_refused_by_every_type(type_: Type, value: str) -> None:
    refusal = bound(ANY[type_], value)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "parameter-invalid"
    if len(value) > 2:
        assert value not in refusal.sentence()  # what a stranger typed is not repeated


@given(st.sampled_from(Type), st.text(max_size=80))
def test_a_value_that_is_let_through_is_one_plain_word(type_: Type, value: str) -> None:
    made = bound(ANY[type_], value)
    if isinstance(made, Bound):
        assert value.isascii()
        assert value.isprintable()
        assert not value.startswith(("-", " "))
        assert unicodedata.normalize("NFKC", value) == value
        if type_ is not Type.TEXT:
            assert not set(value) & set(string.whitespace + "'\"\\$`;&|<>*?[](){}!#~%")


@given(st.from_regex(r"[!-,.-~][ -~]{0,60}", fullmatch=True))
def test_a_shell_sees_exactly_the_words(value: str) -> None:
    made = bound(ANY[Type.TEXT], value)
    assert isinstance(made, Bound)
    assert shlex.split(made.command_line()) == ["/opt/app/deploy", f"--to={value}", value, "a b;c"]


@pytest.mark.parametrize("value", ["$(id)", "`id`", "a;id", "'", '"; id; "', "\\", "* ?", "!x", "a&&id", "#x", "~"])
def test_a_real_shell_agrees(value: str) -> None:
    verb = Verb("deploy", "app", ("/usr/bin/printf", "%s|", "{value}", "end"), {"value": ANY[Type.TEXT]})
    made = bind(verb, {"value": value})
    assert isinstance(made, Bound)
    done = subprocess.run(["/bin/sh", "-c", made.command_line()], capture_output=True, text=True, check=True)
    assert done.stdout == f"{value}|end|"


@given(st.integers(-10, 10**12))
def test_integers_are_within_their_bounds(number: int) -> None:
    assert isinstance(bound(Parameter(Type.INTEGER, 3, 77), str(number)), Bound) == (3 <= number <= 77)


def test_only_what_is_declared_and_all_of_it() -> None:
    verb = Verb("deploy", "app", ("/x", "{a}{b}"), {"a": VERSION, "b": Parameter(Type.VERSION, default="1")})
    made = bind(verb, {"a": "2"})
    assert isinstance(made, Bound)
    assert made.argv() == ("/x", "21")
    assert isinstance(bind(verb, {}), Refusal)
    assert isinstance(bind(verb, {"a": "1", "c": "1"}), Refusal)
    chained = bind(verb, {"a": "1", "b": "1"})
    assert isinstance(chained, Bound)


def test_a_value_is_never_read_as_a_template_again() -> None:
    verb = Verb("deploy", "app", ("/x", "{a}", "{b}"), {"a": ANY[Type.TEXT], "b": VERSION})
    made = bind(verb, {"a": "{b}", "b": "1"})
    assert isinstance(made, Bound)
    assert made.argv() == ("/x", "{b}", "1")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "list"}, "name"),
        ({"name": "De ploy"}, "name"),
        ({"argv": ("deploy", "{v}")}, "absolute"),
        ({"argv": ("/{v}",)}, "absolute"),
        ({"argv": ("/x", "{v}", "{w}")}, "not declared"),
        ({"argv": ("/x",)}, "not used"),
        ({"argv": ("/x", "{v}", "}")}, "brace"),
        ({"argv": ("/x", "{v}", "a\nb")}, "shown"),
        ({"argv": ("/x", "{v}", "")}, "words"),
        ({"argv": ("/x", "{v}", *"a" * 70)}, "words"),
        ({"argv": ()}, "SQL"),
        ({"version": "nope"}, "no parameter"),
        ({"timeout": timedelta(hours=7)}, "timeout"),
        ({"timeout": timedelta(0)}, "timeout"),
        ({"output_limit": 0}, "output"),
        ({"input_limit": 2 * 1024 * 1024}, "input"),
        ({"parameters": {"v": Parameter(Type.INTEGER, 5, 4)}}, "min"),
        ({"parameters": {"v": Parameter(Type.CHOICE)}}, "choices"),
        ({"parameters": {"v": Parameter(Type.CHOICE, choices=("-x",))}}, "choices"),
        ({"parameters": {"v": Parameter(Type.VERSION, default="-x")}}, "default"),
        ({"parameters": {"V": VERSION}}, "name of a parameter"),
        ({"argv": ("/x", "{input}"), "parameters": {"input": VERSION}, "input_limit": 1024}, "called input"),
        ({"parameters": {"v": Parameter(Type.TEXT, longest=5000)}}, "max_length"),
    ],
)
def test_declarations_that_cannot_be_used(changes: dict[str, object], why: str) -> None:
    usable: dict[str, object] = {
        "name": "deploy",
        "account": "app",
        "argv": ("/x", "{v}"),
        "parameters": {"v": VERSION},
    }
    Verb(**usable)  # type: ignore[arg-type]
    with pytest.raises(BadVerbError, match=why):
        Verb(**{**usable, **changes})  # type: ignore[arg-type]


def test_rollbacks_are_known_by_name() -> None:
    back = Verb("rollback", "app", ("/x", "{v}"), {"v": VERSION}, version="v")
    there = Verb("deploy", "app", ("/x", "{v}"), {"v": VERSION}, version="v", rollback="rollback")
    assert is_undone_by([back, there], "rollback")
    assert not is_undone_by({"deploy": there}, "deploy")
