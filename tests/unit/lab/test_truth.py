"""The judge of the runs in which the operator is killed: it sees each lie that it is there for."""

import pytest

from cluster.recorder import Recorder, Seen
from cluster.scene import PREFIX
from cluster.truth import groups_of_sample, joined_twice, lies

GROUPS = groups_of_sample(1)


def labelled(name, epoch, **fields):
    metadata = {"name": name, "uid": name, "labels": {f"{PREFIX}epoch": str(epoch)}}
    return {"metadata": metadata | {"ownerReferences": [{"uid": "a set"}]}, **fields}


def service(*, is_ready):
    status = "True" if is_ready else "False"
    return {
        "metadata": {"name": "simulated", "generation": 1},
        "spec": {"replicas": 1},
        "status": {
            "display": {"groups": "3/3"},
            "conditions": [{"type": "Ready", "status": status, "observedGeneration": 1}],
        },
    }


def record_of(pods):
    """Groups in epoch 2, these pods by name and (epoch, whether ready), and then Ready turns True."""
    record = Recorder()
    for group in GROUPS:
        statefulset = {"metadata": {"name": group}, "spec": {"template": labelled("", 2)}}
        record.add("StatefulSet", Seen(at=1.0, is_gone=False, obj=statefulset))
    for name, (epoch, is_ready) in pods.items():
        conditions = [{"type": "Ready", "status": "True" if is_ready else "False"}]
        pod = labelled(name, epoch, status={"conditions": conditions})
        record.add("Pod", Seen(at=1.0, is_gone=False, obj=pod))
    record.add("LLMService", Seen(at=2.0, is_gone=False, obj=service(is_ready=False)))
    record.add("LLMService", Seen(at=4.0, is_gone=False, obj=service(is_ready=True)))
    return record


def all_pods():
    return {f"{group}-{number}": (2, True) for group, size in GROUPS.items() for number in range(size)}


def test_ready_with_every_member_is_no_lie():
    assert lies(record_of(all_pods())) == []


@pytest.mark.parametrize("member", [None, (1, True), (2, False)], ids=["missing", "old", "not ready"])
def test_ready_without_a_member_is_a_lie(member):
    pods = all_pods()
    del pods["simulated-d-0-3"]
    if member is not None:
        pods["simulated-d-0-3"] = member
    assert len(lies(record_of(pods))) == 1


def test_a_second_pod_of_a_name_in_one_epoch_has_joined_twice():
    record = record_of(all_pods())
    assert joined_twice(record) == []
    again = labelled("simulated-p-0-1", 2)
    again["metadata"] |= {"uid": "another", "ownerReferences": [{"uid": "a set that was made again"}]}
    record.add("Pod", Seen(at=5.0, is_gone=False, obj=again))
    assert joined_twice(record) == []
    again = labelled("simulated-p-0-1", 2)
    again["metadata"]["uid"] = "another"
    record.add("Pod", Seen(at=6.0, is_gone=False, obj=again))
    assert joined_twice(record) == [("a set", 2, "simulated-p-0-1")]
