"""What is there: raw objects and the scheduler's loads become typed facts about one LLMService."""

from hortator.operator.observed.facts import (
    Claim,
    DeploymentFacts,
    Ending,
    GroupFacts,
    JobFacts,
    Meta,
    NodeFacts,
    Observed,
    PodFacts,
    Refusal,
    SchedulerView,
    WarningEvent,
    WorkerLoad,
)
from hortator.operator.observed.memory import (
    Failure,
    Member,
    Memory,
    NodeFailure,
    read_memory,
    write_memory,
)
from hortator.operator.observed.observe import observe

__all__ = [
    "Claim",
    "DeploymentFacts",
    "Ending",
    "Failure",
    "GroupFacts",
    "JobFacts",
    "Member",
    "Memory",
    "Meta",
    "NodeFacts",
    "NodeFailure",
    "Observed",
    "PodFacts",
    "Refusal",
    "SchedulerView",
    "WarningEvent",
    "WorkerLoad",
    "observe",
    "read_memory",
    "write_memory",
]
