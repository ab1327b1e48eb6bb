"""Whose turn it is in a rollout: tables of groups, as short texts, and the turn of each."""

import itertools

import pytest

from hortator.api.v1alpha1 import RolloutSpec
from hortator.operator.rollout import Standing, Turn, decisions, shortfall
from hortator.operator.status.evidence import Finding
from hortator.operator.status.reasons import Reason

ROLES = {"a": "Aggregated", "p": "Prefill", "d": "Decode"}
PULLS = {
    "pulling": Finding(reason=Reason.PRE_PULLING, message="until node n has pulled image i"),
    "unpulled": Finding(reason=Reason.PRE_PULL_FAILED, message="until node n can pull image i: no such tag"),
}


def standing(text):
    """`p3 old`: Prefill group 3 serves with the old revision; see the words below."""
    name, *words = text.split()
    assert set(words) <= {"old", "new", "broken", "draining", "absent", "surge", "between", *PULLS}, text
    revision = "r1" if "old" in words else "r0" if "between" in words else "r2" if "new" in words else ""
    return Standing(
        name=name,
        role=ROLES[name[0]],
        index=int(name[1:]),
        revision=revision,
        update="r2",
        exists="absent" not in words,
        is_available=not {"broken", "draining", "absent"} & set(words),
        is_on_its_way="draining" in words,
        is_surge="surge" in words,
        pull=next((PULLS[word] for word in words if word in PULLS), None),
    )


def decided(*groups, **rollout):
    spec = RolloutSpec.model_validate(rollout)
    return decisions([standing(text) for text in groups], spec)


def who_moves(*groups, **rollout):
    return {name for name, one in decided(*groups, **rollout).items() if one.turn is Turn.MOVES}


def old(letter, count):
    return [f"{letter}{index} old" for index in range(count)]


def reasons(found):
    return {name: one.reason for name, one in found.items() if one.reason is not None}


def test_groups_as_wanted_have_nothing_to_do():
    found = decided("a0 new", "a1 new broken", "a2 absent")
    assert {one.turn for one in found.values()} == {Turn.CURRENT}


def words(value):
    """The same in every process: sets have no order."""
    return " ".join(sorted(value)) if isinstance(value, set) else str(value)


@pytest.mark.parametrize(
    ("groups", "rollout", "moves"),
    [
        (old("a", 3), {}, {"a2"}),  # the highest index
        (old("a", 4), {"maxUnavailable": 2}, {"a3", "a2"}),
        (["a0 old", "a1 old", "a2 new broken"], {}, set()),  # one is away
        (["a0 old", "a1 old", "a2 old draining"], {}, {"a2"}),  # on its way; 1 is away
        (["a0 old", "a1 old", "a2 new"], {}, {"a1"}),
        (["a0 old", "a1 old", "a2 new broken"], {"maxUnavailable": 2}, {"a1"}),
        (["a0 old", "a1 new"], {}, {"a0"}),  # a1 serves meanwhile
        (["a0 between", "a1 old", "a2 new"], {}, {"a1"}),  # two old revisions at once: of an undo on the way
    ],
    ids=words,
)
def test_a_group_that_serves_moves_while_few_enough_are_away(groups, rollout, moves):
    assert who_moves(*groups, **rollout) == moves


@pytest.mark.parametrize(
    ("groups", "rollout", "moves"),
    [
        (["a0 old broken", "a1 old", "a2 old"], {}, {"a0"}),  # before a2
        (["a0 old broken", "a1 old broken", "a2 old"], {}, {"a1"}),  # one at a time: r1 serves in a2
        (["a0 old broken", "a1 old broken"], {}, {"a0", "a1"}),  # r1 serves nobody: nothing is lost
        (["a0 old broken", "a1 old", "a2 new broken"], {}, set()),  # r2 has not shown that it can serve
        (["a0 old broken", "a1 old", "a2 new"], {}, {"a0"}),  # it has
        (["a0 old broken", "a1 new"], {}, {"a0"}),
        (["a0 old broken", "a1 old broken", "a2 old"], {"maxUnavailable": 2}, {"a0", "a1"}),
        (["p0 old broken", "d0 old"], {}, {"p0"}),  # r1 serves in the other role: that says nothing of p0
    ],
    ids=words,
)
def test_a_broken_group_moves_first_but_not_into_a_revision_that_fails(groups, rollout, moves):
    assert who_moves(*groups, **rollout) == moves


