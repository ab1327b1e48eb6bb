"""At most one leader, whatever the API server and the clocks do."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from doubles.kubernetes.api import ApiError, ApiServer
from doubles.kubernetes.cluster import FakeCluster
from hortator.operator.lease import API_VERSION, Leadership, LeadershipLostError, LeaseTimes
from hortator.operator.objects import Ref

pytestmark = pytest.mark.looptime

LEASE = (API_VERSION, "Lease", "default", "op")


class Candidate:
    """One operator process: its own connection to the same API server."""

    def __init__(self, api: ApiServer, name: str) -> None:
        self.cluster = FakeCluster(api)
        self.leadership = Leadership(self.cluster, namespace="default", name="op", identity=name)
        self.task = asyncio.create_task(self._run())
        self.led_at: float | None = None
        self.lost_at: float | None = None
        self.why = ""

    async def _run(self) -> None:
        await self.leadership.acquire()
        self.led_at = now()
        try:
            await self.leadership.hold()
        except LeadershipLostError as error:
            self.lost_at, self.why = now(), str(error)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def now() -> float:
    return asyncio.get_running_loop().time()


async def watch_over(
    candidates: list[Candidate], until: float, at: Callable[[], None] = lambda: None
) -> None:
    """Let time pass; never do two lead at once."""
    while now() < until:
        assert sum(candidate.leadership.is_leader_now() for candidate in candidates) <= 1
        at()
        await asyncio.sleep(0.05)


async def test_the_first_candidate_leads_and_renews() -> None:
    api = ApiServer()
    one = Candidate(api, "one")
    await watch_over([one], 30.0)
    lease = api.get(LEASE)
    assert lease["spec"]["holderIdentity"] == "one"
    assert lease["spec"]["leaseDurationSeconds"] == 15
    assert lease["spec"]["leaseTransitions"] == 0
    renewals = [write for write in api.writes if write.key == LEASE and write.verb == "replace"]
    assert 10 <= len(renewals) <= 15  # one every 2 s
    await one.stop()


async def test_a_second_candidate_waits_while_the_first_renews() -> None:
    api = ApiServer()
    one = Candidate(api, "one")
    await watch_over([one], 1.0)
    two = Candidate(api, "two")
    await watch_over([one, two], 60.0)
    assert one.leadership.is_leader_now()
    assert two.led_at is None
    await one.stop(), await two.stop()


async def test_a_leader_cut_off_stops_before_another_leads() -> None:
    api = ApiServer()
    one, two = Candidate(api, "one"), Candidate(api, "two")
    await watch_over([one, two], 20.5)
    leader, other = (one, two) if one.led_at is not None else (two, one)
    leader.cluster.pause()
    await watch_over([one, two], 60.0)
    assert leader.lost_at is not None
    assert leader.lost_at <= 20.5 + 10.1
    assert other.led_at is not None
    assert leader.lost_at < other.led_at < 20.5 + 15 + 2 + 1
    assert api.get(LEASE)["spec"]["leaseTransitions"] == 1
    await one.stop(), await two.stop()


async def test_a_short_pause_costs_nothing() -> None:
    api = ApiServer()
    one = Candidate(api, "one")
    await watch_over([one], 5.0)
    one.cluster.pause()
    await watch_over([one], 11.0)
    one.cluster.resume()
    await watch_over([one], 40.0)
    assert one.leadership.is_leader_now()
    assert one.lost_at is None
    await one.stop()


async def test_everybody_cut_off_for_long_leads_to_one_leader_again() -> None:
    api = ApiServer()
    one, two = Candidate(api, "one"), Candidate(api, "two")
    await watch_over([one, two], 20.0)
    first = one if one.led_at is not None else two
    one.cluster.pause(), two.cluster.pause()
    await watch_over([one, two], 50.0)
    assert not one.leadership.is_leader_now()
    assert not two.leadership.is_leader_now()
    one.cluster.resume(), two.cluster.resume()
    await watch_over([one, two], 75.0)
    assert first.lost_at is not None  # its process has ended, the other candidate leads
    assert (two if first is one else one).leadership.is_leader_now()
    await one.stop(), await two.stop()


async def test_a_released_lease_is_taken_at_the_next_look() -> None:
    api = ApiServer()
    one = Candidate(api, "one")
    await watch_over([one], 5.0)
    two = Candidate(api, "two")
    await watch_over([one, two], 10.0)
    await one.stop()
    await one.leadership.release()
    assert not one.leadership.is_leader_now()
    await watch_over([one, two], 12.1)
    assert two.leadership.is_leader_now()
    await two.stop()


async def test_a_lease_taken_by_force_ends_the_leader_at_once() -> None:
    api = ApiServer()
    one = Candidate(api, "one")
    await watch_over([one], 4.9)
    lease = api.get(LEASE)
    lease["spec"]["holderIdentity"] = "somebody"
    api.replace(lease)
    await watch_over([one], 8.0)
    assert one.lost_at is not None
    assert one.lost_at < 7.1
    assert "somebody" in one.why
    await one.stop()


async def test_a_lost_answer_is_no_lost_lease() -> None:
    """The renewal was done, its answer did not come: the next one meets a conflict with itself."""
    api = ApiServer()
    one = Candidate(api, "one")
    await watch_over([one], 3.0)

    def lose_one(verb: str, _ref: Ref) -> None:
        if verb == "replace":
            one.cluster.after_write = lambda _verb, _ref: None
            raise ApiError(504, "Timeout", "the answer got lost")

    one.cluster.after_write = lose_one
    await watch_over([one], 30.0)
    assert one.leadership.is_leader_now()
    assert one.lost_at is None
    await one.stop()


@pytest.mark.parametrize("skew", [timedelta(days=-400), timedelta(days=400)], ids=["past", "future"])
async def test_wall_clocks_decide_nothing(skew: timedelta) -> None:
    api = ApiServer(now=lambda: datetime.now(UTC) + skew)
    stamp = (datetime.now(UTC) + skew).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": "gone", "leaseDurationSeconds": 15, "renewTime": stamp, "acquireTime": stamp}
    api.create(
        {"apiVersion": API_VERSION, "kind": "Lease", "metadata": {"name": "op", "namespace": "default"}}
        | {"spec": spec}
    )
    one = Candidate(api, "one")
    await watch_over([one], 14.5)
    assert one.led_at is None  # somebody may hold it: a whole duration is waited
    await watch_over([one], 18.0)
    assert one.led_at is not None
    await one.stop()


async def test_of_many_candidates_one_takes_over() -> None:
    api = ApiServer()
    candidates = [Candidate(api, f"c{number}") for number in range(8)]
    await watch_over(candidates, 10.0)
    leader = next(candidate for candidate in candidates if candidate.led_at is not None)
    leader.cluster.pause()
    await watch_over(candidates, 60.0)
    assert sum(candidate.led_at is not None for candidate in candidates) == 2
    for candidate in candidates:
        await candidate.stop()


async def test_errors_of_the_server_are_ridden_out() -> None:
    api = ApiServer()
    one = Candidate(api, "one")
    await watch_over([one], 3.0)
    answers = iter(range(1000))
    one.cluster.fault = lambda _verb, _ref: (
        ApiError(500 if next(answers) % 2 else 429, "Broken", "storm", retry_after_s=1.0)
        if next(answers) % 3
        else None
    )
    await watch_over([one], 60.0)
    assert one.leadership.is_leader_now()
    await one.stop()


def test_times_that_cannot_be_safe_are_refused() -> None:
    with pytest.raises(ValueError, match="duration > deadline"):
        LeaseTimes(duration_s=10.0, renew_deadline_s=10.0)
