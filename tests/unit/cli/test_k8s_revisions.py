"""Back to an earlier revision: which one is meant, and the spec that has its hash again."""

import copy
from pathlib import Path

import pytest
import yaml

from hortator.api.parse import parse
from hortator.cli.errors import CommandError
from hortator.cli.k8s.revisions import changes, chosen, history, merge_patch, restored, wanted_hashes
from hortator.operator.desired import desired
from hortator.operator.options import Images, Options
from hortator.operator.revision import hash_of

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = Options(images=Images.of_version("1.2.3"))
UID = "uid-1"


class Life:
    """An LLMService over its changes, with the revisions that the operator has made and what its groups run."""

    def __init__(self, sample="simulated-64", **values):
        document = yaml.safe_load((ROOT / f"manifests/samples/llmservice-{sample}.yaml").read_text())
        document["metadata"] |= {"uid": UID, "namespace": "default", "generation": 0}
        self.service, self.revisions, self.running = document, [], {}
        self.change(values)
        self.roll()

    def change(self, values):
        """`{"spec.engine.image": "mine:2"}`; None removes."""
        self.service = copy.deepcopy(self.service)
        for path, value in values.items():
            *parents, last = path.split(".")
            place = self.service
            for part in parents:
                place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
            if value is None:
                place.pop(last, None)
            else:
                place[last] = value
        self.replace(self.service["spec"])
        return self

    def replace(self, spec):
        self.service = self.service | {"spec": spec}
        self.service["metadata"]["generation"] += 1
        parsed = parse(self.service)
        assert parsed.service is not None, parsed.problems
        assert not parsed.problems
        known = {one["metadata"]["name"]: one for one in self.revisions}
        self.wanted = desired(
            parsed.service,
            uid=UID,
            options=OPTIONS,
            generation=self.service["metadata"]["generation"],
            revisions=self.revisions,
        )
        known |= {one["metadata"]["name"]: one for one in self.wanted.revisions}
        self.revisions = list(known.values())

    def roll(self, *names):
        """These groups move; without names all."""
        for group in self.wanted.groups:
            if not names or group.name in names:
                self.running[group.name] = group.statefulset(
                    epoch=1, replicas=group.num_members, annotations={}
                )
        return self

    @property
    def history(self):
        return history(self.service, [*self.revisions, *self.running.values()])

    def hashes(self):
        return wanted_hashes(self.service)

    def undo(self, *, role=None, number=None):
        self.replace(restored(self.service, chosen(self.history, role=role, number=number)))
        return self


def numbers(targets):
    return {one.role: one.number for one in targets}


