"""Attacks on token exchange that were seen in the wild, each refused. The numbers are those of docs/pipelines.md."""

import base64
import hashlib
import hmac
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from gateway.app.exchange_token import Exchanged, exchange_token
from gateway.app.verify_deploy_token import authenticate_workload
from gateway.core.deploy_token import Right
from gateway.core.errors import Denied
from gateway.core.job_token import LEEWAY, LONGEST_TOKEN
from gateway.demo.ci_issuer import AUDIENCE
from tests.pipelines import CATALOGUE, GITHUB, GITLAB, Pipelines, pipelines, target

MAIN = "refs/heads/main"


@pytest.fixture
def ci(tmp_path: Path) -> Iterator[Pipelines]:
    with pipelines(tmp_path) as made:
        yield made


def told(ci: Pipelines) -> list[dict[str, object]]:
    """What every refusal stored."""
    with closing(sqlite3.connect(ci.stage.database)) as database:
        rows = database.execute("SELECT leaf FROM event WHERE type = 'token:refused' ORDER BY ordinal").fetchall()
    return [json.loads(leaf)["data"] for (leaf,) in rows]


def refused(ci: Pipelines, token: str, failed: str = "") -> str:
    """The code of the refusal; it stored one event, which names the claim that failed and not the token."""
    before = len(told(ci))
    with pytest.raises(Denied) as no:
        exchange_token(ci.stage.ctx, token, client="192.0.2.7")
    events = told(ci)
    assert len(events) == before + 1
    if failed:
        assert failed in events[-1]["failed"]
    dump = ci.stage.dump()
    assert not [part for part in (token, *token.split(".")) if len(part) > 30 and part in dump]
    return no.value.refusal.code


def exchanged(ci: Pipelines, token: str) -> Exchanged:
    found = exchange_token(ci.stage.ctx, token, client="192.0.2.7")
    assert authenticate_workload(ci.stage.ctx, found.token).id == found.id
    return found


def test_the_honest_ones_pass(ci: Pipelines):
    assert exchanged(ci, ci.github.github()).workload.trust_policy == "web-production"
    assert exchanged(ci, ci.gitlab.gitlab()).workload.trust_policy == "web-gitlab"
    new_form = ci.github.github(sub="repo:acme@65/web@1296269:environment:production")
    assert exchanged(ci, new_form).workload.id == "workload/web-production/65/1296269"


# ---------------------------------------------------------------- 1 to 8: whose token


def test_1_an_audience_alone_is_no_trust(ci: Pipelines):
    """Tinder, Datadog: `aud` was checked and `sub` was not, so any repository could assume the role."""
    stranger = ci.github.github(
        repository="mallory/web", repository_owner="mallory", repository_id="9", repository_owner_id="8",
        sub="repo:mallory/web:environment:production",
        workflow_ref=f"mallory/web/.github/workflows/deploy.yml@{MAIN}",
        job_workflow_ref=f"mallory/web/.github/workflows/deploy.yml@{MAIN}",
    )  # fmt: skip
    with pytest.raises(Denied) as no:
        exchange_token(ci.stage.ctx, stranger)
    assert no.value.refusal.code == "not-trusted"
    assert "web-production" not in no.value.refusal.sentence()  # a stranger learns of no rule
    assert refused(ci, ci.github.github(sub=None), "sub") == "not-trusted"


def test_2_a_wildcard_does_not_load(ci: Pipelines):
    text = GITHUB.replace("ref: refs/heads/main", 'ref: "refs/heads/*"').format(url=ci.github.url, audience=AUDIENCE)
    why = ci.rewrite("github.yaml", text)
    assert why is not None
    assert "wildcard" in why
    assert exchanged(ci, ci.github.github())  # the set before stays in force


@pytest.mark.parametrize("changed", [{"repository_owner_id": "66"}, {"repository_id": "1296270"}])
def test_3_a_name_that_was_registered_anew_is_a_stranger(ci: Pipelines, changed: dict[str, str]):
    """Sub:jugation: the same names, other numbers."""
    assert refused(ci, ci.github.github(**changed), next(iter(changed))) == "not-trusted"


