"""What Hypothesis does to a store: submissions, claims and decisions, out of few names and keys, so that they meet."""

from __future__ import annotations

from hypothesis import strategies as st

from concave.store.records import (
    BUCKETS,
    Cancel,
    Claim,
    Complete,
    Debounce,
    Decision,
    Die,
    Failure,
    NewTask,
    Release,
    Retention,
    Retry,
)

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

WAITS = st.sampled_from([0, 1, SECOND, 10 * SECOND, MINUTE])
NAMES = st.sampled_from(["a", "b", "c:d"])
# Nothing shorter than an example takes: Redis expires keys by its own clock.
RETENTIONS = st.builds(
    Retention,
    completed=st.sampled_from([10 * MINUTE, HOUR, 24 * HOUR, 48 * HOUR]),
    cancelled=st.sampled_from([10 * MINUTE, 24 * HOUR]),
    dead=st.sampled_from([HOUR, 90 * 24 * HOUR]),
    key=st.sampled_from([10 * MINUTE, 24 * HOUR]),
)
PLAIN_DEBOUNCES = st.builds(
    Debounce,
    key=st.sampled_from(["x", "y"]),
    window=st.sampled_from([0, SECOND, MINUTE]),
    max_wait=st.sampled_from([None, 1, SECOND, 2 * MINUTE]),
    sequence=st.none(),
)
# The calls under a key are all numbered, or none of them.
DEBOUNCES = PLAIN_DEBOUNCES | st.builds(
    lambda plain, sequence: plain._replace(key="numbered", sequence=sequence),
    PLAIN_DEBOUNCES,
    st.integers(1, 12),
)
FAILURES = st.sampled_from([Failure("boom"), Failure("é", "trace")])
DECISIONS: st.SearchStrategy[Decision] = st.one_of(
    st.builds(Complete, st.sampled_from([b"null", b"[]"])),
    st.builds(Retry, WAITS, st.none() | FAILURES),
    st.builds(Release),
    st.builds(Die, st.just("enough"), st.none() | FAILURES),
    st.builds(Cancel, st.just("stop")),
)
CLAIMS = st.builds(
    Claim,
    worker_id=st.sampled_from(["w1", "w2"]),
    names=st.dictionaries(NAMES, st.integers(0, 3), min_size=1).map(lambda caps: tuple(caps.items())),
    limit=st.integers(0, 6),
    lease=st.sampled_from([MINUTE, 5 * MINUTE]),
    nonce=st.just(""),
    suspects=st.integers(0, 2),
    line=st.integers(0, 1),
    desk=st.just(""),
    stands=st.just(0),
    number=st.just(0),
)


def new_task(draw: st.DataObject, number: int, now: int) -> NewTask:
    return NewTask(
        id=f"t{number:06d}",
        name=draw.draw(NAMES),
        input=b"[%d]" % number,
        priority=draw.draw(st.integers(0, BUCKETS - 1)) * 25 + draw.draw(st.integers(0, 25)),
        delay=draw.draw(WAITS),
        at=draw.draw(st.none() | WAITS.map(lambda wait: now + wait - 2 * SECOND)),
        max_crashes=draw.draw(st.integers(1, 3)),
        idempotency_key=draw.draw(st.none() | st.sampled_from(["k", "l"])),
        debounce=draw.draw(st.none() | DEBOUNCES),
        retention=draw.draw(RETENTIONS),
    )
