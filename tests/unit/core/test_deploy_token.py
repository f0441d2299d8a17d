"""Deploy tokens: what holds, what narrows, what never widens."""

import base64
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.deploy_token import (
    LONGEST_TOKEN,
    LONGEST_VALUE,
    MOST_CAVEATS,
    MOST_VALUES,
    PREFIX,
    Caveat,
    Right,
    Tag,
    VerifiedDeployToken,
    attenuate,
    mint,
    parameters_digest,
    verify,
)
from gateway.core.errors import Refusal
from gateway.core.principal import Workload
from tests.unit.core.values import HOUR, T0, TICK

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
WORKLOAD = Workload(
    "workload/web-production/65/1296269", "acme/web", "web-production", "https://token.actions.githubusercontent.com",
    "repo:acme/web:environment:production", "acme/web", "refs/heads/main", "c0ffee", "github/987/1", "production", "ada",
)  # fmt: skip
RIGHTS = frozenset({Right("web-1", "deploy"), Right("web-2", "deploy"), Right("web-1", "rollback")})
END = T0 + HOUR


def minted(**changes: object) -> str:
    given: dict[str, object] = {
        "id": "dtk_1",
        "workload": WORKLOAD,
        "rights": RIGHTS,
        "issued_at": T0,
        "not_after": END,
        "terms": "as agreed",
    }
    return mint(KEY, **{**given, **changes})


TOKEN = minted()


def verified(text: str, at=T0) -> VerifiedDeployToken:
    token = verify((KEY,), text, at)
    assert isinstance(token, VerifiedDeployToken), token
    return token


def refused(text: str, at=T0) -> str:
    no = verify((KEY,), text, at)
    assert isinstance(no, Refusal)
    return no.code


def narrowed(tag: Tag, *values: str, text: str = TOKEN) -> str:
    return attenuate(text, Caveat(tag, frozenset(values)))