@pytest.mark.parametrize(
    ("sub", "claims"),
    [
        # The preview form with hyphens, and an organisation that is really called like it.
        ("repo:acme-65/web-1296269:environment:production", {}),
        (
            "repo:acme-65/web-1296269:environment:production",
            {"repository": "acme-65/web-1296269", "repository_owner": "acme-65", "repository_owner_id": "7", "repository_id": "8"},
        ),
        ("repo:acme@66/web@1296269:environment:production", {}),
        ("repo:acme@65/web:environment:production", {}),
        ("repo:acme/web@1296269:environment:production", {}),
        ("repo:acme/web/x:environment:production", {}),
        ("repo:acme@65@65/web@1296269:environment:production", {}),
        ("acme/web:environment:production", {}),
        ("repo:acme/web", {}),
        ("", {}),
        ("repo:acme/web:environment:staging", {}),
        ("repo:acme/web:ref:refs/heads/other", {}),
        ("repo:acme/web:pull_request", {}),
        ("repo:ACME/web:environment:production", {}),
    ],
)  # fmt: skip
def test_4_a_subject_that_does_not_agree_with_the_claims(ci: Pipelines, sub: str, claims: dict[str, str]):
    """Sleeper squats: `repo:O-OID/R-RID` could be had by a legacy organisation literally named O-OID."""
    assert refused(ci, ci.github.github(sub=sub, **claims)) == "not-trusted"


@pytest.mark.parametrize("pattern", ["refs/heads/main|develop", "^refs/heads/main", "refs/heads/main$", "ma.*"])
def test_5_patterns_do_not_load(ci: Pipelines, pattern: str):
    """octo-sts#1643: `main|develop` between ^ and $ anchors one side of each."""
    text = GITHUB.replace("ref: refs/heads/main", f'ref: "{pattern}"').format(url=ci.github.url, audience=AUDIENCE)
    why = ci.rewrite("github.yaml", text)
    assert why is not None
    assert "unanchored-alternation" in why or "wildcard" in why
    assert refused(ci, ci.github.github(ref="refs/heads/develop"), "ref") == "not-trusted"


def test_6_one_token_mints_once(ci: Pipelines):
    """apache/tooling-trusted-releases#1358: one token was replayed to mint several SSH keys."""
    token = ci.github.github()
    exchanged(ci, token)
    assert refused(ci, token) == "token-used"
    ci.stage.clock.advance(timedelta(minutes=4))
    assert refused(ci, token) == "token-used"


def test_6_a_gateway_that_restarted_remembers(ci: Pipelines, tmp_path: Path):
    from gateway.adapters.store import SqlStore

    token = ci.github.github()
    exchanged(ci, token)
    store = SqlStore(f"sqlite:///{ci.stage.database}")
    with pytest.raises(Denied):
        exchange_token(replace(ci.stage.ctx, store=store), token)
    store.close()


@pytest.mark.parametrize(
    "changed",
    [
        {"project_id": "99", "project_path": "mallory/web", "sub": "project_path:mallory/web:ref_type:branch:ref:main"},
        {"job_project_id": "99"},
        {"job_namespace_id": "99"},
        {"job_project_id": None},
        {"job_namespace_id": None},
        {"project_id": "99", "namespace_id": "98", "pipeline_source": "merge_request_event"},
        {"pipeline_source": "merge_request_event"},
        {"pipeline_source": "external_pull_request_event"},
        {"pipeline_source": None},
        {"ref_protected": "false"},
        {"sub": "project_path:acme/web:ref_type:tag:ref:main"},
        {"sub": "project_path:acme/web"},
        {"environment": "review/1"},
        {"ci_config_ref_uri": "gitlab.example.org/acme/web//other.yml@refs/heads/main"},
    ],
)
def test_7_a_forks_pipeline_on_gitlab(ci: Pipelines, changed: dict[str, str | None]):
    assert refused(ci, ci.gitlab.gitlab(**changed)) == "not-trusted"


@pytest.mark.parametrize(
    "event", ["pull_request", "pull_request_target", "workflow_run", "issue_comment", "schedule", None]
)
def test_8_events_that_a_fork_can_cause(ci: Pipelines, event: str | None):
    assert refused(ci, ci.github.github(event_name=event), "event_name") == "not-trusted"


def test_8_no_rule_can_allow_them(ci: Pipelines):
    text = GITHUB.replace("ref: refs/heads/main", "ref: refs/heads/main\n      event_name: [push, pull_request_target]")
    why = ci.rewrite("github.yaml", text.format(url=ci.github.url, audience=AUDIENCE))
    assert why is not None
    assert "fork-event" in why