def test_a_broken_group_that_waits_says_for_whom():
    found = decided("a0 old broken", "a1 old", "a2 new broken")["a0"]
    assert found.reason is Reason.ROLLING_UPDATE
    assert found.message == (
        "group a0 still runs revision r1, wanted is r2: it waits until group a2 can be used"
    )


@pytest.mark.parametrize("groups", [["a0 old"], ["a0 old", "a1 old broken"]], ids=words)
def test_the_last_available_group_of_a_role_stays(groups):
    assert "a0" not in who_moves(*groups, maxUnavailable=4)


def test_the_last_available_group_says_what_would_let_it_go():
    found = decided("a0 old")["a0"]
    assert found.reason is Reason.LAST_AVAILABLE_GROUP
    assert "last available group of role Aggregated" in found.message
    assert "spec.rollout.allowOutage is false" in found.message


def test_the_last_available_group_goes_when_an_outage_is_allowed():
    assert who_moves("a0 old", allowOutage=True) == {"a0"}


def test_two_groups_never_go_at_once_if_they_are_the_last_two():
    assert who_moves("a0 old", "a1 old", maxUnavailable=2) == {"a1"}


def test_nothing_moves_while_it_is_paused_broken_or_not():
    found = decided("a0 old", "a1 old broken", "a2 old draining", paused=True, maxUnavailable=4)
    assert {one.turn for one in found.values()} == {Turn.HELD}
    assert set(reasons(found).values()) == {Reason.ROLLOUT_PAUSED}


def test_groups_below_the_partition_stay():
    found = decided("a0 old broken", "a1 old", "a2 old", "a3 old", partition=2, maxUnavailable=4)
    assert [found[name].turn for name in ("a0", "a1", "a2", "a3")] == [
        Turn.HELD,
        Turn.HELD,
        Turn.MOVES,
        Turn.MOVES,
    ]
    assert found["a1"].reason is Reason.ROLLOUT_PARTITION
    assert "below index 2" in found["a1"].message


def test_a_group_that_is_not_there_starts_as_spec_asks_unless_it_is_held():
    groups = ("a0 old", "a1 old absent")
    assert decided(*groups)["a1"].turn is Turn.CURRENT
    assert decided(*groups, paused=True)["a1"].turn is Turn.HELD


@pytest.mark.parametrize(
    ("groups", "moves"),
    [
        ([*old("p", 4), "d0 old", "d1 old"], {"p3"}),  # 0/4 and 0/2: a tie
        (["p0 old", "p1 old", "p2 old", "p3 new", "d0 old", "d1 old"], {"d1"}),  # 1/4 and 0/2
        (["p0 old", "p1 old", "p2 old", "p3 new", "d0 old", "d1 new"], {"p2"}),  # 1/4 and 1/2
        (["p0 old", "p1 old", "p2 new", "p3 new", "d0 old", "d1 new"], {"p1"}),  # 2/4 and 1/2
        (["p0 old", "p1 new", "p2 new", "p3 new", "d0 old", "d1 new"], {"d0"}),  # 3/4 and 1/2
        (["p0 new", "p1 new", "d0 old", "d1 old"], {"d1"}),
    ],
    ids=words,
)
def test_the_role_that_has_moved_the_smaller_part_goes_first(groups, moves):
    assert who_moves(*groups) == moves


