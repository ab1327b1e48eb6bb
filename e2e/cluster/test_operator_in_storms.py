"""The API server answers errors, loses replies and ends watches while a service is changed, whatever the change.

The storm of a test rages until a change is done, and the first writes of a change are hit for certain. What is
asked for each time is what would be there without a storm: the same epochs, and no pod more.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from cluster.kube import Obj
from cluster.operators import operators_in
from cluster.proxy.faults import Fault
from cluster.recorder import recording
from cluster.scene import Scene, condition, epochs, is_ready

WRITES = "PUT PATCH POST DELETE"
SPARED = r"^(?!.*/(leases|events)[/?])(?!.*/events$)"
"""A path that is neither of a Lease nor of an Event."""
STORMS = {
    "429": [Fault(share=0.15, answer=429, retry_after_s=1, watches=False)],
    "500 and lost replies": [
        Fault(share=0.2, answer=500),
        Fault(share=0.15, methods=WRITES, lose="reply"),
    ],
    "409": [Fault(share=0.25, methods=WRITES, answer=409)],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A change, how the service is once it is done, and the epochs of its groups then."""

    name: str
    do: Callable[[Scene], object]
    epochs: dict[str, int]
    is_done: Callable[[Obj], object] = is_ready


STEPS = (
    Step(name="create", do=lambda scene: scene.create(), epochs={"llm-a-0": 1, "llm-a-1": 1}),
    Step(
        name="a member fails",
        do=lambda scene: scene.nodes.do(scene.namespace, "llm-a-1-1", "crash", exit_code=1),
        epochs={"llm-a-0": 1, "llm-a-1": 2},
    ),
    Step(
        name="drain", do=lambda scene: scene.drain("llm-a-0"), epochs={"llm-a-0": 2, "llm-a-1": 2}
    ),
    Step(
        name="scale",
        do=lambda scene: scene.patch({"replicas": 2}),
        epochs={"llm-a-0": 2, "llm-a-1": 2, "llm-a-2": 1, "llm-a-3": 1},
    ),
    Step(
        name="suspend",
        do=lambda scene: scene.patch({"suspend": True}),
        is_done=lambda service: condition(service, "Suspended").get("status") == "True",
        epochs={"llm-a-0": 3, "llm-a-1": 3, "llm-a-2": 2, "llm-a-3": 2},
    ),
)  # fmt: skip


@pytest.mark.parametrize("storm", STORMS)
def test_a_storm_of_errors_is_ridden_out_in_every_step_of_a_service_s_life(
    lab, namespace, eight_nodes, faulty_api, storm
):
    proxy, kubeconfig = faulty_api
    settings = {"namespaces": f'["{namespace}"]', "resync_interval_s": "5"}
    with ExitStack() as stack:
        operators = stack.enter_context(operators_in(lab, namespace, kubeconfig=kubeconfig, **settings))
        record = stack.enter_context(recording(lab.client, namespace))
        operator = operators.start()
        scene = Scene(lab=lab, namespace=namespace, nodes=eight_nodes, operator=operator, record=record)
        for step in STEPS:
            first_writes = Fault(methods=WRITES, path=SPARED, times=2, answer=STORMS[storm][0].answer)
            began_at = time.monotonic()
            with proxy.faults.failing(first_writes, *STORMS[storm]):
                step.do(scene)
                scene.until(
                    lambda service, step=step: step.is_done(service) and epochs(service) == step.epochs,
                    timeout_s=45,
                )
            took_s = time.monotonic() - began_at
            num_hit = sum(one.is_fault for one in proxy.faults.passed(since=began_at))
            print(f"{storm}: {step.name}: {took_s:.1f} s, {num_hit} errors")
            assert num_hit >= 2
        scene.at_rest()
        assert operator.is_alive()
        for group in STEPS[-1].epochs:
            asked = sorted({step.epochs[group] for step in STEPS if group in step.epochs})
            assert scene.epochs_of(group) == asked
            lives = scene.lives_of(group)  # the epoch of a suspended group has no pods yet
            assert lives.keys() == {(epoch, f"{group}-{n}") for epoch in asked[:-1] for n in (0, 1)}
            assert {len(uids) for uids in lives.values()} == {1}
