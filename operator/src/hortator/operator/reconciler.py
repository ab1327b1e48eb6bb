"""One look at an LLMService: observe, plan, carry out one step. Level-triggered: the past does not matter.

Whatever fails, the next look starts from what is there:

    not the leader any more      nothing is written, nothing is repeated
    the API server cannot answer again later, with growing pauses, or when it asked for
    a conflict                   the object has been read again; again soon
    the service's namespace ends the service is read again; it will go
    refused for good             told in the conditions, tried again after `REFUSED_RETRY_S` or on news
    a pull refused for good      told in an event; after a while groups do without (`pulls`)
    a certificate refused        told in a condition; the rest goes on (`certificate_keeper`)
    anything else                a defect: logged with its traceback, again later

What a plan is about to write is promised before anything else may run (`inventory`), so of two services that
look for room at the same moment the second counts what the first has taken. A write without an answer may
have been done: its promise stands until the service is looked at again.

The status is written after the actions, when it differs from what the object says, so at rest nothing is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from hortator.api.parse import Parsed, parse
from hortator.api.v1alpha1 import SCALER_KIND, AutoscalingSpec, LLMService
from hortator.operator.accepted import accepted
from hortator.operator.certificate_keeper import CertificateKeeper
from hortator.operator.certificates import Wanted, wanted
from hortator.operator.cluster import (
    Cluster,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from hortator.operator.demand import Demand, Sample, sample_of, sample_of_role
from hortator.operator.desired import Options, carried_out
from hortator.operator.execution import Executor, schedulers_of, target
from hortator.operator.guard import NotLeaderError
from hortator.operator.inventory import Inventory, service_ref
from hortator.operator.manifests.metadata import Owner
from hortator.operator.metrics import OperatorMetrics
from hortator.operator.objects import Obj, Ref
from hortator.operator.observed import Meta, Observed, Refusal, SchedulerView, observe, scalers_of
from hortator.operator.plan import (
    Action,
    Apply,
    Create,
    Emit,
    Plan,
    Scale,
    StatusOf,
    plan,
    refused_statuses,
)
from hortator.operator.plan.actions import emitted
from hortator.operator.pulls import REFUSED_LIMIT_S, is_pull, refusal_of
from hortator.operator.recorder import EventRecorder
from hortator.operator.scalers import refused, role_scalers
from hortator.operator.schedulers import Schedulers
from hortator.operator.status.reasons import Reason
from hortator.operator.work_queue import Done, Failed, Key

REFUSED_RETRY_S = 60.0
MAX_QUICK_STEPS = 8


class Reconciler:
    """`look` is what the work queue calls."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        inventory: Inventory,
        schedulers: Schedulers,
        certificates: CertificateKeeper,
        recorder: EventRecorder,
        metrics: OperatorMetrics,
        options: Options,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        told_at: Callable[[], float] = time.monotonic,
    ) -> None:
        """`cluster` is the guarded one: it refuses writes of a process that does not lead."""
        self._inventory = inventory
        self._schedulers = schedulers
        self._certificates = certificates
        self._executor = Executor(
            cluster=cluster,
            inventory=inventory,
            schedulers=schedulers,
            certificates=certificates,
            metrics=metrics,
            told_at=told_at,
        )
        self._recorder = recorder
        self._metrics = metrics
        self._options = options
        self._now = now
        self._num_steps: dict[Key, int] = {}
        """Looks in a row that wrote something; see `_next_look_s`."""
        self._demands: dict[Key, dict[Ref, Demand]] = {}
        """By what has a scaler: the service itself, or an LLMServiceScaler of it."""
        self._pull_refusals: dict[Key, Refusal] = {}
        """Of the services whose pulls the API server refuses to make."""
        self._log = structlog.get_logger("hortator.operator.reconciler")

    def forget(self, key: Key) -> None:
        """The service is gone."""
        self._executor.forget(key)
        self._inventory.promise(key, ())
        self._num_steps.pop(key, None)
        self._demands.pop(key, None)
        self._pull_refusals.pop(key, None)
        self._certificates.forget(key)
        self._metrics.forget(key)

    async def look(self, key: Key) -> Done | Failed:
        """Look at one service and take the next step. Never raises."""
        began_at = time.perf_counter()
        with structlog.contextvars.bound_contextvars(namespace=key[0], service=key[1]):
            outcome = await self._guarded(key)
        label = "done" if isinstance(outcome, Done) else "failed"
        self._metrics.reconcile_seconds.labels(outcome=label).observe(time.perf_counter() - began_at)
        return outcome

    async def _guarded(self, key: Key) -> Done | Failed:
        before = self._executor.num_writes(key)
        outcome = await self._judged(key)
        if isinstance(outcome, Failed):
            return replace(outcome, has_progressed=self._executor.num_writes(key) > before)
        return outcome

    async def _judged(self, key: Key) -> Done | Failed:
        try:
            return await self._reconcile(key)
        except NotLeaderError as error:
            self._log.info("stopped", reason=str(error))
            return Done()
        except ConflictError as error:
            self._count(error)
            self._log.info("somebody else wrote", error=str(error))
            return Failed()
        except NotFoundError as error:
            self._count(error)
            self._log.info("gone meanwhile", error=str(error))
            return Failed()
        except UnavailableError as error:
            self._count(error)
            self._log.warning("the API server cannot answer", error=str(error))
            return Failed(retry_after_s=error.retry_after_s)
        except Exception as error:  # noqa: BLE001  # one service's defect must not stop the others
            self._count(error)
            self._log.exception("reconciling failed")
            return Failed(retry_after_s=5.0)

    async def _reconcile(self, key: Key) -> Done | Failed:
        service = self._inventory.service(key)
        if service is None:
            self.forget(key)
            await self._tell_scalers(key, self._of_no_service(key))
            return Done()
        if service["metadata"].get("deletionTimestamp"):
            return Done()  # garbage collection removes the children
        step = await self._plan(key, service)
        actions = [action for action in step.actions if not self._executor.is_pointless(key, action)]
        refusal: ClusterError | None = None
        for action in actions:
            self._log.info("step", action=type(action).__name__, what=_what(action), why=action.why)
            is_of_pull = isinstance(action, Create) and is_pull(action.obj)
            try:
                await self._executor.carry_out(key, action)
            except (InvalidError, ForbiddenError) as error:
                self._count(error)
                self._log.warning("the API server refuses", error=str(error))
                if is_of_pull:
                    await self._pull_refused(key, service, error)
                else:
                    refusal = error
                break
            if is_of_pull:
                self._pull_refusals.pop(key, None)
            if isinstance(action, Scale):
                self._demands.get(key, {}).pop(action.ref, None)  # the windows begin anew
        self._inventory.promise(key, ())  # all of it is known by now, or refused
        status = _with_refusal(step.status, refusal) if refusal else step.status
        await self._executor.write_status(key, service, status)
        await self._tell_scalers(key, step.scalers)
        self._show(key, status)
        if refusal is not None:
            await self._recorder.emit(service, _event_of(refusal))
            return Done(wake_after_s=REFUSED_RETRY_S)
        for event in step.events:
            await self._recorder.emit(self._about(event) or service, event)
        return Done(wake_after_s=self._next_look_s(key, has_acted=bool(actions), step=step))

    def _next_look_s(self, key: Key, *, has_acted: bool, step: Plan) -> float | None:
        """Soon after a step: own writes are known already, so no news of them will come.

        More and more slowly when step follows step without an end, which only a defect or a quarrel over a
        field with somebody else makes happen.
        """
        if not has_acted:
            self._num_steps.pop(key, None)
            return step.wake_after_s
        count = self._num_steps[key] = self._num_steps.get(key, 0) + 1
        pause_s = 0.0 if count <= MAX_QUICK_STEPS else min(0.1 * 2.0 ** (count - MAX_QUICK_STEPS), 30.0)
        return pause_s if step.wake_after_s is None else min(pause_s, step.wake_after_s)

    # --- observe and plan -----------------------------------------------------------------------------

    async def _plan(self, key: Key, service: Obj) -> Plan:
        metadata = service["metadata"]
        meta = Meta(
            namespace=key[0],
            name=key[1],
            uid=metadata["uid"],
            generation=metadata.get("generation", 1),
            resource_version=metadata.get("resourceVersion", ""),
            status=service.get("status") or {},
        )
        parsed = parse(service)
        certificates = await self._certificates.facts(key, self._wanted_certificates(key, service, parsed))
        schedulers = schedulers_of(self._inventory.children(key))
        view = await self._schedulers.view(schedulers)
        # From here to the promise nothing else runs: no other look can be promised the same nodes.
        children = self._inventory.children(key)
        observed = observe(
            [*children, *self._inventory.surroundings(key)],
            meta=meta,
            loads=view.workers if view else {},
            departed=self._inventory.departed(key),
            gang_providers=self._inventory.gang_providers,
            pull_refusal=self._pull_refusals.get(key),
            certificates=certificates,
        )
        spec, desired = carried_out(service, parsed, options=self._options, children=children)
        now = self._now()
        demands = self._sampled(key, spec, observed, view, now)
        step = plan(
            spec,
            meta=meta,
            desired=desired,
            problems=parsed.problems,
            observed=observed,
            now=now,
            demand=demands.get(service_ref(key)),
            role_demands={ref.name: demand for ref, demand in demands.items() if ref.kind == SCALER_KIND},
        )
        self._inventory.promise(key, (action.obj for action in step.actions if isinstance(action, Apply)))
        return step

    def _wanted_certificates(self, key: Key, service: Obj, parsed: Parsed) -> Wanted | None:
        """What is to be read before anything can be planned."""
        kept = accepted(service, parsed, known=self._inventory.children(key))
        if kept is None:
            return None
        owner = Owner.of(kept.service, service["metadata"]["uid"])
        return wanted(kept.service, owner=owner, options=self._options)

    def _sampled(
        self,
        key: Key,
        service: LLMService | None,
        observed: Observed,
        view: SchedulerView | None,
        now: datetime,
    ) -> Mapping[Ref, Demand]:
        """What is asked of everything that has a scaler, with what the scheduler says now."""
        before, samples = self._demands.pop(key, {}), dict[Ref, Demand]()

        def add(ref: Ref, scaling: AutoscalingSpec, sample: Sample | None) -> None:
            samples[ref] = before.get(ref, Demand()).with_sample(sample, now, scaling)

        if service is not None:
            scalers = [one for one in role_scalers(observed.scalers, service) if one.scaler is not None]
            if service.spec.autoscaling is not None:
                apart = {one.role for one in scalers if one.role is not None}
                sample = sample_of(service.spec, view, now, scaled_apart=apart)
                add(service_ref(key), service.spec.autoscaling, sample)
            for one in scalers:
                spec = one.scaler.spec if one.scaler is not None else None
                if spec is not None and spec.autoscaling is not None:
                    sample = sample_of_role(service.spec, spec.role, spec.autoscaling, view, now)
                    add(one.ref, spec.autoscaling, sample)
        if samples:
            self._demands[key] = samples
        return samples

    def _of_no_service(self, key: Key) -> tuple[StatusOf, ...]:
        """What the scalers say that name a service that is not there."""
        message = f"namespace {key[0]} has no LLMService {key[1]}"
        found = scalers_of(self._inventory.children(key), namespace=key[0], service=key[1])
        return refused_statuses(refused(found, Reason.SERVICE_NOT_FOUND, message), now=self._now())

    async def _pull_refused(self, key: Key, service: Obj, error: ClusterError) -> None:
        """Nothing of the service depends on it for long: it is noted, and the plan goes by how long."""
        found = refusal_of(self._pull_refusals.get(key), str(error), now=self._now())
        self._pull_refusals[key] = found
        message = f"an image cannot be pulled before groups move, which waits {REFUSED_LIMIT_S:g} s: {error}"
        await self._recorder.emit(service, emitted(Reason.PRE_PULL_FAILED, message, is_warning=True))

    # --- tell -----------------------------------------------------------------------------------------

    async def _tell_scalers(self, key: Key, scalers: Iterable[StatusOf]) -> None:
        for one in scalers:
            obj = self._inventory.get(one.ref)
            if obj is None:
                continue
            try:
                await self._executor.write_status(key, obj, one.status)
            except (InvalidError, NotFoundError) as error:  # its CRD may be gone; the service goes on
                self._log.warning("a scaler is not told", scaler=one.ref.name, error=str(error))

    def _about(self, event: Emit) -> Obj | None:
        return self._inventory.get(event.about) if event.about is not None else None

    def _show(self, key: Key, status: Obj) -> None:
        phases: dict[str, int] = {}
        for group in status.get("groups") or ():
            phase = group.get("phase") or "Unknown"
            phases[phase] = phases.get(phase, 0) + 1
        conditions = status.get("conditions") or ()
        ready: Obj = next((one for one in conditions if one.get("type") == "Ready"), {})
        self._metrics.show(
            key, phases=phases, ready=ready.get("status", "Unknown"), reason=ready.get("reason", "")
        )

    def _count(self, error: Exception) -> None:
        self._metrics.errors.labels(error=type(error).__name__.removesuffix("Error")).inc()


def _what(action: Action) -> str:
    ref = target(action)
    return str(ref) if ref is not None else getattr(action, "worker_id", "")


def _reason_of(refusal: ClusterError) -> Reason:
    return Reason.OPERATOR_FORBIDDEN if isinstance(refusal, ForbiddenError) else Reason.OBJECT_REFUSED


def _event_of(refusal: ClusterError) -> Emit:
    return Emit(type="Warning", reason=_reason_of(refusal), message=str(refusal))


def _with_refusal(status: Obj, refusal: ClusterError) -> Obj:
    """The status, with Ready saying what the API server refuses."""
    conditions = [dict(condition) for condition in status.get("conditions") or ()]
    for condition in conditions:
        if condition.get("type") == "Ready":
            condition["status"] = "False"
            condition["reason"] = str(_reason_of(refusal))
            condition["message"] = str(refusal)
    return status | {"conditions": conditions}
