"""For tests: of applications that use Concave, and of stores that implement its seam."""

from concave.testing.clock import FakeClock

__all__ = ["FakeClock"]
