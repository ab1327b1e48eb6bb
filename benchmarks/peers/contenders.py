"""Who is compared, and how each is started: with its own defaults, but for what is said here.

Three kinds: Hortator itself under one of its policies; a proxy, which forwards requests; a selector, which
says where a request should go. Names are what `--only` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDoor:
    """One EP group as a router sees it over HTTP."""

    url: str
    rank_urls: tuple[str, ...]
    """The same engine by DP rank."""
    sglang_url: str = ""
    """Of its SGLang gRPC door; empty: it has none."""

    @property
    def dp_size(self) -> int:
        """DP ranks."""
        return len(self.rank_urls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a router is started."""

    programs: Path
    """Folder of the programs of its environment."""
    port: int
    metrics_port: int
    engines: tuple[EngineDoor, ...]
    folder: Path
    """For files that it needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hortator:
    """Scheduler and gateway; the workers report to them."""

    policy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A program that forwards requests."""

    command: Callable[[Place], Sequence[str]]
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of every request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """`dynamo.select_service`."""

    command: Callable[[Place], Sequence[str]]
    variables: Mapping[str, str]


Kind: TypeAlias = Hortator | Proxy | Selector


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way of routing."""

    name: str
    what: str
    """One line for the page."""
    kind: Kind
    environment: str | None = None
    """Of `environments.ENVIRONMENTS`."""
    program: str | None = None
    """Of the system, where nothing is installed for it."""

    @property
    def is_ours(self) -> bool:
        """Hortator."""
        return isinstance(self.kind, Hortator)


API_KEY = "peers"
"""Of vllm-router, which asks for one as soon as it knows of DP ranks."""


def _smg(policy: str, *, door: Literal["http", "ports", "grpc"]) -> Callable[[Place], Sequence[str]]:
    dp_aware = door != "ports"

    def command(place: Place) -> Sequence[str]:
        urls = [url for engine in place.engines for url in _doors(engine, door)]
        return [
            str(place.programs / "smg"), "launch", "--host", "127.0.0.1", "--port", str(place.port),
            "--prometheus-host", "127.0.0.1", "--prometheus-port", str(place.metrics_port),
            "--policy", policy, *(["--dp-aware"] if dp_aware else []),
            "--worker-startup-check-interval", "1", "--load-monitor-interval", "1", "--log-level", "warn",
            "--worker-urls", *urls,
        ]  # fmt: skip

    return command


def _doors(engine: EngineDoor, door: Literal["http", "ports", "grpc"]) -> tuple[str, ...]:
    match door:
        case "http":
            return (engine.url,)
        case "ports":
            return engine.rank_urls
        case "grpc":
            return (engine.sglang_url,)


def _vllm_router(place: Place) -> Sequence[str]:
    return [
        str(place.programs / "vllm-router"), "--host", "127.0.0.1", "--port", str(place.port),
        "--prometheus-host", "127.0.0.1", "--prometheus-port", str(place.metrics_port),
        "--policy", "power_of_two", "--intra-node-data-parallel-size", str(place.engines[0].dp_size),
        "--api-key", API_KEY, "--worker-startup-check-interval", "1", "--log-level", "warning",
        "--worker-urls", *(engine.url for engine in place.engines),
    ]  # fmt: skip


def _select_service(place: Place) -> Sequence[str]:
    return [str(place.programs / "python"), "-m", "dynamo.select_service", "--port", str(place.port)]


HAPROXY = """\
global
    maxconn 8192
defaults
    mode http
    timeout connect 5s
    timeout client 10m
    timeout server 10m
frontend requests
    bind 127.0.0.1:{port}
    default_backend ranks
backend ranks
    balance leastconn
    http-reuse safe
{servers}
"""


def _haproxy(place: Place) -> Sequence[str]:
    servers = [
        f"    server rank{index} {url.removeprefix('http://')}"
        for index, url in enumerate(url for engine in place.engines for url in engine.rank_urls)
    ]
    file = place.folder / "haproxy.cfg"
    file.write_text(HAPROXY.format(port=place.port, servers="\n".join(servers)))
    return ["haproxy", "-db", "-f", str(file)]


def _hortator(policy: str, what: str) -> Contender:
    return Contender(name=policy, what=what, kind=Hortator(policy=policy))


def _dynamo(policy: str | None, threshold: str) -> Contender:
    variables = {"DYN_ROUTER_USE_KV_EVENTS": "false", "DYN_LOG": "warn"}
    if policy is None:
        name, what = "dynamo-off", "dynamo.select_service, no queue: every request is placed on arrival"
    else:
        variables |= {"DYN_ROUTER_QUEUE_THRESHOLD": threshold, "DYN_ROUTER_QUEUE_POLICY": policy}
        name = f"dynamo-{policy}-{threshold}"
        what = (
            f"dynamo.select_service, {policy} queue while all ranks have over {threshold} x the chunk budget"
        )
    kind = Selector(command=_select_service, variables=variables)
    return Contender(name=name, what=what, kind=kind, environment="dynamo")


CONTENDERS = {
    contender.name: contender
    for contender in (
        _hortator("staggered-plus", "Hortator"),
        _hortator("staggered", "Hortator, the paper's rule"),
        _hortator("immediate-least-tokens", "Hortator placing on arrival, fewest tokens first"),
        _hortator("immediate-least-delay", "Hortator placing on arrival, earliest predicted end first"),
        Contender(
            name="smg-least-load",
            what="smg, least_load, --dp-aware",
            kind=Proxy(command=_smg("least_load", door="http")),
            environment="smg",
        ),
        Contender(
            name="smg-power-of-two",
            what="smg, power_of_two, --dp-aware",
            kind=Proxy(command=_smg("power_of_two", door="http")),
            environment="smg",
        ),
        Contender(
            name="smg-cache-aware",
            what="smg, cache_aware, --dp-aware",
            kind=Proxy(command=_smg("cache_aware", door="http")),
            environment="smg",
        ),
        Contender(
            name="smg-least-load-ports",
            what="smg, least_load, one port per rank: it sees each rank's load, polled every second",
            kind=Proxy(command=_smg("least_load", door="ports")),
            environment="smg",
        ),
        Contender(
            name="smg-power-of-two-ports",
            what="smg, power_of_two, one port per rank",
            kind=Proxy(command=_smg("power_of_two", door="ports")),
            environment="smg",
        ),
        Contender(
            name="smg-least-load-grpc",
            what="smg, least_load, --dp-aware, over SGLang's gRPC: it tokenizes and knows every length",
            kind=Proxy(command=_smg("least_load", door="grpc")),
            environment="smg",
        ),
        Contender(
            name="vllm-router",
            what="vllm-router, power_of_two over the DP ranks",
            kind=Proxy(command=_vllm_router, headers={"Authorization": f"Bearer {API_KEY}"}),
            environment="vllm-router",
        ),
        _dynamo(None, ""),
        *(_dynamo(policy, threshold) for policy in ("fcfs", "wspt") for threshold in ("0", "0.5", "1", "2")),
        Contender(
            name="haproxy",
            what="haproxy, leastconn, one port per rank: the floor",
            kind=Proxy(command=_haproxy),
            program="haproxy",
        ),
    )
}
STANDARD = ("staggered-plus", "smg-least-load-grpc", "vllm-router", "dynamo-fcfs-1")
"""What fits half an hour: one of each project, as it knows most."""
