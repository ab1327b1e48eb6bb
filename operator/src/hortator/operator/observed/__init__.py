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
from hortator.operator.observed.scalers import ScalerFacts, scalers_of

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
    "ScalerFacts",
    "SchedulerView",
    "WarningEvent",
    "WorkerLoad",
    "observe",
    "read_memory",
    "scalers_of",
    "write_memory",
]