def b64(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_what_was_minted_is_what_is_read():
    assert verified(TOKEN) == VerifiedDeployToken("dtk_1", WORKLOAD, RIGHTS, None, T0, END, "as agreed")


def test_it_ends_on_the_instant():
    assert verified(TOKEN, END - TICK)
    assert refused(TOKEN, END) == "token-over"


def test_an_older_key_still_verifies_and_another_one_does_not():
    assert isinstance(verify((OTHER_KEY, KEY), TOKEN, T0), VerifiedDeployToken)
    assert isinstance(verify((OTHER_KEY,), TOKEN, T0), Refusal)
    assert isinstance(verify((), TOKEN, T0), Refusal)


def test_a_right_is_a_verb_on_a_target_and_not_each_with_any():
    token = verified(TOKEN)
    assert token.refusal("web-1", "rollback", "") is None
    no = token.refusal("web-2", "rollback", "")
    assert no is not None
    assert no.code == "token-not-for-this"
    assert "deploy on web-1" in no.message
    assert "web-production" in no.next_steps[0]


def test_a_holder_narrows_without_a_key():
    token = verified(narrowed(Tag.VERB, "deploy", text=narrowed(Tag.TARGET, "web-2", "db-9")))
    assert token.rights == {Right("web-2", "deploy")}


def test_several_caveats_of_one_tag_intersect():
    text = narrowed(Tag.TARGET, "web-2", text=narrowed(Tag.TARGET, "web-1"))
    assert refused(text) == "token-narrowed-away"


def test_parameters_can_be_pinned():
    digest = parameters_digest("deploy", {"version": "1.2"})
    token = verified(narrowed(Tag.PARAMETERS, digest))
    assert token.refusal("web-1", "deploy", digest) is None
    no = token.refusal("web-1", "deploy", parameters_digest("deploy", {"version": "1.3"}))
    assert no is not None
    assert refused(narrowed(Tag.PARAMETERS, "0" * 64, text=narrowed(Tag.PARAMETERS, digest))) == "token-narrowed-away"


def test_the_digest_of_parameters_is_of_verb_names_and_values():
    assert parameters_digest("deploy", {"a": "1", "b": "2"}) == parameters_digest("deploy", {"b": "2", "a": "1"})
    others = [("rollback", {"a": "1"}), ("deploy", {"a": "2"}), ("deploy", {"b": "1"}), ("deploy", {"a": "1", "b": ""})]
    digests = {parameters_digest(verb, given) for verb, given in others} | {parameters_digest("deploy", {"a": "1"})}
    assert len(digests) == 5


def test_the_end_can_only_come_nearer():
    nearer = narrowed(Tag.NOT_AFTER, str(int((T0 + HOUR / 2).timestamp())))
    assert verified(nearer).not_after == T0 + HOUR / 2
    assert refused(nearer, T0 + HOUR / 2) == "token-over"
    assert verified(narrowed(Tag.NOT_AFTER, "999999999999")).not_after == END


@pytest.mark.parametrize("tag", [Tag.REPOSITORY, Tag.REF, Tag.COMMIT, Tag.RUN, Tag.ENVIRONMENT])
def test_a_fact_can_be_repeated_and_not_changed(tag: Tag):
    assert verified(narrowed(tag, getattr(WORKLOAD, tag.value))).workload == WORKLOAD
    assert refused(narrowed(tag, "another")) == "token-narrowed-away"


def test_a_fact_that_is_absent_cannot_be_added():
    bare = minted(workload=replace(WORKLOAD, environment=""))
    assert refused(narrowed(Tag.ENVIRONMENT, "production", text=bare)) == "token-narrowed-away"


# ---------------------------------------------------------------- tampering

NARROW = narrowed(Tag.VERB, "deploy", text=narrowed(Tag.TARGET, "web-1"))


@pytest.mark.parametrize(
    "parts",
    [
        lambda header, one, two, tag: [header, tag],
        lambda header, one, two, tag: [header, one, tag],
        lambda header, one, two, tag: [header, two, tag],
        lambda header, one, two, tag: [header, two, one, tag],
        lambda header, one, two, tag: [header, one, one, two, tag],
        lambda header, one, two, tag: [one, two, header, tag],
        lambda header, one, two, tag: [one, two, tag],
        lambda header, one, two, tag: [header, one, two, "A" * 43],
    ],
)
def test_removed_reordered_or_repeated_caveats_fail(parts):
    assert verified(NARROW)
    assert refused(PREFIX + ".".join(parts(*NARROW.removeprefix(PREFIX).split(".")))) == "token-invalid"


@given(st.data())
def test_no_character_can_be_changed(data: st.DataObject):
    at = data.draw(st.integers(len(PREFIX), len(NARROW) - 1))
    other = data.draw(st.characters().filter(lambda c: c != NARROW[at]))
    assert refused(NARROW[:at] + other + NARROW[at + 1 :]) == "token-invalid"


@given(st.integers(0, len(NARROW) - 1))
def test_no_part_of_it_is_a_token(length: int):
    assert refused(NARROW[:length]) == "token-invalid"


@pytest.mark.parametrize(
    "said",
    [
        ["colour", "red"],
        ["target"],
        ["target", 1],
        ["target", ["web-1"]],
        ["target", "web-2", "web-1"],
        ["target", "web-1", "web-1"],
        ["target", ""],
        ["target", "a\nb"],
        ["target", "x" * (LONGEST_VALUE + 1)],
        ["target", *(f"{n:03}" for n in range(MOST_VALUES + 1))],
        ["not_after", "1", "2"],
        ["not_after", "soon"],
        ["not_after", "01"],
        ["not_after", "\u0661"],
        ["not_after", "-1"],
        [],
        {},
        "target",
        7,
        b'["target", "web-1"]',
        b'["target","web-1"] ',
        b'["target","\\u0077eb-1"]',
        b'["target","\\ud800"]',
        b"\xff",
        b"[" * 3000,
        b"[" + b"9" * 5000 + b"]",
        b"{",
    ],
)
def test_what_is_not_understood_is_a_no(said: object):
    """The chain holds: its holder may add anything. It must never count as no restriction at all."""
    part = b64(said)
    *content, tag = TOKEN.removeprefix(PREFIX).split(".")
    link = base64.urlsafe_b64decode(tag + "=")
    from gateway.core.deploy_token import _link

    text = f"{PREFIX}{'.'.join(content)}.{part}.{b64(_link(link, part))}"
    assert len(text) <= LONGEST_TOKEN
    assert refused(text) == "token-caveat-unknown"


def test_base64_has_one_form_too():
    """The last character of a part may carry bits that no decoder looks at."""
    from gateway.core.deploy_token import _link

    *content, tag = TOKEN.removeprefix(PREFIX).split(".")
    part = b64(["verb", "deploy"])
    assert len(part) % 4  # has loose bits
    loose = part[:-1] + chr(ord(part[-1]) + 1)
    link = _link(base64.urlsafe_b64decode(tag + "="), loose)
    assert refused(f"{PREFIX}{content[0]}.{loose}.{b64(link)}") == "token-caveat-unknown"


@given(st.text())
def test_any_text_is_a_no_and_no_crash(text: str):
    assert refused(text) == "token-invalid"
    assert refused(PREFIX + text) == "token-invalid"


def test_it_is_bounded():
    assert refused(PREFIX + "A" * LONGEST_TOKEN) == "token-invalid"
    text = TOKEN
    for _ in range(MOST_CAVEATS):
        text = narrowed(Tag.VERB, "deploy", text=text)
    assert verified(text)
    with pytest.raises(ValueError, match="at most"):
        narrowed(Tag.VERB, "deploy", text=text)
    with pytest.raises(ValueError, match="characters"):
        narrowed(Tag.TARGET, *(f"{n:0500}" for n in range(MOST_VALUES)))
    with pytest.raises(ValueError, match="fewer targets"):
        minted(rights=[Right(f"target-{n:060}", "deploy") for n in range(200)])


def test_what_cannot_be_made():
    with pytest.raises(ValueError, match="not a deploy token"):
        attenuate("gwc_abc", Caveat(Tag.VERB, frozenset({"deploy"})))
    with pytest.raises(ValueError, match="without rights"):
        minted(rights=[])
    with pytest.raises(ValueError, match="32 bytes"):
        mint(b"short", id="dtk_1", workload=WORKLOAD, rights=RIGHTS, issued_at=T0, not_after=END, terms="")
    with pytest.raises(ValueError, match="between 1 and"):
        Caveat(Tag.TARGET, frozenset())


# ---------------------------------------------------------------- never wider

_names = st.sampled_from(["web-1", "web-2", "web-3"])
_verbs = st.sampled_from(["deploy", "rollback", "migrate"])
_some = st.one_of(
    st.tuples(st.just(Tag.TARGET), st.frozensets(_names, min_size=1)),
    st.tuples(st.just(Tag.VERB), st.frozensets(_verbs, min_size=1)),
    st.tuples(st.just(Tag.PARAMETERS), st.frozensets(st.sampled_from(["d1", "d2"]), min_size=1)),
    st.tuples(
        st.just(Tag.NOT_AFTER), st.integers(-7200, 7200).map(lambda s: frozenset({str(int(T0.timestamp()) + s)}))
    ),
    st.tuples(st.just(Tag.REF), st.frozensets(st.sampled_from(["refs/heads/main", "refs/heads/x"]), min_size=1)),
    st.tuples(st.just(Tag.RUN), st.frozensets(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=1)),
)
_caveats = st.lists(_some.map(lambda given: Caveat(*given)), max_size=6)
_rights = st.frozensets(st.builds(Right, _names, _verbs), min_size=1)


@given(_rights, _caveats, _some)
def test_a_caveat_never_widens(rights: frozenset[Right], before: list[Caveat], added: tuple[Tag, frozenset[str]]):
    text = minted(rights=rights, caveats=before)
    wide = verify((KEY,), text, T0)
    narrow = verify((KEY,), attenuate(text, Caveat(*added)), T0)
    if isinstance(wide, Refusal):
        assert isinstance(narrow, Refusal)
    elif not isinstance(narrow, Refusal):
        assert narrow.rights <= wide.rights
        assert narrow.not_after <= wide.not_after
        assert wide.parameters is None or (narrow.parameters is not None and narrow.parameters <= wide.parameters)
        assert narrow.workload == wide.workload == WORKLOAD


@given(_rights, _caveats, st.randoms())
def test_the_order_in_which_caveats_were_added_changes_nothing(rights: frozenset[Right], caveats: list[Caveat], random):
    shuffled = caveats.copy()
    random.shuffle(shuffled)
    one, two = (verify((KEY,), minted(rights=rights, caveats=order), T0) for order in (caveats, shuffled))
    assert (one == two) or (isinstance(one, Refusal) and isinstance(two, Refusal))


@given(_rights, _caveats)
def test_a_right_is_left_exactly_when_every_caveat_allows_it(rights: frozenset[Right], caveats: list[Caveat]):
    token = verify((KEY,), minted(rights=rights, caveats=caveats), T0)
    for right in rights:
        fits = all(
            right.target in c.values if c.tag is Tag.TARGET else right.verb in c.values
            for c in caveats if c.tag in (Tag.TARGET, Tag.VERB)
        )  # fmt: skip
        if not isinstance(token, Refusal):
            assert (right in token.rights) is fits


def test_secrets_stay_out_of_the_repr():
    assert repr(verified(TOKEN)).find(TOKEN[-43:]) == -1


def test_nothing_lasts_past_the_year_that_a_clock_can_show():
    assert verified(narrowed(Tag.NOT_AFTER, "9" * 12)).not_after == END
    assert refused(narrowed(Tag.NOT_AFTER, "0")) == "token-over"
    assert refused(TOKEN, END + timedelta(days=1)) == "token-over"
