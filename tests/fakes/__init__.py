from tests.fakes.clock import START, FakeClock
from tests.fakes.ids import RandomIds

__all__ = ["START", "FakeClock", "RandomIds"]
