"""The numbering of an EP group, for every shape of it."""

from hypothesis import given
from hypothesis import strategies as st

from hortator.api.v1alpha1 import Parallelism, RoleSpec
from hortator.operator import topology
from hortator.operator.topology import Gpu, Occupant


@st.composite
def roles(draw):
    """A role whose parallelism fits its nodes."""
    tensor = draw(st.sampled_from([1, 1, 2, 4]))
    pipeline = draw(st.sampled_from([1, 1, 2, 3]))
    attention_dp = draw(st.integers(1, 24))
    world = tensor * pipeline * attention_dp
    gpus_per_node = draw(
        st.sampled_from([n for n in range(1, min(world, 72) + 1) if world % n == 0 and world // n <= 64])
    )
    return RoleSpec(
        name="Decode",
        nodes=world // gpus_per_node,
        gpus_per_node=gpus_per_node,
        parallelism=Parallelism(
            attention_dp=attention_dp, tensor=tensor, pipeline=pipeline, expert=attention_dp * tensor
        ),
    )


def occupants(role):
    split = role.parallelism
    return [
        Occupant(dp_rank=dp_rank, stage=stage, shard=shard)
        for stage in range(split.pipeline)
        for dp_rank in range(split.attention_dp)
        for shard in range(split.tensor)
    ]


def gpus(role):
    return [Gpu(ordinal=n, index=i) for n in range(role.nodes) for i in range(role.gpus_per_node)]


@given(roles())
def test_every_gpu_has_exactly_one_occupant(role):
    placed = [topology.gpu_of(role, occupant) for occupant in occupants(role)]
    assert len(set(placed)) == len(placed)
    assert set(placed) == set(gpus(role))
    assert [topology.occupant_of(role, gpu) for gpu in placed] == occupants(role)


@given(roles())
def test_every_rank_is_at_home_on_a_pod_that_has_it(role):
    ranks = range(role.parallelism.attention_dp)
    assert all(rank in topology.ranks_on(role, topology.home_of(role, rank)) for rank in ranks)
    assert set().union(*(topology.ranks_on(role, n) for n in range(role.nodes))) == set(ranks)


@given(roles())
def test_a_rank_of_one_gpu_is_on_one_pod(role):
    if role.parallelism.pipeline == role.parallelism.tensor == 1:
        on = [rank for ordinal in range(role.nodes) for rank in topology.ranks_on(role, ordinal)]
        assert on == list(range(role.parallelism.attention_dp))


@given(st.sets(st.integers(0, 40)).map(sorted))
def test_ranks_as_text_can_be_read_back(ranks):
    read = []
    for run in filter(None, topology.ranks_text(ranks).split(",")):
        first, _, last = run.partition("-")
        read += range(int(first), int(last or first) + 1)
    assert read == ranks
