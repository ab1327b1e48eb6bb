"""Windows and backlog: how long `staggered-plus` lets a pass be, and who is in it."""

from hortator.scheduler.core.events import RequestCancelled


def test_it_never_holds_work_back_from_a_ready_group(machine, members):
    """No idle gate: two ready groups, two small requests at once, two batches."""
    s = machine(policy="staggered-plus")
    s.join("p0")
    s.join("p1")
    assert members(s.arrive("a", 1, now=1.0)) == [["a"]]
    assert members(s.arrive("b", 1, now=1.0)) == [["b"]]


def test_a_short_pass_of_short_prompts_goes_before_a_long_one(machine, members):
    """Without backlog: those of 50 tokens do not wait for the one of 8000."""
    s = machine(policy="staggered-plus")
    s.join(chunk_budget_tokens=8192, kv_blocks_total=10_000, max_batch_size=64)
    s.start_pass(now=0.0)
    s.arrive("long", 8000, now=0.10)
    for i in range(20):
        s.arrive(f"s{i}", 50, now=0.11)
    (batch,) = members(s.end_pass(now=0.2))
    assert "long" not in batch
    assert len(batch) >= 2  # at least one on each rank


def test_a_backlog_makes_passes_full(machine, members):
    """Many seconds of work wait: throughput counts, so the full budget is packed."""
    s = machine(policy="staggered-plus", age_first_s=1e9)
    s.join(chunk_budget_tokens=8192, kv_blocks_total=10_000, max_batch_size=512)
    s.start_pass(now=0.0)
    for i in range(200):
        s.arrive(f"l{i}", 4000, now=0.1)
        s.arrive(f"s{i}", 50, now=0.1)
    (batch,) = members(s.end_pass(now=0.2))
    tokens = sum(4000 if name.startswith("l") else 50 for name in batch)
    assert tokens > 0.8 * 2 * 8192


def test_requests_older_than_age_first_go_whatever_their_length(machine, members):
    """The same short prompts, but the long one has waited for over 0.5 s."""
    s = machine(policy="staggered-plus", age_first_s=0.5)
    s.join(chunk_budget_tokens=8192, kv_blocks_total=10_000, max_batch_size=64)
    s.start_pass(now=0.0)
    s.arrive("long", 8000, now=0.10)
    for i in range(20):
        s.arrive(f"s{i}", 50, now=0.65)
    (batch,) = members(s.end_pass(now=0.7))
    assert "long" in batch


def _long_ones_of_a_release(machine, members, num_long):
    """Two ranks; long prompts have waited for 0.2 s as short ones arrive."""
    s = machine(policy="staggered-plus", gathered_first_s=0.1, age_first_s=5.0)
    s.join(chunk_budget_tokens=8192, kv_blocks_total=10_000, max_batch_size=64)
    s.start_pass(now=0.0)
    for i in range(num_long):
        s.arrive(f"long{i}", 3500, now=0.01)
    for i in range(20):
        s.arrive(f"short{i}", 50, now=0.19)
    (batch,) = members(s.end_pass(now=0.2))
    return [name for name in batch if name.startswith("long")]


def test_long_prompts_wait_for_company(machine, members):
    """One of 3500 tokens fills less than a quarter of a pass; two are more."""
    assert _long_ones_of_a_release(machine, members, 1) == []
    assert "long0" in _long_ones_of_a_release(machine, members, 2)


def test_a_long_backlog_is_run_in_passes_of_like_lengths(machine, members):
    """All have waited too long: the oldest goes first, with those of its length, not with the next oldest."""
    s = machine(policy="staggered-plus", age_first_s=0.5)
    s.join(chunk_budget_tokens=8192, kv_blocks_total=10_000, max_batch_size=64)
    s.start_pass(now=0.0)
    for i in range(220):
        name, tokens = ("long", 7000) if i % 11 == 10 else ("short", 400)
        s.arrive(f"{name}{i}", tokens, now=0.1 + i / 1000)
    (batch,) = members(s.end_pass(now=5.0))
    assert "short0" in batch
    assert not [name for name in batch if name.startswith("long")]


