"""The behaviour that every store must show: one test per promise of `concave.store.protocol`.

For whoever writes a store. In a test module, beside the fixtures `store` (a `Store` that is connected and empty) and
`clock` (the `FakeClock` that it goes by)::

    from concave.testing.store_suite import StoreSuite

    class TestMyStore(StoreSuite):
        pass

The tests are coroutines and need a plugin that runs them, such as pytest-asyncio with ``asyncio_mode = "auto"``. With
``pytest.register_assert_rewrite("concave.testing")`` in conftest.py a failure shows the values that it compared.

Between calls that follow one another within one microsecond of the clock, the suite asks for no order.
"""

from __future__ import annotations

from concave.testing.suite_adding import AddingSuite
from concave.testing.suite_claiming import ClaimingSuite
from concave.testing.suite_dead_letters import DeadLettersSuite
from concave.testing.suite_keys import KeysSuite
from concave.testing.suite_leases import LeasesSuite
from concave.testing.suite_locks import LocksSuite
from concave.testing.suite_looking import LookingSuite
from concave.testing.suite_numbered import NumberedSuite
from concave.testing.suite_repeated_claims import RepeatedClaimsSuite
from concave.testing.suite_retention import RetentionSuite
from concave.testing.suite_schedules import SchedulesSuite
from concave.testing.suite_settling import SettlingSuite
from concave.testing.suite_standing import StandingSuite
from concave.testing.suite_topics import TopicsSuite

__all__ = ["StoreSuite"]


class StoreSuite(
    AddingSuite,
    KeysSuite,
    NumberedSuite,
    ClaimingSuite,
    RepeatedClaimsSuite,
    StandingSuite,
    SettlingSuite,
    LeasesSuite,
    TopicsSuite,
    LookingSuite,
    DeadLettersSuite,
    RetentionSuite,
    SchedulesSuite,
    LocksSuite,
):
    """All of it. Derive from this, or from one of its parts."""
