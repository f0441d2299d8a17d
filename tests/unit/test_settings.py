import pytest
from pydantic import ValidationError

from gateway.settings import Api, Settings


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("", ""),
        ("https://GW.Corp", "https://gw.corp"),
        ("https://gw.corp:443/", "https://gw.corp"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("https://gw.corp:8443", "https://gw.corp:8443"),
        ("https://[::1]:8420", "https://[::1]:8420"),
        ("https://xn--gw-fka.example/access/", "https://xn--gw-fka.example/access"),
    ],
)
def test_the_public_address_is_written_as_browsers_write_it(told: str, meant: str) -> None:
    assert Api(public_url=told).public_url == meant


@pytest.mark.parametrize(
    "wrong", ["gw.corp", "ftp://gw.corp", "https://", "https://gẅ.example", "https://a@gw.corp", "https://gw?x"]
)
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError):
        Api(public_url=wrong)


def test_settings_have_a_digest_that_nothing_secret_is_in() -> None:
    one = Settings(database_url="postgresql://gw:secret@db/gw").digest()
    assert one == Settings().digest()
    assert one != Settings(role_groups={"friends": ["auditor"]}).digest()
