"""What use cases need of the authority whose certificates people show at the database door."""

from datetime import datetime
from typing import Protocol

from gateway.core.principal import User


class ClientSigner(Protocol):
    def sign(self, user: User, public_key: str, at: datetime, until: datetime) -> bytes:
        """A TLS client certificate (DER) for an OpenSSH public key line; ValueError for a key that is not accepted.

        NoClientsError where the door takes none.
        """
        ...


class NoClientsError(Exception):
    """The database door of this gateway takes no certificates."""


class NoClients:
    """Stands in where no authority is wired."""

    def sign(self, user: User, public_key: str, at: datetime, until: datetime) -> bytes:
        del user, public_key, at, until
        raise NoClientsError
