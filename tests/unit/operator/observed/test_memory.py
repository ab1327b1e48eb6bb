"""What the operator remembers goes into annotations and comes back, and garbage in them is as good as nothing."""

import json
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from hortator.operator.observed import Failure, Member, Memory, NodeFailure, read_memory, write_memory
from hortator.operator.observed.memory import ANNOTATIONS

MOMENTS = st.integers(0, 4_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
FAILURES = st.builds(
    Failure,
    reason=TEXTS,
    message=TEXTS,
    at=MOMENTS,
    epoch=st.integers(0, 1000),
    pod=TEXTS,
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    attempt=st.integers(0, 9),
    is_disruption=st.booleans(),
    is_stalled=st.booleans(),
)
MEMBERS = st.builds(Member, uid=TEXTS.filter(bool), node=TEXTS, restarts=st.integers(0, 99))
NODE_FAILURES = st.builds(NodeFailure, node=TEXTS.filter(bool), at=MOMENTS)
MEMORIES = st.builds(
    Memory,
    members=st.dictionaries(st.integers(0, 63), MEMBERS, max_size=4),
    restarts=st.lists(MOMENTS, max_size=4).map(lambda times: tuple(sorted(times))),
    disruptions=st.lists(MOMENTS, max_size=16).map(lambda times: tuple(sorted(times))),
    node_failures=st.lists(NODE_FAILURES, max_size=16).map(tuple),
    failure=st.none() | FAILURES,
    admitted_at=st.none() | MOMENTS,
    vacated_at=st.none() | MOMENTS,
    moved_at=st.none() | MOMENTS,
    restart_observed=TEXTS,
)


@given(MEMORIES)
def test_a_memory_comes_back_as_it_was_written(memory):
    assert read_memory(write_memory(memory)) == memory


@given(MOMENTS, TEXTS)
def test_a_drain_comes_back_with_its_reason(moment, reason):
    memory = Memory(drain_started_at=moment, drain_reason=reason)
    assert read_memory(write_memory(memory)) == memory


def test_nothing_to_remember_is_no_annotation():
    assert write_memory(Memory()) == {}


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
).map(json.dumps)


@given(st.dictionaries(st.sampled_from(ANNOTATIONS), JSONS | TEXTS))
def test_any_text_in_the_annotations_can_be_read(annotations):
    read_memory(annotations)


def test_a_long_message_of_a_dying_engine_is_cut():
    memory = Memory(
        failure=Failure(reason="OOMKilled", message="x" * 5000, at=datetime.now(UTC) - timedelta(1), epoch=1)
    )
    assert len(write_memory(memory).popitem()[1]) < 1000
