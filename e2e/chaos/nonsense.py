"""How many bad inputs the boundaries have been given (`fuzzing.target`), and what came through."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzzing.all_targets import TARGETS
from fuzzing.target import Target


def tried(*, first_seed: int, num_inputs: int) -> tuple[dict[str, int], list[str]]:
    """Inputs by boundary, four in form to one without; and problems."""
    counts: dict[str, int] = {}
    problems: list[str] = []
    for target in TARGETS:
        counts[target.name] = 0
        for inputs, share in ((target.inputs, 0.8), (st.binary(max_size=300), 0.2)):
            try:
                counts[target.name] += _try(
                    target, inputs, first_seed=first_seed, num_inputs=max(1, int(share * num_inputs))
                )
                counts[target.name] += _cases(target) if inputs is target.inputs else 0
            except Exception as error:  # noqa: BLE001  # whatever it is, it should have stayed inside
                problems.append(f"{target.name}: {error!r}")
    return counts, problems


def _try(target: Target, inputs: st.SearchStrategy[bytes], *, first_seed: int, num_inputs: int) -> int:
    num_tried = 0

    @settings(
        max_examples=num_inputs,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @seed(first_seed)
    @given(inputs)
    def any_input(data: bytes) -> None:
        nonlocal num_tried
        num_tried += 1
        target.run(data)

    any_input()
    return num_tried


def _cases(target: Target) -> int:
    """What was a bug once."""
    for case in target.cases:
        target.run(case)
    return len(target.cases)