def test_no_role_goes_far_ahead_of_one_that_cannot_follow():
    """The only decode group may not go: prefill stops where it is one group ahead of its share."""
    assert who_moves(*old("p", 4), "d0 old") == {"p3"}
    found = decided("p0 old", "p1 old", "p2 old", "p3 new", "d0 old")
    assert {name: one.turn for name, one in found.items() if one.turn is Turn.MOVES} == {}
    assert found["p2"].reason is Reason.ROLLOUT_SKEW
    assert "for role Decode" in found["p2"].message
    assert found["d0"].reason is Reason.LAST_AVAILABLE_GROUP


def test_a_wider_skew_lets_it_go_on():
    assert who_moves("p0 old", "p1 old", "p2 old", "p3 new", "d0 old", maxSkew=2) == {"p2"}


def test_a_role_that_did_not_change_holds_nobody_back():
    assert who_moves("p0 old", "p1 old", "p2 new", "p3 new", "d0 new") == {"p1"}


def test_a_role_that_is_held_as_a_whole_holds_nobody_back():
    """Below the partition there is nothing to keep pace with."""
    assert who_moves("p0 old", "p1 old", "p2 old", "p3 new", "d0 old", partition=1) == {"p2"}


def test_a_group_whose_revision_nobody_can_tell_moves_in_its_turn():
    """Somebody took the label off its template."""
    assert who_moves("a0 new", "a1") == {"a1"}
    assert who_moves("a0 new broken", "a1 new", "a2") == set()


def test_with_surge_nothing_goes_before_more_is_there():
    spec = {"maxUnavailable": 0, "maxSurge": 1}
    assert who_moves("a0 old", "a1 old", "a2 absent surge", **spec) == set()
    assert who_moves("a0 old", "a1 old", "a2 new broken surge", **spec) == set()
    assert who_moves("a0 old", "a1 old", "a2 new surge", **spec) == {"a1"}
    assert who_moves("a0 old", "a1 new broken", "a2 new surge", **spec) == set()
    assert who_moves("a0 old", "a1 new", "a2 new surge", **spec) == {"a0"}


def test_surge_takes_the_place_of_a_last_group():
    spec = {"maxUnavailable": 0, "maxSurge": 1}
    waiting = decided("a0 old", "a1 new broken surge", **spec)["a0"]
    assert waiting.reason is Reason.ROLLING_UPDATE
    assert "until group a1 can be used" in waiting.message
    assert who_moves("a0 old", "a1 new surge", **spec) == {"a0"}


def test_a_surge_group_of_one_role_does_not_stand_in_for_another():
    groups = [*map(standing, ("p0 old", "p1 old", "p2 new surge", "d0 broken old", "d1 old"))]
    assert shortfall(groups) == 1
    assert shortfall(groups, taken={"p1"}) == 1
    assert shortfall(groups, taken={"d1"}) == 2


def test_while_the_model_is_downloaded_nothing_goes_that_serves_or_could_serve():
    spec = RolloutSpec()
    groups = [*map(standing, ("a0 old", "a1 old broken"))]
    found = decisions(groups, spec, is_model_there=False)
    assert set(reasons(found).values()) == {Reason.MODEL_DOWNLOADING}
    never_served = [*map(standing, ("a0 old broken", "a1 old broken"))]
    found = decisions(never_served, spec, is_model_there=False)
    assert {one.turn for one in found.values()} == {Turn.MOVES}


STATES = ("old", "old broken", "old draining", "new", "new broken", "absent")


@pytest.mark.parametrize("most_away", [1, 2])
def test_whatever_there_is_no_more_groups_that_serve_go_than_allowed(most_away):
    """Over every state of four groups: what serves and is taken keeps within the budget, and the last stays."""
    for states in itertools.product(STATES, repeat=4):
        groups = [f"a{index} {state}" for index, state in enumerate(states)]
        standings = [standing(text) for text in groups]
        serving = {one.name for one in standings if one.is_available}
        taken = who_moves(*groups, maxUnavailable=most_away) & serving
        if taken:
            assert shortfall(standings, taken=taken) <= most_away, groups
            assert serving - taken, groups