def test_when_the_oldest_fits_nowhere_the_next_oldest_goes_first(machine, members):
    """The oldest needs more KV blocks than this group has at all."""
    s = machine(policy="staggered-plus", age_first_s=0.5)
    s.join("small", chunk_budget_tokens=8192, kv_blocks_total=100, max_batch_size=64)
    s.join("large", chunk_budget_tokens=8192, kv_blocks_total=10_000, max_batch_size=64)
    s.start_pass("small", now=0.0)
    s.start_pass("large", now=0.0)
    s.arrive("oldest", 8000, now=0.1)
    s.arrive("old", 1600, now=0.11)
    s.arrive("young", 50, now=4.9)
    (batch,) = members(s.end_pass("small", now=5.0))
    assert "old" in batch
    assert "oldest" not in batch


def test_the_level_is_never_below_what_the_old_ones_fill_already(machine, members):
    """An old one of 6000 makes the pass that long; a young one of 5000 beside it is free."""
    s = machine(policy="staggered-plus", age_first_s=0.5)
    s.join(chunk_budget_tokens=8192, kv_blocks_total=10_000, max_batch_size=64)
    s.start_pass(now=0.0)
    s.arrive("old", 6000, now=0.05)
    s.arrive("young", 5000, now=0.65)
    s.arrive("tiny", 10, now=0.66)
    (batch,) = members(s.end_pass(now=0.7))
    assert sorted(batch) == ["old", "tiny", "young"]


def test_a_lone_long_prompt_goes_at_once(machine, members):
    """With nothing shorter to prefer, the full budget is the level."""
    s = machine(policy="staggered-plus")
    s.join(chunk_budget_tokens=8192, kv_blocks_total=10_000)
    assert members(s.arrive("long", 8192, now=1.0)) == [["long"]]


def test_prompts_of_several_passes_are_seated_too(machine, members):
    """At the level of the full budget."""
    s = machine(policy="staggered-plus")
    s.join()
    assert members(s.arrive("long", 5000, now=1.0)) == [["long"]]


def test_a_fixed_interval_applies_as_in_staggered(machine, members):
    """20 ms after the last release."""
    s = machine(policy="staggered-plus", interval_s=0.020)
    s.join("p0")
    s.join("p1")
    assert members(s.arrive("a", now=1.0)) == [["a"]]
    assert members(s.arrive("b", now=1.001)) == []
    assert members(s.tick(1.021)) == [["b"]]


def test_the_highest_priority_chooses_the_window(machine, members):
    """A long prompt of higher priority goes before short ones of lower, which fill what is left."""
    s = machine(policy="staggered-plus")
    s.join(chunk_budget_tokens=8192, kv_blocks_total=10_000, max_batch_size=64)
    s.start_pass(now=0.0)
    for i in range(20):
        s.arrive(f"s{i}", 50, now=0.1)
    s.arrive("urgent", 8000, now=0.1, priority=1)
    (batch,) = members(s.end_pass(now=0.2))
    assert "urgent" in batch
    assert len(batch) == 21


def test_load_makes_the_same_backlog_weigh_more(machine, members):
    """The same 40 requests wait: at low load a short pass, after a flood of arrivals a full one."""

    def batch(*, flood):
        s = machine(policy="staggered-plus", max_waiting_requests=10_000)
        s.join(chunk_budget_tokens=8192, kv_blocks_total=10_000, max_batch_size=512)
        s.start_pass(now=0.0)
        for i in range(400 if flood else 0):
            s.arrive(f"f{i}", 1000, now=0.0)
            s.at(0.0, RequestCancelled(request_id=f"f{i}"))
        for i in range(20):
            s.arrive(f"l{i}", 1000, now=0.1)
            s.arrive(f"s{i}", 50, now=0.1)
        (members_,) = members(s.end_pass(now=0.2))
        return sum(1000 if name.startswith("l") else 50 for name in members_)

    assert batch(flood=False) < 0.3 * 2 * 8192
    assert batch(flood=True) > 0.8 * 2 * 8192
