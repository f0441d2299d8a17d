"""What verifies that a request comes from the device that signed in. An adapter implements it."""

from typing import Protocol

from gateway.core.device_proof import DeviceProof


class ForgedProofError(Exception):
    """Not a proof, or not signed by the key that it names."""


class DeviceProofs(Protocol):
    def verify(self, text: str) -> DeviceProof:
        """What a proof says, once its signature is verified with the key in it; ForgedProofError otherwise."""
        ...


class NoDeviceProofs:
    """Where none is wired, nobody signs in from a command line."""

    def verify(self, text: str) -> DeviceProof:
        """Never."""
        raise ForgedProofError(f"no proofs are taken here ({len(text)} characters)")