@pytest.mark.parametrize(
    "rollout",
    [
        {"maxUnavailable": 0, "maxSurge": 1},
        {"maxUnavailable": 1, "maxSurge": 1},
        {"maxUnavailable": 3, "maxSurge": 2, "maxSkew": 4},
        {"allowOutage": True},
    ],
    ids=str,
)
@pytest.mark.parametrize(("prefill", "decode"), [(1, 1), (4, 1), (1, 3), (5, 3)])
def test_two_roles_of_any_size_get_to_the_end_and_serve_meanwhile(prefill, decode, rollout):
    """A group that moves is away for one turn; surge groups are there from the second turn on."""
    groups = {f"p{index}": "old" for index in range(prefill)} | {f"d{i}": "old" for i in range(decode)}
    surge = [
        f"{letter}{first + number}"
        for letter, first in (("p", prefill), ("d", decode))
        for number in range(rollout.get("maxSurge", 0))
    ]
    groups |= dict.fromkeys(surge, "absent surge")
    for _ in range(4 * (prefill + decode)):
        texts = [f"{name} {state}" for name, state in groups.items()]
        moves = who_moves(*texts, **rollout)
        taken = [one for one in map(standing, texts) if one.is_available and one.name not in moves]
        assert rollout.get("allowOutage") or {one.role for one in taken} == {"Prefill", "Decode"}
        for name, state in groups.items():
            if name in moves:
                groups[name] = "new broken"
            elif state == "new broken":
                groups[name] = "new"
            elif state == "absent surge":
                groups[name] = "new surge"
    assert {groups[name] for name in groups.keys() - set(surge)} == {"new"}


def test_whatever_there_is_a_rollout_gets_to_its_end():
    """From every state of three groups: when each group that moves gets ready, all are new in the end."""
    for states in itertools.product(STATES, repeat=3):
        groups = {f"a{index}": state for index, state in enumerate(states)}
        for _ in range(4):
            moves = who_moves(*(f"{name} {state}" for name, state in groups.items()))
            for name, state in groups.items():
                if name in moves or state in {"absent", "new broken"}:
                    groups[name] = "new"
        assert set(groups.values()) == {"new"}, states


@pytest.mark.parametrize(
    ("groups", "rollout", "moves"),
    [
        (["a0 old pulling", "a1 old pulling"], {}, set()),
        (["a0 old", "a1 old pulling", "a2 old pulling"], {}, {"a0"}),  # its nodes are the first to have it
        (["a0 old pulling", "a1 old pulling broken"], {}, {"a1"}),  # it serves nobody: no reason to wait
        (["a0 old unpulled", "a1 old broken"], {}, set()),  # it would not come back
        (["a0 old unpulled broken"], {}, {"a0"}),  # nothing is lost
        (["p0 old unpulled", "p1 old broken", "d0 old broken", "d1 old"], {}, {"d0"}),  # another role's image
        (["a0 old pulling", "a1 old draining"], {}, {"a1"}),  # what has begun is finished
    ],
    ids=words,
)
def test_a_group_that_serves_waits_until_its_nodes_have_the_image(groups, rollout, moves):
    assert who_moves(*groups, **rollout) == moves


def test_a_pull_is_named_by_the_group_whose_turn_it_is():
    """Others wait for a group, or for somebody's leave, first."""
    found = decided("a0 old pulling", "a1 old pulling", "a2 new broken")
    assert reasons(found) == {"a0": Reason.ROLLING_UPDATE, "a1": Reason.ROLLING_UPDATE}
    assert reasons(decided("a0 old pulling")) == {"a0": Reason.LAST_AVAILABLE_GROUP}
    found = decided("a0 old unpulled", "a1 old broken")
    assert reasons(found) == {"a0": Reason.LAST_AVAILABLE_GROUP, "a1": Reason.PRE_PULL_FAILED}
    found = decided("a0 old pulling", "a1 old unpulled")
    assert reasons(found) == {"a0": Reason.PRE_PULLING, "a1": Reason.PRE_PULL_FAILED}
    assert found["a1"].message.endswith("it waits until node n can pull image i: no such tag")