@pytest.mark.parametrize(
    "changed",
    [
        {"environment": "staging", "sub": "repo:acme/web:environment:staging"},
        {"ref": "refs/heads/other"},
        {"ref_protected": "false"},
        {"ref_protected": True},
        {"ref_protected": None},
        {"runner_environment": "self-hosted"},
        {"job_workflow_ref": f"acme/web/.github/workflows/other.yml@{MAIN}"},
        {"job_workflow_ref": f"mallory/tools/.github/workflows/deploy.yml@{MAIN}"},
        {"job_workflow_ref": None},
        {"repository_id": 1296269},
        {"repository_owner_id": None},
        {"run_attempt": None},
        {"run_id": "\n"},
        {"sha": None},
        {"environment": "produc\u0131tion"},
    ],
)
def test_a_claim_that_is_missing_another_or_of_another_type(ci: Pipelines, changed: dict[str, object]):
    assert refused(ci, ci.github.github(**changed)) == "not-trusted"


def test_an_environment_is_compared_in_lower_case(ci: Pipelines):
    assert exchanged(ci, ci.github.github(environment="PRODuction", sub="repo:acme/web:environment:PRODuction"))


def test_a_reusable_workflow_has_to_be_named(ci: Pipelines):
    """The staging rule pins none, so the job's workflow must be the run's own, of the repository itself."""
    plain: dict[str, object] = {"environment": None, "sub": f"repo:acme/web:ref:{MAIN}"}
    assert exchanged(ci, ci.github.github(**plain))
    tools = f"acme/tools/.github/workflows/deploy.yml@{MAIN}"
    assert refused(ci, ci.github.github(**plain, job_workflow_ref=tools), "job_workflow_ref") == "not-trusted"
    both = {"job_workflow_ref": tools, "workflow_ref": tools}
    assert refused(ci, ci.github.github(**plain, **both), "job_workflow_ref") == "not-trusted"


# ---------------------------------------------------------------- 9: a stolen token


def test_9_what_a_dumped_runner_gives_away_is_short_lived_and_tied_to_its_job(ci: Pipelines):
    found = exchanged(ci, ci.github.github())
    verified = authenticate_workload(ci.stage.ctx, found.token)
    assert verified.not_after - verified.issued_at <= timedelta(minutes=15)
    assert (verified.workload.run, verified.workload.commit[:6]) == ("github/987/1", "c0ffee")
    ci.stage.clock.advance(timedelta(minutes=15))
    with pytest.raises(Denied) as no:
        authenticate_workload(ci.stage.ctx, found.token)
    assert no.value.refusal.code == "token-over"


def test_9_a_run_has_a_budget(ci: Pipelines):
    for _ in range(3):
        exchanged(ci, ci.github.github())
    assert refused(ci, ci.github.github()) == "run-budget-spent"
    assert exchanged(ci, ci.github.github(run_attempt="2"))
    ci.stage.clock.advance(timedelta(days=2))
    with ci.stage.ctx.store.begin() as uow:
        uow.credentials.purge(ci.stage.clock.now() - timedelta(days=1))
    assert refused(ci, ci.github.github()) == "run-budget-spent"


def test_9_a_job_that_gets_one_token_gets_its_length(ci: Pipelines):
    token = ci.gitlab.gitlab()
    found = exchanged(ci, token)
    assert found.not_after - found.issued_at == timedelta(hours=1) - timedelta(microseconds=found.issued_at.microsecond)


# ---------------------------------------------------------------- 10: another issuer


def test_10_another_issuer_cannot_speak_for_github(ci: Pipelines):
    """A self-hosted issuer presents claims that look like another's."""
    assert refused(ci, ci.gitlab.signed(ci.gitlab.github_claims())) == "not-trusted"
    borrowed = ci.gitlab.signed(ci.github.github_claims())  # says `iss` of the other, signed with its own key
    assert refused(ci, borrowed, "kid") == "job-token-refused"
    same_kid = ci.gitlab.signed(ci.github.github_claims(), kid=ci.github.kid)
    assert refused(ci, same_kid, "signature") == "job-token-refused"


@pytest.mark.parametrize("tail", ["/", ".", "%2f", "?", "#", " "])
def test_10_an_issuer_is_its_url_character_for_character(ci: Pipelines, tail: str):
    assert refused(ci, ci.github.github(iss=ci.github.url + tail), "iss") == "job-token-refused"


