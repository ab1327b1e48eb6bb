"""What executes forward passes, and the image that it comes in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.lists import ListMap
from hortator.api.v1alpha1.text import ChildName, ImageName, Text

Backend = Literal["TensorRTLLM", "TorchMoE", "Simulated"]
SimulatedPreset = Literal["deepseek-h800", "rtp-h800"]
ImagePullPolicy = Literal["Always", "IfNotPresent", "Never"]

MAX_ENV = 64
MAX_PULL_SECRETS = 8

EnvName = Annotated[
    str,
    Text(
        pattern="[A-Za-z_][A-Za-z0-9_]*",
        max_length=128,
        allowed="letters, digits and '_', not starting with a digit",
    ),
]


class SimulatedSpec(Model):
    """The modelled engine: DeepSeek-V3 on H800 by a calibrated cost model."""

    preset: SimulatedPreset = "deepseek-h800"
    """Whose serving engine is modelled."""
    time_scale: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Wall seconds per modelled second: 1 is real time, 0.1 is ten times faster."""
    expert_skew: Annotated[float, Field(ge=1, le=32)] = 1.367
    """Prefill tokens on the hottest EP rank over the mean; 1 is perfect expert balance."""
    seed: Annotated[int, Field(ge=0, le=(1 << 53) - 1)] = 0
    """Seed of generated tokens and of timing noise."""


class ObjectName(Model):
    """A reference to an object in the service's namespace."""

    name: ChildName
    """Of the object."""


class EnvVar(Model):
    """One environment variable."""

    name: EnvName
    """Of engines and of downloads of weights; variables that Hortator itself sets win."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """As it is: nothing is expanded."""


class EngineSpec(Model):
    """What executes forward passes."""

    backend: Backend
    """TorchMoE and Simulated run on CPUs."""
    simulated: SimulatedSpec | None = None
    """Only with backend Simulated; absent means all defaults."""
    image: ImageName | None = None
    """Of the engine pods; absent: the operator's image for this backend."""
    image_pull_policy: ImagePullPolicy = "IfNotPresent"
    """Of every pod of the service."""
    image_pull_secrets: Annotated[
        tuple[ObjectName, ...], Field(strict=False, max_length=MAX_PULL_SECRETS), ListMap("name")
    ] = ()
    """Secrets of type kubernetes.io/dockerconfigjson, for every pod of the service."""
    env: Annotated[tuple[EnvVar, ...], Field(strict=False, max_length=MAX_ENV), ListMap("name")] = ()
    """Environment of the engine containers, for example NCCL_IB_HCA."""

    @property
    def simulated_options(self) -> SimulatedSpec:
        """The options of the modelled engine, defaults filled in."""
        return self.simulated or SimulatedSpec()