def refused(call, *arguments, **options):
    with pytest.raises(CommandError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_the_history_says_who_runs_what_and_what_is_wanted():
    life = Life().change({"spec.engine.image": "mine:2"}).roll("simulated-p-1")
    told = [(one.role, one.number, one.num_groups, one.is_wanted, one.generation) for one in life.history]
    assert told == [
        ("Prefill", 1, 1, False, 1),
        ("Prefill", 2, 1, True, 2),
        ("Decode", 1, 1, False, 1),
        ("Decode", 2, 0, True, 2),
    ]


def test_what_changed_is_told_field_by_field():
    life = Life().change({"spec.engine.image": "mine:2", "spec.roles.0.chunkBudgetTokens": 4096})
    first, second = life.history[:2]
    assert changes(None, first.fields) == []
    assert changes(first.fields, second.fields) == [
        "engine.image: default -> mine:2",
        "role.chunkBudgetTokens: default -> 4096",
    ]


def test_the_history_of_a_statefulset_and_of_another_service_is_not_ours():
    life = Life()
    theirs = copy.deepcopy(life.revisions[0])
    theirs["metadata"]["ownerReferences"][0]["uid"] = "uid-0"
    life.revisions += [theirs, life.wanted.record]
    assert len(life.history) == 2


CHANGES = [
    {"spec.engine.image": "mine:2"},
    {"spec.engine.env": [{"name": "NCCL_DEBUG", "value": "INFO"}]},
    {"spec.engine.imagePullPolicy": "Always"},
    {"spec.engine.simulated.timeScale": 0.5},
    {"spec.roles.0.chunkBudgetTokens": 4096},
    {"spec.roles.0.nodeSelector": {"pool": "a"}},
    {"spec.roles.1.maxSequenceTokens": 4096},
    {"spec.model.name": "other"},
    {"spec.model.authSecretRef": {"name": "hf"}},
    {"spec.placement.topologyKey": "topology.kubernetes.io/zone"},
    {"spec.placement.gang": {"provider": "Volcano", "queue": "serving"}},
]


@pytest.mark.parametrize("values", CHANGES, ids=lambda values: next(iter(values)))
@pytest.mark.parametrize("is_forward", [True, False], ids=["set", "removed"])
def test_going_back_gives_the_very_revision_whatever_was_changed(values, is_forward):
    before, after = ({}, values) if is_forward else (values, dict.fromkeys(values))
    life = Life(**before)
    hashes, spec = life.hashes(), copy.deepcopy(life.service["spec"])
    life.change(after).roll()
    assert life.hashes() != hashes
    life.undo()
    assert life.hashes() == hashes
    assert life.service["spec"].keys() - {"placement"} == spec.keys() - {"placement"}


def test_what_no_pod_sees_stays_as_it_is_now():
    life = Life().change({"spec.engine.image": "mine:2"}).roll()
    later = {"spec.replicas": 3, "spec.roles.0.replicas": 5, "spec.scheduler.replicas": 1}
    life.change(later | {"spec.placement.gang.timeout": "1m", "spec.rollout.partition": 1})
    life.undo()
    spec = life.service["spec"]
    assert (spec["replicas"], spec["roles"][0]["replicas"]) == (3, 5)
    assert spec["placement"] == {"gang": {"timeout": "1m"}}
    assert spec["rollout"] == {"partition": 1}
    assert "image" not in spec["engine"]


def test_a_part_that_goes_back_to_nothing_leaves_what_no_pod_sees():
    placement = {"topologyKey": "topology.kubernetes.io/zone", "gang": {"timeout": "1m"}}
    life = Life().change({"spec.placement": placement}).roll().undo()
    assert life.service["spec"]["placement"] == {"gang": {"timeout": "1m"}}


def test_going_back_to_the_own_gang_leaves_its_timeout():
    told = {"provider": "Volcano", "queue": "serving", "schedulerName": "mine"}
    life = Life(**{"spec.placement": {"gang": {"timeout": "1m"}}})
    life.change({"spec.placement": {"gang": {"timeout": "2m"} | told}}).roll().undo()
    assert life.service["spec"]["placement"] == {"gang": {"timeout": "2m"}}


def test_while_groups_are_still_to_move_undo_means_what_they_run():
    life = Life()
    life.change({"spec.engine.image": "mine:2"}).roll()
    life.change({"spec.engine.image": "mine:3"}).roll("simulated-p-1")
    assert numbers(chosen(life.history, role=None, number=None)) == {"Prefill": 2, "Decode": 2}


def test_when_all_have_moved_undo_means_what_was_before_the_last_change():
    """Only the role that it changed goes back."""
    life = Life().change({"spec.engine.image": "mine:2"}).roll()
    life.change({"spec.roles.1.chunkBudgetTokens": 4096}).roll()
    assert numbers(chosen(life.history, role=None, number=None)) == {"Decode": 2}


def test_a_second_undo_asks_which_revision_is_meant():
    life = Life().change({"spec.engine.image": "mine:2"}).roll().undo().roll()
    assert "taken back to revision 1 already" in refused(chosen, life.history, role=None, number=None)
    assert numbers(chosen(life.history, role="Prefill", number=2)) == {"Prefill": 2}


def test_the_first_revision_has_none_before_it():
    assert "no earlier revision" in refused(chosen, Life().history, role=None, number=None)


def test_a_number_needs_its_role_when_several_have_it():
    life = Life().change({"spec.engine.image": "mine:2"})
    assert "--to-revision 1: of which role? (--role, allowed: Prefill, Decode)" in refused(
        chosen, life.history, role=None, number=1
    )
    assert "--to-revision 9: not kept (allowed: Prefill 1, Prefill 2, Decode 1, Decode 2)" in refused(
        chosen, life.history, role=None, number=9
    )
    assert "--role Aggregated: no such role (allowed: Prefill, Decode)" in refused(
        chosen, life.history, role="Aggregated", number=None
    )


def test_one_role_goes_back_alone_where_nothing_is_shared():
    life = Life().change({"spec.roles.0.chunkBudgetTokens": 1024, "spec.roles.1.chunkBudgetTokens": 2048})
    hashes = life.roll().hashes()
    life.undo(role="Decode", number=1)
    assert life.hashes()["Prefill"] == hashes["Prefill"]
    assert life.hashes()["Decode"] == hash_of(life.revisions[1])


def test_what_roles_share_goes_back_with_one_of_them():
    """The image is a field of the service: the other role gets it too."""
    life = Life().change({"spec.engine.image": "mine:2"}).roll()
    first = [one.hash for one in life.history if one.number == 1]
    life.undo(role="Decode", number=1)
    assert list(life.hashes().values()) == first


def test_revisions_that_never_were_together_are_refused():
    life = Life()
    life.change({"spec.engine.image": "mine:2"}).roll("simulated-p-0", "simulated-p-1")
    life.change({"spec.engine.image": "mine:3"})
    found = refused(life.undo)
    assert "Prefill 2 and Decode 1 were never asked for together: name one of them (--role)" in found


def test_what_a_revision_does_not_hold_is_named_instead_of_guessed():
    cache = {"spec.model.cache": {"claimName": "weights"}}
    life = Life(**cache).change({"spec.model.cache": {"claimName": "others"}}).roll()
    assert "cache.claim: weights -> others (change spec by hand" in refused(life.undo)


def test_a_merge_patch_leads_from_one_spec_to_the_other():
    before = {"a": 1, "b": {"c": 2, "d": 3}, "e": [1], "same": {"x": 1}}
    after = {"a": 1, "b": {"c": 4}, "e": [1, 2], "f": 5, "same": {"x": 1}}
    assert merge_patch(before, after) == {"b": {"c": 4, "d": None}, "e": [1, 2], "f": 5}
    assert merge_patch(before, before) == {}