def test_10_an_issuer_nobody_declared_is_never_asked(ci: Pipelines):
    stranger = "http://127.0.0.1:1/latest/meta-data"
    for iss in (stranger, [ci.github.url], None, 7):
        assert refused(ci, ci.github.signed({**ci.github.github_claims(), "iss": iss}), "iss") == "job-token-refused"
    assert ci.github.asked == []


# ---------------------------------------------------------------- 11: forged tokens


def b64(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsigned(ci: Pipelines, signature: bytes = b"", **header: object) -> str:
    wanted = {"alg": "none", "kid": ci.github.kid, **header}
    return f"{b64(wanted)}.{b64(ci.github.github_claims())}.{b64(signature)}"


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "HS256", "RS1", "", None, ["RS256"], "ES256", "PS256", "RS512"]
)
def test_11_an_algorithm_that_is_not_allowed(ci: Pipelines, alg: object):
    assert refused(ci, unsigned(ci, b"x" * 32, alg=alg)) == "job-token-refused"


def test_11_hmac_with_the_public_key_as_secret(ci: Pipelines):
    """CVE-2024-37568; not even when somebody allowed both kinds."""
    public = RSAKey.import_key(ci.github.public_key())
    for secret in (public.as_pem(private=False), json.dumps(ci.github.public_key()).encode()):
        head = f"{b64({'alg': 'HS256', 'kid': ci.github.kid})}.{b64(ci.github.github_claims())}"
        tag = hmac.new(secret, head.encode(), hashlib.sha256).digest()
        assert refused(ci, f"{head}.{b64(tag)}", "alg") == "job-token-refused"


def test_11_a_key_of_another_kind_than_the_algorithm(ci: Pipelines):
    text = GITHUB.replace("audience:", "algorithms: [RS256, ES256]\n    audience:")
    assert ci.rewrite("github.yaml", text.format(url=ci.github.url, audience=AUDIENCE)) is None
    assert refused(ci, unsigned(ci, b"x" * 64, alg="ES256"), "kid") == "job-token-refused"


@pytest.mark.parametrize(
    "header",
    [
        {"kid": None},
        {"kid": ""},
        {"kid": 7},
        {"kid": "k" * 300},
        {"kid": "../../keys/1"},
        {"kid": "unknown"},
        {"jku": "https://mallory.example/keys"},
        {"x5u": "https://mallory.example/cert"},
        {"x5c": ["MIIB"]},
        {"crit": ["x"], "x": 1},
        {"crit": []},
        {"b64": False, "crit": ["b64"]},
        {"typ": "at+jwt"},
        {"typ": "dpop+jwt"},
    ],
)
def test_11_headers_that_ask_for_something_else(ci: Pipelines, header: dict[str, object]):
    """CVE-2026-27962 (`jwk`), CVE-2025-59420 (`crit`). Properly signed, so that only the header can be the reason."""
    claims = ci.github.github_claims()
    wanted = {"alg": "RS256", "typ": "JWT", "kid": ci.github.kid, **header}
    head = f"{b64({k: v for k, v in wanted.items() if v is not None})}.{b64(claims)}"
    key = ci.github._keys[ci.github.kid]
    signature = jws.JWSRegistry.algorithms["RS256"].sign(head.encode(), key)
    assert refused(ci, f"{head}.{b64(signature)}") == "job-token-refused"


def test_11_a_key_that_the_token_brings_along(ci: Pipelines):
    own = RSAKey.generate_key(2048, private=True)
    header = {"alg": "RS256", "kid": "mine", "jwk": own.as_dict(private=False)}
    registry = jws.JWSRegistry(algorithms=["RS256"], strict_check_header=False)
    registry.max_header_length = 4096
    token = jws.serialize_compact(header, json.dumps(ci.github.github_claims()), own, registry=registry)
    assert refused(ci, token) == "job-token-refused"


def test_11_two_keys_of_one_id(ci: Pipelines):
    ci.github.mood = "repeated-kid"
    assert refused(ci, ci.github.github(), "kid") == "job-token-refused"


def test_11_a_tampered_token(ci: Pipelines):
    head, payload, signature = ci.github.github().split(".")
    other = b64({**ci.github.github_claims(), "repository_id": "1"})
    assert refused(ci, f"{head}.{other}.{signature}", "signature") == "job-token-refused"
    assert refused(ci, f"{head}.{payload}.", "signature") == "job-token-refused"
    stranger = ECKey.generate_key("P-256", private=True)
    forged = jws.serialize_compact({"alg": "ES256", "kid": "x"}, b"{}", stranger, algorithms=["ES256"])
    assert refused(ci, forged) == "job-token-refused"


