from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hortator.scheduler.core.commands import Reject
from hortator.scheduler.core.events import ForwardPassEnded, RequestArrived, TimerFired
from hortator.scheduler.core.model import (
    BlocksChanged,
    LatencyClass,
    RankLoads,
    RejectReason,
    SchedulerSettings,
)
from hortator.scheduler.event_json import (
    COMMAND_TYPES,
    EVENT_TYPES,
    decode_event,
    decode_fields,
    encode_fields,
    encode_tagged,
)

st.register_type_strategy(float, st.floats(allow_nan=False))


@pytest.mark.parametrize("kind", EVENT_TYPES.values(), ids=EVENT_TYPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_event_comes_back_equal_through_json_text(kind, data):
    event = data.draw(st.from_type(kind))
    assert decode_event(json.loads(json.dumps(encode_tagged(event)))) == event


@pytest.mark.parametrize("kind", COMMAND_TYPES.values(), ids=COMMAND_TYPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_command_comes_back_equal_through_json_text(kind, data):
    command = data.draw(st.from_type(kind))
    name, fields = json.loads(json.dumps(encode_tagged(command)))
    assert decode_fields(COMMAND_TYPES[name], fields) == command


@settings(max_examples=25, deadline=None)
@given(st.from_type(SchedulerSettings))
def test_settings_come_back_equal(values):
    assert decode_fields(SchedulerSettings, json.loads(json.dumps(encode_fields(values)))) == values


def test_defaults_are_left_out_and_enums_go_by_value():
    event = RequestArrived(
        request_id="r", num_prompt_tokens=3, block_hashes=(1, 2**64 - 1), latency_class=LatencyClass.CRITICAL
    )
    assert encode_tagged(event) == [
        "RequestArrived",
        {
            "request_id": "r",
            "num_prompt_tokens": 3,
            "block_hashes": [1, 2**64 - 1],
            "latency_class": "critical",
        },
    ]
    assert encode_tagged(TimerFired()) == ["TimerFired", {}]


def test_nested_dataclasses_and_tuples_of_them_are_written_out():
    loads = RankLoads(
        prefill_load_tokens=(1,),
        batch_size=(2,),
        kv_blocks_used=(3,),
        blocks_changed=(BlocksChanged(dp_rank=0, stored=(7,)),),
    )
    event = ForwardPassEnded(
        group_id="g", forward_pass_id=1, duration_s=0.25, included_dispatch_seq=0, loads=loads
    )
    name, fields = encode_tagged(event)
    assert fields["loads"]["blocks_changed"] == [{"dp_rank": 0, "stored": [7]}]
    assert decode_event([name, fields]) == event


def test_a_reject_reason_is_written_by_its_value():
    reject = Reject(request_id="r", attempt=0, gateway_id="g", reason=RejectReason.NO_WORKER)
    assert encode_fields(reject)["reason"] == "no_worker"


@pytest.mark.parametrize(
    ("tagged", "message"),
    [
        pytest.param(["Nothing", {}], "unknown kind 'Nothing'", id="unknown-kind"),
        pytest.param(["TimerFired"], "is wanted", id="no-fields"),
        pytest.param(["TimerFired", []], "an object is wanted", id="fields-no-object"),
        pytest.param(["GatewayLost", {}], "gateway_id", id="missing-field"),
        pytest.param(["GatewayLost", {"gateway_id": "g", "x": 1}], "no field 'x'", id="unknown-field"),
        pytest.param(
            ["GatewayLost", {"gateway_id": 5}], "GatewayLost.gateway_id: str is wanted", id="wrong-type"
        ),
        pytest.param(["LeaderChanged", {"epoch": True}], "int is wanted", id="bool-is-no-int"),
        pytest.param(
            ["RequestArrived", {"request_id": "r", "num_prompt_tokens": 1, "latency_class": "x"}],
            "latency_class",
            id="unknown-enum",
        ),
        pytest.param(
            ["RequestArrived", {"request_id": "r", "num_prompt_tokens": 1, "block_hashes": "ab"}],
            "list is wanted",
            id="string-is-no-tuple",
        ),
    ],
)
def test_what_is_no_event_is_refused_with_the_field_named(tagged, message):
    with pytest.raises(ValueError, match=message):
        decode_event(tagged)
