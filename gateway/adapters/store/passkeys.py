"""Passkeys in the store: public keys only, so nothing in here is a secret."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, insert, select, update

from gateway.adapters.store.prepared import Found
from gateway.adapters.store.rows import Columns, columns_of
from gateway.adapters.store.tables import PASSKEYS
from gateway.adapters.store.transaction import Transaction
from gateway.app.passkey_ports import Passkey

_C = columns_of(PASSKEYS)


class SqlPasskeys:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def add(self, passkey: Passkey) -> None:
        self._tx.insert(insert(PASSKEYS), [_columns(passkey)])

    def get(self, passkey_id: str) -> Passkey | None:
        row = self._tx.first(select(PASSKEYS).where(_C.id == passkey_id))
        return _passkey_of(row) if row else None

    def of(self, user_id: str) -> Sequence[Passkey]:
        query = select(PASSKEYS).where(_C.user == user_id).order_by(_C.created_at, _C.id)
        return [_passkey_of(row) for row in self._tx.rows(query)]

    def used(self, passkey: Passkey, sign_count: int, at: datetime) -> bool:
        is_it = (_C.id == passkey.id) & (_C.sign_count == passkey.sign_count)
        return self._tx.change(update(PASSKEYS).where(is_it).values(sign_count=sign_count, used_at=at)) == 1

    def remove(self, passkey_id: str) -> bool:
        return self._tx.change(delete(PASSKEYS).where(_C.id == passkey_id)) == 1


def _columns(passkey: Passkey) -> Columns:
    return {
        "id": passkey.id,
        "user": passkey.user,
        "name": passkey.name,
        "public_key": passkey.public_key,
        "sign_count": passkey.sign_count,
        "transports": list(passkey.transports),
        "created_at": passkey.created_at,
        "used_at": passkey.used_at,
    }


def _passkey_of(row: Found) -> Passkey:
    return Passkey(
        id=row[_C.id],
        user=row[_C.user],
        name=row[_C.name],
        public_key=row[_C.public_key],
        sign_count=row[_C.sign_count],
        transports=tuple(row[_C.transports]),
        created_at=row[_C.created_at],
        used_at=row[_C.used_at],
    )
