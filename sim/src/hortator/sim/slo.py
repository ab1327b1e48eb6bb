"""Service-level objectives: what a request must keep to count for goodput."""

from __future__ import annotations

from dataclasses import dataclass, fields

from hortator.api.duration import parse_duration

ITL_SHARE = 0.99
"""Share of a request's gaps between tokens, the first one included, that must keep the `itl` limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Limits in seconds; infinite: none."""

    ttft: float = float("inf")
    tpot: float = float("inf")
    itl: float = float("inf")
    e2e: float = float("inf")

    def limits(self) -> dict[str, float]:
        """Those that are set, by name."""
        limits = {field.name: float(getattr(self, field.name)) for field in fields(self)}
        return {name: limit for name, limit in limits.items() if limit < float("inf")}


def parse_slo(text: str) -> Slo:
    """From `ttft=2s,itl=50ms`.

    Raises:
        ValueError: names the part that is wrong and what is allowed.
    """
    allowed = [field.name for field in fields(Slo)]
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in allowed:
            raise ValueError(f"got {part.strip()!r} (allowed: NAME=DURATION with {', '.join(allowed)})")
        if name in limits:
            raise ValueError(f"{name} is there twice")
        try:
            limits[name] = parse_duration(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return Slo(**limits)
