from tests.unit.edges.cli.conftest import Gw


def test_why_explains_a_yes(gw: Gw) -> None:
    told = gw.as_("oncall")("policy", "why", "--target", "orders-db", "--level", "read")
    assert told.exit_code == 0, told.output
    assert "Yes, by told-yes." in told.output
    assert "fact: level = read" in told.output


def test_why_explains_a_no(gw: Gw) -> None:
    gw.stage.policy.permits = lambda _: False
    told = gw.as_("oncall")("policy", "why", "--target", "orders-db", "--level", "read", "--not-on-call")
    assert told.exit_code == 0, told.output
    assert "No (no policy): No policy permits that." in told.output
    assert "missing: a permit" in told.output
    assert "next: Ask the operators." in told.output


def test_why_for_scripts_and_for_others(gw: Gw) -> None:
    gw.stage.user("developer")
    answer = gw.as_("auditor").json(
        "policy", "why", "--as", "developer", "--target", "orders-db", "--level", "read", "--incident", "INC-1",
        "--on-call", "--break-glass",
    )  # fmt: skip
    assert answer["decision"] == "permit"


def test_why_of_something_unknown_is_not_found(gw: Gw) -> None:
    told = gw.as_("oncall")("policy", "why", "--target", "nowhere", "--level", "read")
    assert told.exit_code == 4
    assert "There is no target called 'nowhere'" in told.stderr


def test_a_question_is_about_a_level_or_about_a_verb(gw: Gw) -> None:
    oncall = gw.as_("oncall")
    assert oncall("policy", "why", "--target", "orders-db").exit_code == 2
    assert oncall("policy", "why", "--target", "orders-db", "--level", "read", "--verb", "deploy").exit_code == 2
    unknown = oncall("policy", "why", "--target", "orders-db", "--verb", "rollback", "--to", "previous", "--override")
    assert unknown.exit_code == 4
    assert "no such verb" in unknown.output
