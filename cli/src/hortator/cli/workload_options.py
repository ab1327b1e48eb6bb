"""The options of `hortator simulate` that say what is asked of the cluster, checked and made a workload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hortator.api.duration import format_duration, parse_duration
from hortator.api.v1alpha1 import LLMService
from hortator.cli.errors import CommandError
from hortator.sim.arrivals import ArrivalMode, Arrivals
from hortator.sim.load import LoadedTrace
from hortator.sim.simulate import generated_workload, trace_workload
from hortator.sim.tenants import Tenants, with_tenants
from hortator.sim.workload import LENGTHS, TraceRequest

MAX_LOAD = 2.0
MAX_MINUTES = 7 * 24 * 60.0
"""A week."""
DEFAULT_LENGTHS = "conversation"
_OPTIONS = {"cv": "--burstiness", "peak_to_mean": "--peak-to-mean", "period_s": "--period"}
"""Of the parameters of Arrivals."""
_TENANCY = {"count": "--tenants", "flood": "--flood"}
"""Of the fields of Tenants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadOptions:
    """As given on the command line; None: not given."""

    load: float = 0.7
    minutes: float = 20.0
    """Virtual minutes at least."""
    arrivals: str = ArrivalMode.POISSON.value
    burstiness: float | None = None
    period: str | None = None
    peak_to_mean: float | None = None
    lengths: str | None = None
    skip_bad: bool = False
    tenants: int | None = None
    flood: float | None = None
    """How many times its share the first tenant asks for."""

    def at(self, load: float) -> WorkloadOptions:
        """The same at another load."""
        return replace(self, load=load)

    def checked(self, *, has_trace: bool) -> Arrivals:
        """The arrivals that are asked for.

        Raises:
            CommandError: an option is out of range, or has no effect beside the others.
        """
        if not 0 < self.load <= MAX_LOAD:
            raise CommandError(
                f"--load: got {self.load:g} (allowed: above 0, at most {MAX_LOAD:g}; 1 is all there is)"
            )
        if not 0 < self.minutes <= MAX_MINUTES:
            raise CommandError(f"--minutes: got {self.minutes:g} (allowed: above 0, at most {MAX_MINUTES:g})")
        if self.arrivals not in list(ArrivalMode):
            raise CommandError(f"--arrivals: got {self.arrivals!r} (allowed: {', '.join(ArrivalMode)})")
        mode = ArrivalMode(self.arrivals)
        if mode is ArrivalMode.RECORDED and not has_trace:
            allowed = ", ".join(other for other in ArrivalMode if other is not mode)
            raise CommandError(f"--arrivals: recorded needs --trace FILE (allowed without: {allowed})")
        self._refuse_what_has_no_effect(mode, has_trace=has_trace)
        if self.lengths is not None and self.lengths not in LENGTHS:
            raise CommandError(f"--lengths: got {self.lengths!r} (allowed: {', '.join(LENGTHS)})")
        self.tenancy()
        arrivals = self._arrivals(mode)
        if mode is ArrivalMode.DIURNAL:
            self._check_period(arrivals.period_s)
        return arrivals

    def tenancy(self) -> Tenants | None:
        """Whose the requests are; None: nobody's in particular.

        Raises:
            CommandError: an option is out of range, or has no effect.
        """
        if self.tenants is None:
            if self.flood is not None:
                raise CommandError("--flood: no effect without tenants (allowed with --tenants NUMBER)")
            return None
        try:
            return Tenants(count=self.tenants, flood=1.0 if self.flood is None else self.flood)
        except ValueError as error:
            field, _, problem = str(error).partition(": ")
            raise CommandError(f"{_TENANCY[field]}: {problem}") from None

    def _refuse_what_has_no_effect(self, mode: ArrivalMode, *, has_trace: bool) -> None:
        for name, value, owner in (
            ("--burstiness", self.burstiness, ArrivalMode.GAMMA),
            ("--period", self.period, ArrivalMode.DIURNAL),
            ("--peak-to-mean", self.peak_to_mean, ArrivalMode.DIURNAL),
        ):
            if value is not None and mode is not owner:
                raise CommandError(
                    f"{name}: no effect with --arrivals {mode} (allowed with --arrivals {owner})"
                )
        if self.lengths is not None and has_trace:
            raise CommandError("--lengths: no effect on a trace, which has its own (allowed without --trace)")
        if self.skip_bad and not has_trace:
            raise CommandError("--skip-bad: no effect where no file is read (allowed with --trace FILE)")

    def _arrivals(self, mode: ArrivalMode) -> Arrivals:
        parameters: dict[str, Any] = {"cv": self.burstiness, "peak_to_mean": self.peak_to_mean}
        if self.period is not None:
            try:
                parameters["period_s"] = parse_duration(self.period)
            except ValueError as error:
                raise CommandError(f"--period: {error}") from None
        given = {name: value for name, value in parameters.items() if value is not None}
        try:
            return Arrivals(mode=mode, **given)
        except ValueError as error:
            field, _, problem = str(error).partition(": ")
            raise CommandError(f"{_OPTIONS[field]}: {problem}") from None

    def _check_period(self, period_s: float) -> None:
        if period_s > 60 * MAX_MINUTES:
            longest = format_duration(60 * MAX_MINUTES)
            raise CommandError(f"--period: got {self.period} (allowed: at most {longest})")
        if 60 * self.minutes < period_s * (1 - 1e-9):
            raise CommandError(
                f"--minutes: got {self.minutes:g}, less than one period of --arrivals diurnal "
                f"(allowed: {period_s / 60:.10g} or more, or a --period of at most "
                f"{format_duration(60 * self.minutes)})"
            )


def make_workload(
    service: LLMService,
    requests: Sequence[TraceRequest] | None,
    options: WorkloadOptions,
    *,
    arrivals: Arrivals,
    seed: int,
) -> LoadedTrace:
    """The requests of a trace (None: generated ones) as the options want them.

    Args:
        service: the cluster.
        requests: of a trace, in order of arrival.
        options: all of them.
        arrivals: what `options.checked` gave.
        seed: of what is drawn.

    Raises:
        CommandError: the trace has no rate, or nothing arrives at such a load.
    """
    min_run_s = 60 * options.minutes
    tenants = options.tenancy()
    try:
        if requests is None:
            workload = generated_workload(
                service,
                load=options.load,
                lengths=options.lengths or DEFAULT_LENGTHS,
                arrivals=arrivals,
                seed=seed,
                min_run_s=min_run_s,
            )
        else:
            workload = trace_workload(
                service, requests, load=options.load, arrivals=arrivals, seed=seed, min_run_s=min_run_s
            )
    except ValueError as error:
        raise CommandError(str(error)) from None
    return workload if tenants is None else with_tenants(workload, tenants, seed=seed)


def workload_document(workload: LoadedTrace) -> dict[str, Any]:
    """The JSON fields that say what was asked of the cluster. `lengths` is null for a trace."""
    return {
        "load": workload.load,
        "arrivals": {"mode": workload.arrivals.mode.value, **workload.arrivals.parameters()},
        "lengths": workload.lengths,
        "wall_s": workload.wall_s,
        "tiles": workload.num_tiles,
    }
