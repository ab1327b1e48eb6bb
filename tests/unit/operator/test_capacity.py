"""Room for a whole group: the arithmetic of slots, domains and claims."""

import pytest

from hortator.operator.capacity import Need, need_of, room_for
from hortator.operator.observed import Claim, Meta, NodeFacts, observe

GPU = "nvidia.com/gpu"


def a_node(name, free=8, **changes):
    fields = {
        "name": name,
        "is_ready": True,
        "unready_since": None,
        "is_cordoned": False,
        "is_out_of_service": False,
        "labels": {},
        "taints": (),
        "allocatable": {GPU: 8.0},
        "free": {GPU: float(free)},
    }
    return NodeFacts(**(fields | changes))


def a_need(num_pods=2, gpus=8, **changes):
    fields = {
        "num_pods": num_pods,
        "requests": {GPU: float(gpus)},
        "node_selector": {},
        "tolerations": (),
        "keeps_apart": False,
        "topology_key": "",
        "is_domain_required": True,
    }
    return Need(**(fields | changes))


def a_claim(num_pods, **changes):
    fields = {
        "name": "default/other-a-0",
        "num_pods": num_pods,
        "requests": {GPU: 8.0},
        "node_selector": {},
        "tolerations": (),
        "keeps_apart": False,
        "avoided": frozenset(),
    }
    return Claim(**(fields | changes))


def room(need, nodes, claims=()):
    return room_for(need, nodes={node.name: node for node in nodes}, claims=claims)


def in_domains(**frees):
    """`in_domains(a=[8, 8], b=[8])`: nodes in domains of label `block`."""
    return [
        a_node(f"{domain}{index}", free, labels={"block": domain})
        for domain, values in frees.items()
        for index, free in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("need", "frees", "fits", "slots"),
    [
        (a_need(2), [8, 8], True, 2),  # 1 + 1
        (a_need(2), [8, 7], False, 1),  # 1 + 0
        (a_need(2, gpus=4), [8], True, 2),  # 8 / 4 on one node
        (a_need(2, gpus=4, keeps_apart=True), [8], False, 1),  # at most 1 per node
        (a_need(2, gpus=4, keeps_apart=True), [4, 4], True, 2),
        (a_need(2), [0, 0, 8, 8], True, 2),
        (a_need(3), [8, 8], False, 2),
        (a_need(1), [], False, 0),
    ],
)
def test_slots_are_counted(need, frees, fits, slots):
    found = room(need, [a_node(f"n{index}", free) for index, free in enumerate(frees)])
    assert (found.fits, found.num_slots) == (fits, slots)


@pytest.mark.parametrize(
    ("domains", "fits", "domain"),
    [
        ({"a": [8, 8, 8], "b": [8, 8]}, True, "b"),  # the tighter fit leaves a for a larger group
        ({"a": [8], "b": [8]}, False, ""),  # 2 in all, 1 in each
        ({"a": [8, 8], "b": [8, 8]}, True, "a"),  # a tie: by name
    ],
)
def test_a_required_domain_holds_the_whole_group(domains, fits, domain):
    found = room(a_need(2, topology_key="block"), in_domains(**domains))
    assert (found.fits, found.domain) == (fits, domain)


def test_a_preferred_domain_is_given_up_when_there_is_none():
    need = a_need(2, topology_key="block", is_domain_required=False)
    assert room(need, in_domains(a=[8, 8], b=[8])).domain == "a"
    spread = room(need, in_domains(a=[8], b=[8]))
    assert (spread.fits, spread.domain) == (True, "")


@pytest.mark.parametrize(
    "changes",
    [
        {"is_ready": False},
        {"is_cordoned": True},
        {"labels": {}},
        {"taints": ({"key": "t", "effect": "NoSchedule"},)},
    ],
)
def test_a_node_that_cannot_be_used_has_no_slots(changes):
    need = a_need(1, node_selector={"pool": "h800"})
    assert room(need, [a_node("n", labels={"pool": "h800"})]).fits
    assert not room(need, [a_node("n", **({"labels": {"pool": "h800"}} | changes))]).fits