@pytest.mark.parametrize(
    "text", ["", "x", "a.b", "a.b.c.d", "..", "\u00e9.b.c", "." * 20_000, "A" * (LONGEST_TOKEN + 1), "e30.e30.e30", "e30.W10.e30"]
)  # fmt: skip
def test_11_no_token_at_all(ci: Pipelines, text: str):
    with pytest.raises(Denied) as no:
        exchange_token(ci.stage.ctx, text)
    assert no.value.refusal.code == "job-token-refused"


# ---------------------------------------------------------------- 12 to 14: times and replay


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({"iat": 3600, "exp": 3700, "nbf": 0}, "iat"),
        ({"iat": 3600, "exp": 7000, "nbf": -300}, "iat"),
        ({"exp": 3601}, "exp"),
        ({"exp": 10**9}, "exp"),
        ({"exp": -31}, "exp"),
        ({"iat": -7200, "exp": 100}, "exp"),
        ({"iat": 10, "exp": 10}, "exp"),
        ({"iat": 10, "exp": 5}, "exp"),
        ({"nbf": 60}, "nbf"),
    ],
)
def test_12_times_that_do_not_hold(ci: Pipelines, changed: dict[str, int], failed: str):
    at = int(ci.stage.clock.now().timestamp())
    moved = {name: at + seconds for name, seconds in changed.items()}
    assert refused(ci, ci.github.github(**moved), failed) == "job-token-refused"


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        *product(["exp", "iat", "nbf"], ["soon", "1700000000", True, -1, 0, 10**15, 10**400, 1e300, [1], {}]),
        ("exp", None),
        ("iat", None),
    ],
)
def test_12_times_that_are_none(ci: Pipelines, claim: str, value: object):
    assert refused(ci, ci.github.github(**{claim: value}), claim) == "job-token-refused"


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_clock_that_is_ten_minutes_off_is_said(ci: Pipelines, minutes: int):
    token = ci.github.github()
    ci.stage.clock.advance(timedelta(minutes=minutes))
    with pytest.raises(Denied) as no:
        exchange_token(ci.stage.ctx, token)
    said = no.value.refusal.message
    assert ("one of the two clocks is wrong" in said) if minutes < 0 else ("and it is" in said)


def test_13_the_claim_outlives_the_token(ci: Pipelines):
    """getsentry#106342: the replay store forgot a token before it had expired. Purged at every instant, it never does."""
    token = ci.github.github()
    exchanged(ci, token)
    codes = []
    for _ in range(8):
        ci.stage.clock.advance(timedelta(seconds=45))
        with ci.stage.ctx.store.begin() as uow:
            uow.credentials.purge(ci.stage.clock.now())
        codes.append(refused(ci, token))
    assert codes == ["token-used"] * 7 + ["job-token-refused"]
    assert timedelta(seconds=45) > LEEWAY


def test_14_an_issuer_without_jti(ci: Pipelines):
    """Jenkins, Concourse: what was signed tells two uses of one token, and two tokens, apart."""
    token = ci.github.github(jti=None)
    exchanged(ci, token)
    assert refused(ci, token) == "token-used"
    ci.stage.clock.advance(timedelta(seconds=1))
    assert exchanged(ci, ci.github.github(jti=None))


def test_14_a_jti_counts_for_its_issuer_alone(ci: Pipelines):
    assert exchanged(ci, ci.github.github(jti="1"))
    assert exchanged(ci, ci.gitlab.gitlab(jti="1"))
    assert refused(ci, ci.github.github(jti="1")) == "token-used"


# ---------------------------------------------------------------- audiences


@pytest.mark.parametrize(
    "aud",
    [None, "", "https://github.com/acme", [AUDIENCE, "https://other.example"], [], [AUDIENCE, AUDIENCE], f"{AUDIENCE}/",
     AUDIENCE.upper(), {"aud": AUDIENCE}, f"{AUDIENCE}.evil.example"],
)  # fmt: skip
def test_a_token_for_somebody_else_is_no_token_for_us(ci: Pipelines, aud: object):
    assert refused(ci, ci.github.github(aud=aud), "aud") == "job-token-refused"


