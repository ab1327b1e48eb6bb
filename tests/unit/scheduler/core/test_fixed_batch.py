"""Windows of a fixed length, whatever the engines do."""


def test_the_window_is_released_when_its_oldest_has_waited_for_it(machine, members):
    """10 ms by default, counted from the first arrival."""
    s = machine(policy="fixed-batch")
    s.join()
    assert members(s.arrive("a", now=1.0)) == []
    assert members(s.arrive("b", now=1.006)) == []
    assert s.machine.next_wakeup() == 1.01
    assert members(s.tick(1.01)) == [["a", "b"]]


def test_the_interval_sets_the_window(machine, members):
    """`interval_s`."""
    s = machine(policy="fixed-batch", interval_s=0.5)
    s.join()
    s.arrive("a", now=1.0)
    assert members(s.tick(1.4)) == []
    assert members(s.tick(1.5)) == [["a"]]


def test_the_whole_window_goes_to_the_group_with_the_fewest_tokens_running_or_not(machine):
    """p1 has less, although a pass runs there; the excess queues in the engine."""
    s = machine(policy="fixed-batch")
    s.join("p0")
    s.join("p1")
    s.report("p0", now=0.0, prefill_load_tokens=(500, 500))
    s.start_pass("p1", now=0.0, prefill_load_tokens=(300, 300))
    for i in range(6):
        s.arrive(f"r{i}", 800, now=1.0)
    s.tick(1.01)
    assert {group for group, _ in s.where.values()} == {"p1"}
    assert sorted(s.group("p1").load_tokens) == [2700, 2700]


def test_longest_first_onto_the_emptiest_rank(machine):
    """900 | 500, then 400 onto the 500, then 100 onto either 900."""
    s = machine(policy="fixed-batch")
    s.join()
    for name, prompt in (("a", 400), ("b", 900), ("c", 100), ("d", 500)):
        s.arrive(name, prompt, now=1.0)
    s.tick(1.01)
    assert s.where == {"b": ("p0", 0), "d": ("p0", 1), "a": ("p0", 1), "c": ("p0", 0)}


def test_without_a_worker_the_window_stays_open_until_one_reports(machine, members):
    """And then goes at once, because it is over."""
    s = machine(policy="fixed-batch")
    s.arrive("a", now=1.0)
    assert members(s.tick(1.01)) == []
    assert members(s.join(now=2.0)) == [["a"]]
