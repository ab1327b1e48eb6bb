"""What a link to a scheduler leaves unsaid, and what never."""

import pytest

from hortator.runtime.leader_follower import LeaderFollower
from hortator.runtime.transport import Plaintext
from hortator.worker.client.report import SchedulerLink
from hortator.worker.engine import ForwardPassEnded, ForwardPassStarted, RankLoad
from hortator.worker.report import LoadSnapshot, PassReported


@pytest.fixture
async def link():
    link = SchedulerLink(
        "127.0.0.1:1",
        worker=None,
        min_backoff_s=1.0,
        max_backoff_s=1.0,
        on_welcome=lambda: None,
        transport=Plaintext(),
        follower=LeaderFollower(timeout_s=2.0, on_change=lambda: None),
    )
    link._is_up = True
    return link


def a_rank(**changes):
    return RankLoad(
        dp_rank=0, prefill_load_tokens=0, num_waiting=0, batch_size=0, kv_blocks_used=0, **changes
    )


def reported(report):
    return PassReported(
        report=report, loads=LoadSnapshot(epoch=1, included_dispatch_seq=1, ranks=(a_rank(),))
    )


def started(**changes):
    return reported(ForwardPassStarted(forward_pass_id=1, ranks=(a_rank(**changes),)))


ENDED = reported(ForwardPassEnded(forward_pass_id=1, duration_s=0.1, ranks=(a_rank(),)))


async def test_the_start_of_a_pass_that_has_ended_already_is_not_said(link):
    """It would cost a message and say nothing that the end does not."""
    link.offer(started())
    link.offer(ENDED)
    assert list(link._backlog) == [ENDED]


@pytest.mark.parametrize("changes", [{"removed_blocks": (7,)}, {"stored_blocks": (7,)}])
async def test_a_start_that_tells_of_blocks_is_always_said(link, changes):
    """Else the scheduler would believe in blocks that were evicted as the pass was formed."""
    start = started(**changes)
    link.offer(start)
    link.offer(ENDED)
    assert list(link._backlog) == [start, ENDED]
