"""What `replicas` should be, by what is asked: the operator's own scaler.

Of an LLMService it counts role sets, of an LLMServiceScaler the groups of its role.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.text import Between


class AutoscalingSpec(Model):
    """The operator writes spec.replicas as the scheduler's figures ask, until somebody else writes it."""

    min_replicas: Annotated[int, Field(ge=1, le=1024)] = 1
    """What replicas is at least."""
    max_replicas: Annotated[int, Field(ge=1, le=1024)]
    """What replicas is at most."""
    target_saturation: Annotated[float, Field(gt=0, le=1)] = 0.7
    """What is asked of a role over what its groups can do, as it should be with the groups that there are."""
    target_ttft_s: Annotated[float, Between(low="1ms", high="1h")] | None = Field(
        default=None, alias="targetTTFT"
    )
    """One more while a new request's predicted TTFT is longer. Absent: saturation alone decides."""
    scale_up_window_s: Annotated[float, Between(low="0s", high="1h")] = Field(
        default=60.0, alias="scaleUpWindow"
    )
    """So long more must have been asked for, without a break."""
    scale_down_window_s: Annotated[float, Between(low="1m", high="6h")] = Field(
        default=1800.0, alias="scaleDownWindow"
    )
    """So long fewer must have been enough; then one goes, and it begins anew."""
