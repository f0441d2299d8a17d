"""The root keys of deploy tokens, in a 0600 file of the state directory."""

from collections.abc import Sequence
from pathlib import Path

from gateway.adapters.key_file import keys_of


class DeployKeyring:
    """The `DeployKeys` port on a key file. A line added at its end mints from the next start on."""

    def __init__(self, path: Path) -> None:
        """PermissionError when others may read the file, ValueError when it holds something else."""
        self._keys = tuple(reversed(keys_of(path, "deploy tokens in use are refused")))

    def root_keys(self) -> Sequence[bytes]:
        """The newest first."""
        return self._keys
