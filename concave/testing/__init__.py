"""For tests: of applications that use Concave, and of stores that implement its seam."""

from concave.testing.clock import FakeClock
from concave.testing.failing import FAIL_POINTS, FailPoint, arm_from_environment, fail_at, kill_process

__all__ = ["FAIL_POINTS", "FailPoint", "FakeClock", "arm_from_environment", "fail_at", "kill_process"]