def test_a_list_of_this_one_audience_is_fine(ci: Pipelines):
    assert exchanged(ci, ci.github.github(aud=[AUDIENCE]))


# ---------------------------------------------------------------- this gateway's own credentials


@pytest.mark.parametrize("prefix", ["gwc_", "gww_", "gwd_"])
def test_no_credential_of_ours_is_exchanged(ci: Pipelines, prefix: str):
    assert refused(ci, prefix + "x" * 43) == "not-a-job-token"


def test_a_deploy_token_is_not_exchanged_for_another(ci: Pipelines):
    assert refused(ci, exchanged(ci, ci.github.github()).token) == "not-a-job-token"


# ---------------------------------------------------------------- the log


def test_strangers_do_not_fill_the_log(ci: Pipelines):
    for number in range(103):
        with pytest.raises(Denied):
            exchange_token(ci.stage.ctx, f"no.token.{number}", client="198.51.100.9")
    events = told(ci)
    assert len(events) == 100
    assert [event["is_last_told"] for event in events] == [False] * 99 + [True]
    assert exchanged(ci, ci.github.github())  # they stand in nobody's way, whatever address they share
    with pytest.raises(Denied):
        exchange_token(ci.stage.ctx, "no.token", client="198.51.100.10")
    assert len(told(ci)) == 101


def test_nothing_is_minted_without_its_event(ci: Pipelines):
    """The store fails at the commit: neither the claim nor the event is there, and no token was made."""
    token = ci.github.github()
    with closing(sqlite3.connect(ci.stage.database, isolation_level=None)) as other:
        other.execute("DROP TABLE event")
        with pytest.raises(Exception, match="event"):
            exchange_token(ci.stage.ctx, token)
        assert other.execute("SELECT count(*) FROM credentials").fetchone() == (0,)


def test_every_exchange_is_told_without_the_token(ci: Pipelines):
    found = exchanged(ci, ci.github.github())
    dump = ci.stage.dump()
    assert found.token not in dump
    assert found.token[-43:] not in dump
    with closing(sqlite3.connect(ci.stage.database)) as database:
        ((leaf,),) = database.execute("SELECT leaf FROM event WHERE type = 'token:exchanged'").fetchall()
    event = json.loads(leaf)
    assert event["principal"] == "acme/web (web-production)"
    assert event["data"]["token"] == found.id
    assert event["data"]["rights"] == ["deploy:web-1", "deploy:web-2", "rollback:web-1", "rollback:web-2"]
    assert {"ref", "commit", "run", "actor", "repository", "trust_policies"} <= set(event["data"])


def test_gitlab_of_an_age_without_fork_claims_has_to_be_declared(ci: Pipelines):
    old: dict[str, object] = {"job_project_id": None, "job_namespace_id": None}
    assert refused(ci, ci.gitlab.gitlab(**old)) == "not-trusted"
    text = GITLAB.replace("longest_token: 2h", "longest_token: 2h\n    fork_claims: false")
    assert ci.rewrite("gitlab.yaml", text.format(url=ci.gitlab.url, audience=AUDIENCE)) is None
    assert exchanged(ci, ci.gitlab.gitlab(**old))
    assert refused(ci, ci.gitlab.gitlab(job_project_id="99"), "job_project_id") == "not-trusted"


def test_what_is_too_large_to_mint_uses_no_token_up_and_the_log_tells_of_none(ci: Pipelines):
    names = [f"web-with-quite-a-long-name-{number:03}" for number in range(200)]
    ci.stage.ctx.catalogue.catalogue = replace(CATALOGUE, targets={name: target(name) for name in names})  # type: ignore[attr-defined]
    rules = GITHUB.replace("[web-1, web-2]", f"[{', '.join(names)}]").format(url=ci.github.url, audience=AUDIENCE)
    assert ci.rewrite("github.yaml", rules) is None
    token = ci.github.github()
    assert refused(ci, token) == "token-too-large"
    assert "token:exchanged" not in dict(ci.stage.events())
    found = exchange_token(ci.stage.ctx, token, [Right(names[0], "deploy")])
    assert found.rights == {Right(names[0], "deploy")}
    assert refused(ci, token) == "token-too-large"
    with pytest.raises(Denied, match="already"):
        exchange_token(ci.stage.ctx, token, [Right(names[0], "deploy")])
