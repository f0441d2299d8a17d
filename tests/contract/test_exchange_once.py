"""One token counts once, also when several threads and several gateways exchange it at the same instant."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from gateway.adapters.store import SqlStore
from gateway.app.context import Context
from gateway.app.exchange_token import Exchanged, exchange_token
from gateway.app.verify_deploy_token import authenticate_workload, revoke_deploy_token
from gateway.core.errors import Denied
from tests.pipelines import Pipelines, pipelines

AT_ONCE = 8


@pytest.fixture
def ci(tmp_path: Path) -> Iterator[Pipelines]:
    with pipelines(tmp_path) as made:
        yield made


@pytest.fixture
def gateways(ci: Pipelines, store_url: str) -> Iterator[list[Context]]:
    """Two on one database, each with connections of its own."""
    with ExitStack() as opened:
        stores = [SqlStore(store_url) for _ in range(2)]
        for store in stores:
            opened.callback(store.close)
        yield [replace(ci.stage.ctx, store=store, gateway=f"gw-{n}") for n, store in enumerate(stores)]


def at_once(calls: list[Callable[[], Exchanged]]) -> list[Exchanged | str]:
    barrier = Barrier(len(calls))

    def call(number: int) -> Exchanged | str:
        barrier.wait(10)
        try:
            return calls[number]()
        except Denied as no:
            return no.refusal.code

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, range(len(calls))))


@pytest.mark.parametrize("jti", ["1", None])
def test_of_exchanges_at_once_one_counts(ci: Pipelines, gateways: list[Context], jti: str | None):
    for _ in range(3):
        token = ci.github.github(jti=jti and ci.stage.ctx.ids.secret(), run_id=ci.stage.ctx.ids.secret())
        found = at_once([lambda n=n, token=token: exchange_token(gateways[n % 2], token) for n in range(AT_ONCE)])
        (good,) = [one for one in found if isinstance(one, Exchanged)]
        assert [one for one in found if isinstance(one, str)] == ["token-used"] * (AT_ONCE - 1)
        assert authenticate_workload(gateways[1], good.token).id == good.id


def test_a_budget_holds_for_exchanges_at_once(ci: Pipelines, gateways: list[Context]):
    tokens = [ci.github.github() for _ in range(AT_ONCE)]
    found = at_once([lambda n=n: exchange_token(gateways[n % 2], tokens[n]) for n in range(AT_ONCE)])
    assert sum(isinstance(one, Exchanged) for one in found) == 3
    assert [one for one in found if isinstance(one, str)] == ["run-budget-spent"] * (AT_ONCE - 3)


def test_a_revocation_counts_at_every_gateway(ci: Pipelines, gateways: list[Context]):
    good = exchange_token(gateways[0], ci.github.github())
    assert revoke_deploy_token(gateways[0], good.id, "lead")
    with pytest.raises(Denied, match="revoked"):
        authenticate_workload(gateways[1], good.token)
