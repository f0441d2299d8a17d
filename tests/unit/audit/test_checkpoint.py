import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.checkpoint import (
    BadNoteError,
    Checkpoint,
    cosignature,
    open_checkpoint,
    open_note,
    parse_checkpoint,
    parse_vkey,
    sign_checkpoint,
    sign_note,
    verifier_of,
)
from gateway.audit.merkle import EMPTY_ROOT
from tests.unit.audit.logs import FORGED, KEY, ORIGIN, PINNED
from tests.vectors import make_log_vectors
from tests.vectors.make_log_vectors import WITNESS, WITNESS_NAME

VECTORS = json.loads(make_log_vectors.PATH.read_text())
NOTE = VECTORS["note"]
WITNESS_KEY = parse_vkey(VECTORS["witness_vkey"])


def test_the_specification_s_own_example_key():
    key = parse_vkey("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
    assert key.name == "example.com/foo"
    assert key.id().hex() == "530d903a"


def test_the_vector_byte_for_byte():
    # made with another implementation of the formats
    assert NOTE == (
        "gw.example/audit\n3\nNmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE=\n\n"
        "— gw.example/audit MG1O2Nf2E4esJov0jUlPtfdyHOe6bkGR77Rf1Nh0mcUuLoDuazCyzS/NxXy5HbjuXNAlFu6ZJRqufGLK8BPqA+LjAAM=\n"
        "— w.example/w1 VBeAJwAAAABlU/EAowFPnA5WDevhW8HfeyqPsSstzLRklOXHedYpwXaryTHU5frOnP27cu0tA9744iJEU3j5v7AiM4gOEXa8xa21Bg==\n"
    )
    checkpoint, note = open_checkpoint(NOTE, parse_vkey(VECTORS["log_vkey"]), [WITNESS_KEY])
    assert (checkpoint.origin, checkpoint.size) == (ORIGIN, 3)
    assert note.times == ((WITNESS_NAME, 1_700_000_000),)


@given(st.data())
def test_no_single_changed_byte_is_accepted(data: Any):
    raw = NOTE.encode()
    place = data.draw(st.integers(0, len(raw) - 1))
    changed = bytearray(raw)
    changed[place] ^= data.draw(st.integers(1, 255))
    try:
        checkpoint, note = open_checkpoint(bytes(changed).decode(), PINNED, [WITNESS_KEY])
    except ValueError:
        return
    # what is left are changes to the witness's line that make it somebody else's
    assert checkpoint.text() + "\n" == NOTE[: len(checkpoint.text()) + 1]
    assert note.signers == (PINNED,)


def test_a_forged_key_of_the_same_name_is_unknown():
    forged = sign_checkpoint(Checkpoint(ORIGIN, 0, EMPTY_ROOT), FORGED)
    with pytest.raises(BadNoteError, match="no known key"):
        open_checkpoint(forged, PINNED)


def test_a_witness_alone_does_not_speak_for_the_log():
    text = Checkpoint(ORIGIN, 0, EMPTY_ROOT).text()
    with pytest.raises(BadNoteError, match="pinned key"):
        open_checkpoint(f"{text}\n{cosignature(text, WITNESS_NAME, WITNESS, 1)}", PINNED, [WITNESS_KEY])


def test_one_bad_signature_of_a_known_key_rejects_the_note():
    text = Checkpoint(ORIGIN, 0, EMPTY_ROOT).text()
    other = cosignature(text.replace("0", "1"), WITNESS_NAME, WITNESS, 1)
    note = sign_checkpoint(Checkpoint(ORIGIN, 0, EMPTY_ROOT), KEY) + other
    assert open_note(note, [PINNED]).signers == (PINNED,)
    with pytest.raises(BadNoteError, match="does not hold"):
        open_note(note, [PINNED, WITNESS_KEY])


def test_another_origin_under_the_same_key_is_another_log():
    note = sign_note(Checkpoint("other.example", 0, EMPTY_ROOT).text(), ORIGIN, KEY)
    with pytest.raises(BadNoteError, match="another log"):
        open_checkpoint(note, PINNED)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n1\n",
        "a\n01\nAAAA\n",
        "a\n-1\nAAAA\n",
        "a\n1\nAAAA\n",
        "a\n99999999999999999999\nAAAA\n",
        "a\n1\n" + "A" * 43 + "B=\n",
        "a\n1\n!\n",
    ],
)
def test_malformed_checkpoints(text: str):
    with pytest.raises(BadNoteError):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "vkey",
    ["", "x", "a+b+c", PINNED.text().replace("306d", "306e"), PINNED.text()[:-4], "a b+00000000+AA==", "é" * 2000],
)
def test_malformed_keys(vkey: str):
    with pytest.raises(BadNoteError):
        parse_vkey(vkey)


@pytest.mark.parametrize("name", ["", "a+b", "a b", "a\nb"])
def test_names_that_no_note_can_carry(name: str):
    with pytest.raises(BadNoteError):
        verifier_of(name, KEY)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "x",
        "x\n\n",
        "x\n\n— a !\n",
        "x\n\n— a AAAA\n",
        "\x01\n\n— a AAAAAAAA\n",
        "x" * 70_000,
        "x\n\n" + "— a AAAAAAAA\n" * 101,
        "x\n\n- a AAAAAAAA\n",
    ],
)
def test_malformed_notes(note: Any):
    with pytest.raises(BadNoteError):
        open_note(note, [PINNED])


def test_a_text_without_its_newline_is_not_signed():
    with pytest.raises(BadNoteError):
        sign_note("text", ORIGIN, KEY)
