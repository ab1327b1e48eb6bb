"""How many role sets there are, by what is asked of them: the operator's own scaler."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.text import Between


class AutoscalingSpec(Model):
    """The operator writes spec.replicas as the scheduler's figures ask, until somebody else writes it."""

    min_replicas: Annotated[int, Field(ge=1, le=1024)] = 1
    """Role sets that there are at least."""
    max_replicas: Annotated[int, Field(ge=1, le=1024)]
    """Role sets that there are at most."""
    target_saturation: Annotated[float, Field(gt=0, le=1)] = 0.7
    """What is asked of a role over what its groups can do, as it should be with the sets that there are."""
    target_ttft_s: Annotated[float, Between(low="1ms", high="1h")] | None = Field(
        default=None, alias="targetTTFT"
    )
    """One more set while a new request's predicted TTFT is longer. Absent: saturation alone decides."""
    scale_up_window_s: Annotated[float, Between(low="0s", high="1h")] = Field(
        default=60.0, alias="scaleUpWindow"
    )
    """So long more sets must have been asked for, without a break."""
    scale_down_window_s: Annotated[float, Between(low="1m", high="6h")] = Field(
        default=1800.0, alias="scaleDownWindow"
    )
    """So long fewer sets must have been enough; then one goes, and it begins anew."""
