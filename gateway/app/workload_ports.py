"""What the use cases of pipelines need from outside, beside `ports`."""

from collections.abc import Sequence
from typing import Protocol


class DeployKeys(Protocol):
    """The keys that deploy tokens are minted under and verified with. All gateways on one database share them."""

    def root_keys(self) -> Sequence[bytes]:
        """All that verify, the one that mints first; none where deploy tokens are closed."""
        ...


class NoDeployKeys:
    """Stands in where no deploy tokens are minted: none verifies."""

    def root_keys(self) -> Sequence[bytes]:
        """None."""
        return ()