@pytest.mark.parametrize(
    ("toleration", "tolerates"),
    [
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "value": "yes"}, True),
        ({"key": "gpu", "value": "no"}, False),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
    ],
)
def test_a_taint_is_tolerated_as_kubernetes_has_it(toleration, tolerates):
    tainted = a_node("n", taints=({"key": "gpu", "value": "yes", "effect": "NoSchedule"},))
    assert room(a_need(1, tolerations=(toleration,)), [tainted]).fits is tolerates


def test_the_promise_of_another_group_is_not_given_away_again():
    """Two services never each hold half of the nodes."""
    nodes = [a_node("n0"), a_node("n1")]
    assert room(a_need(2), nodes).fits
    found = room(a_need(2), nodes, [a_claim(1)])
    assert (found.fits, found.num_slots) == (False, 1)


TAINTED = {"taints": ({"key": "team", "value": "research", "effect": "NoSchedule"},)}


@pytest.mark.parametrize(
    ("claim", "nodes", "slots"),
    [
        ({"num_pods": 1}, [a_node("n0", **TAINTED), a_node("n1")], 0),  # n1 is its only node
        (
            {"num_pods": 1, "tolerations": ({"key": "team", "operator": "Exists"},)},
            [a_node("n0", **TAINTED), a_node("n1")],
            1,  # n0 will do
        ),
        ({"num_pods": 2, "requests": {GPU: 4.0}}, [a_node("n0"), a_node("n1")], 1),  # both on n0
        (
            {"num_pods": 2, "requests": {GPU: 4.0}, "keeps_apart": True},
            [a_node("n0"), a_node("n1")],
            0,  # one on each
        ),
        (
            {"num_pods": 1, "requests": {GPU: 4.0}, "avoided": frozenset({"n0"})},
            [a_node("n0", 4), a_node("n1")],
            0,  # not on n0, where it would fit
        ),
    ],
)
def test_a_promise_is_kept_on_nodes_that_its_pods_can_use(claim, nodes, slots):
    """Else what they will take is promised once more."""
    assert room(a_need(2), nodes, [a_claim(**claim)]).num_slots == slots


def test_the_scarcest_device_is_named():
    nodes = [a_node("n0", free=8) for _ in range(1)]
    need = a_need(1, requests={GPU: 8.0, "rdma/hca": 1.0})
    assert room(need, nodes).resource == "rdma/hca"


def test_what_a_group_asks_for_is_read_from_its_template():
    template = {
        "spec": {
            "containers": [{"resources": {"requests": {"cpu": "4"}, "limits": {GPU: "8", "rdma/hca": 2}}}],
            "nodeSelector": {"pool": "h800"},
            "affinity": {
                "podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [
                        {"topologyKey": "kubernetes.io/hostname"}
                    ]
                }
            },
        }
    }
    need = need_of(template, num_pods=2, topology_key="", is_domain_required=True)
    assert need.requests == {GPU: 8.0, "rdma/hca": 2.0, "cpu": 4.0}
    assert need.has_devices
    assert need.node_selector == {"pool": "h800"}
    assert need.keeps_apart


def test_the_claim_of_a_group_says_what_its_template_says(sample, wanted):
    """As it is written: what the group is placed by is what others count for it."""
    service = sample("h800-16")
    group = wanted(service).groups[0]
    written = group.statefulset(
        epoch=1, replicas=group.num_members, annotations={}, avoided=frozenset({"n3", "n7"})
    )
    meta = Meta(namespace="team", name="another", uid="u", generation=1)
    (claim,) = observe([written], meta=meta, loads={}).claims
    need = need_of(group.template, num_pods=group.num_members, topology_key="", is_domain_required=True)
    assert claim.avoided == {"n3", "n7"}
    assert claim.keeps_apart
    assert (claim.requests, claim.keeps_apart, claim.tolerations, claim.node_selector) == (
        need.requests,
        need.keeps_apart,
        need.tolerations,
        need.node_selector,
    )
    assert written["spec"]["template"]["spec"]["affinity"].keys() > {"nodeAffinity"}  # beside the others
