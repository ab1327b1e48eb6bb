"""Protos to plain values and back: the only place that knows both (with the clients and the service)."""

from __future__ import annotations

from collections.abc import Sequence

from hortator.gateway.actions import Finish
from hortator.gateway.client_request import (
    ChatMessage,
    ChatPrompt,
    ClientRequest,
    ClientSampling,
    Prompt,
    TextPrompt,
    TokenPrompt,
)
from hortator.gateway.fleet_view import FleetView, GroupView
from hortator.gateway.generation import Generation, News
from hortator.gateway.placement import (
    CompletionReason,
    KvSource,
    Phase,
    Placement,
    Rejection,
    RejectReason,
    Retraction,
    RetractReason,
    Submission,
    SubmitMode,
    WorkerCompletion,
    WorkerTarget,
)
from hortator.rpc.inference.v1 import inference_pb2
from hortator.rpc.scheduling.v1 import scheduling_pb2
from hortator.rpc.worker.v1 import worker_pb2

MAX_ATTEMPT = 1 << 31
"""No request is placed so often. Each attempt of ours is one more than the last, and 32 bits on the wire."""
MAX_RETRY_AFTER_S = 60.0
"""Longer waits are none that a scheduler asks for."""
MAX_DP_SIZE = 4096
MAX_HEARTBEAT_S = 60.0
MAX_PASS_S = 3600.0
"""What a leader tells of times beyond these is not believed."""
_RETRY_AFTER_S = 1.0
"""In place of what is no time at all."""

_PHASES = {
    scheduling_pb2.PHASE_PREFILL: Phase.PREFILL,
    scheduling_pb2.PHASE_DECODE: Phase.DECODE,
    scheduling_pb2.PHASE_AGGREGATED: Phase.AGGREGATED,
}
_REJECT_REASONS = {
    scheduling_pb2.REJECT_REASON_QUEUE_FULL_REQUESTS: RejectReason.QUEUE_FULL,
    scheduling_pb2.REJECT_REASON_QUEUE_FULL_TOKENS: RejectReason.QUEUE_FULL,
    scheduling_pb2.REJECT_REASON_PREDICTED_WAIT: RejectReason.PREDICTED_WAIT,
    scheduling_pb2.REJECT_REASON_DEADLINE: RejectReason.DEADLINE,
    scheduling_pb2.REJECT_REASON_NO_WORKER: RejectReason.NO_WORKER,
    scheduling_pb2.REJECT_REASON_QUEUE_TIMEOUT: RejectReason.QUEUE_TIMEOUT,
    scheduling_pb2.REJECT_REASON_PROMPT_TOO_LONG: RejectReason.PROMPT_TOO_LONG,
    scheduling_pb2.REJECT_REASON_DRAINING: RejectReason.DRAINING,
    scheduling_pb2.REJECT_REASON_TENANT_QUOTA: RejectReason.TENANT_QUOTA,
    scheduling_pb2.REJECT_REASON_KEY_REUSED: RejectReason.KEY_REUSED,
    scheduling_pb2.REJECT_REASON_TAKEN_OVER: RejectReason.TAKEN_OVER,
}
_RETRACT_REASONS = {
    scheduling_pb2.RETRACT_REASON_WORKER_LOST: RetractReason.WORKER_LOST,
    scheduling_pb2.RETRACT_REASON_DEADLINE: RetractReason.DEADLINE,
    scheduling_pb2.RETRACT_REASON_BATCH_SPLIT: RetractReason.BATCH_SPLIT,
    scheduling_pb2.RETRACT_REASON_TAKEN_OVER: RetractReason.TAKEN_OVER,
}
_COMPLETION_REASONS = {
    worker_pb2.COMPLETION_REASON_STOP: CompletionReason.STOP,
    worker_pb2.COMPLETION_REASON_LENGTH: CompletionReason.LENGTH,
    worker_pb2.COMPLETION_REASON_PREFILLED: CompletionReason.PREFILLED,
    worker_pb2.COMPLETION_REASON_ABORTED: CompletionReason.ABORTED,
    worker_pb2.COMPLETION_REASON_FAILED: CompletionReason.FAILED,
    worker_pb2.COMPLETION_REASON_REFUSED: CompletionReason.REFUSED,
    worker_pb2.COMPLETION_REASON_KV_LOST: CompletionReason.KV_LOST,
    worker_pb2.COMPLETION_REASON_TAKEN_OVER: CompletionReason.TAKEN_OVER,
}
_FINISH_REASONS = {
    Finish.STOP: inference_pb2.FINISH_REASON_STOP,
    Finish.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
}
_MODES = {
    SubmitMode.AGGREGATED: worker_pb2.MODE_AGGREGATED,
    SubmitMode.PREFILL_ONLY: worker_pb2.MODE_PREFILL_ONLY,
    SubmitMode.DECODE_ONLY: worker_pb2.MODE_DECODE_ONLY,
}


def client_request(message: inference_pb2.GenerateRequest) -> ClientRequest:
    """What a client asked for."""
    sampling = message.sampling
    return ClientRequest(
        model=message.model,
        prompt=_prompt(message),
        sampling=ClientSampling(
            max_tokens=sampling.max_tokens if sampling.HasField("max_tokens") else None,
            min_tokens=sampling.min_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p if sampling.HasField("top_p") else None,
            top_k=sampling.top_k,
            seed=sampling.seed,
            stop=tuple(sampling.stop),
            stop_token_ids=tuple(sampling.stop_token_ids),
            ignore_eos=sampling.ignore_eos,
        ),
        priority=message.priority,
        tenant=message.tenant,
        latency_critical=message.latency_class == inference_pb2.LATENCY_CLASS_CRITICAL,
        idempotency_key=message.idempotency_key,
        resume_from_index=message.resume_from_index,
        prior_output_ids=list(message.prior_output_ids),
    )


def _prompt(message: inference_pb2.GenerateRequest) -> Prompt | None:
    match message.WhichOneof("prompt"):
        case "text":
            return TextPrompt(text=message.text)
        case "chat":
            messages = (ChatMessage(role=turn.role, content=turn.content) for turn in message.chat.messages)
            return ChatPrompt(messages=tuple(messages))
        case "tokens":
            return TokenPrompt(token_ids=list(message.tokens.token_ids))
        case _:
            return None


def delta_response(request_id: str, news: News) -> inference_pb2.GenerateResponse:
    """New output tokens for a client."""
    return inference_pb2.GenerateResponse(request_id=request_id, delta=_delta(news))


def _delta(news: News) -> inference_pb2.Delta:
    token_index, token_ids, text = news
    return inference_pb2.Delta(token_index=token_index, token_ids=token_ids, text=text)


def completion_response(
    generation: Generation, finish: Finish, news: News | None
) -> inference_pb2.GenerateResponse:
    """The last message of a stream, with the tokens that came together with the end."""
    machine = generation.machine
    return inference_pb2.GenerateResponse(
        request_id=generation.facts.request_id,
        completion=inference_pb2.Completion(
            finish_reason=_FINISH_REASONS[finish],
            usage=inference_pb2.Usage(
                num_prompt_tokens=len(generation.facts.prompt_token_ids),
                num_cached_prompt_tokens=machine.num_cached_prompt_tokens,
                num_output_tokens=len(machine.output_ids),
            ),
            timings=inference_pb2.Timings(
                ttft_s=generation.ttft_s,
                e2e_s=generation.e2e_s,
                hold_s=generation.hold_s,
                first_gap_s=generation.first_gap_s,
                num_replacements=machine.num_replacements,
            ),
            delta=None if news is None else _delta(news),
        ),
    )


def placement(message: scheduling_pb2.Placement, epoch: int) -> Placement | None:
    """A placement; None when its phase is none that we know, or its attempt has no next one."""
    phase = _PHASES.get(message.phase)
    if phase is None or message.attempt > MAX_ATTEMPT:
        return None
    return Placement(
        request_id=message.request_id,
        attempt=message.attempt,
        phase=phase,
        worker_id=message.worker_id,
        target=WorkerTarget(message.worker_address, message.boot_id),
        dp_rank=message.dp_rank,
        batch_id=message.batch_id,
        batch_size=message.batch_size,
        dispatch_seq=message.dispatch_seq,
        epoch=epoch,
        attaches=message.attaches,
    )


def fleet_view(message: scheduling_pb2.FleetView) -> FleetView:
    """What a leader tells of the workers; groups that make no sense are left out."""
    groups = [group for one in message.groups if (group := _group_view(one)) is not None]
    heartbeat_s = message.heartbeat_s if 0.0 < message.heartbeat_s < MAX_HEARTBEAT_S else 0.0
    return FleetView(groups=groups, num_gateways=max(1, message.num_gateways), heartbeat_s=heartbeat_s)


def _group_view(message: scheduling_pb2.GroupView) -> GroupView | None:
    phase = _PHASES.get(message.phase)
    dp_size = len(message.batch_size)
    columns = (message.prefill_load_tokens, message.kv_blocks_used)
    if phase is None or not message.tokens_per_block or dp_size > MAX_DP_SIZE:
        return None
    if any(len(column) != dp_size for column in columns):
        return None
    return GroupView(
        worker_id=message.worker_id,
        target=WorkerTarget(message.address, message.boot_id),
        phase=phase,
        chunk_budget_tokens=message.chunk_budget_tokens,
        max_batch_size=message.max_batch_size,
        kv_blocks_total=message.kv_blocks_total,
        tokens_per_block=message.tokens_per_block,
        longest_prompt_tokens=message.longest_prompt_tokens,
        tokenizer=message.tokenizer,
        full_pass_s=message.full_pass_s if 0.0 < message.full_pass_s < MAX_PASS_S else 0.0,
        prefill_load_tokens=tuple(message.prefill_load_tokens),
        batch_size=tuple(message.batch_size),
        kv_blocks_used=tuple(message.kv_blocks_used),
    )


def rejection(message: scheduling_pb2.Rejection) -> Rejection:
    """A rejection; reasons we do not know become OTHER."""
    return Rejection(
        request_id=message.request_id,
        attempt=message.attempt,
        reason=_REJECT_REASONS.get(message.reason, RejectReason.OTHER),
        retry_after_s=_delay(message.retry_after_s),
        message=message.message,
    )


def _delay(seconds: float) -> float:
    """A time to wait, whatever a scheduler makes of it: NaN and less than none are no times."""
    return min(seconds, MAX_RETRY_AFTER_S) if seconds >= 0.0 else _RETRY_AFTER_S


def retraction(message: scheduling_pb2.Retraction) -> Retraction:
    """A retraction; a reason we do not know means: announce again."""
    reason = _RETRACT_REASONS.get(message.reason, RetractReason.BATCH_SPLIT)
    return Retraction(request_id=message.request_id, attempt=message.attempt, reason=reason)


def submit_request(submission: Submission) -> worker_pb2.SubmittedRequest:
    """An attempt for its worker."""
    place, sampling, source = submission.placement, submission.sampling, submission.kv_source
    if submission.mode is SubmitMode.ATTACH:
        return worker_pb2.SubmittedRequest(
            request_id=place.request_id,
            attempt=place.attempt,
            epoch=place.epoch,
            mode=worker_pb2.MODE_ATTACH,
            key_hash=submission.claim.key_hash,
            tokenizer=submission.tokenizer,
        )
    return worker_pb2.SubmittedRequest(
        request_id=place.request_id,
        attempt=place.attempt,
        epoch=place.epoch,
        batch_id=place.batch_id,
        batch_size=place.batch_size,
        dispatch_seq=place.dispatch_seq,
        dp_rank=place.dp_rank,
        mode=_MODES[submission.mode],
        prompt_token_ids=submission.prompt_token_ids,
        prior_output_ids=submission.prior_output_ids,
        block_hashes=submission.block_hashes,
        sampling=worker_pb2.Sampling(
            max_tokens=sampling.max_tokens,
            min_tokens=sampling.min_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=sampling.seed,
            stop_token_ids=sampling.stop_token_ids,
            ignore_eos=sampling.ignore_eos,
        ),
        kv_source=None
        if source is None
        else worker_pb2.KvSource(
            worker_address=source.worker_address, boot_id=source.boot_id, lease_id=source.lease_id
        ),
        key_hash=submission.claim.key_hash,
        request_hash=submission.claim.request_hash,
        tokenizer=submission.tokenizer,
        degraded=place.is_degraded,
    )


def abort_request(request_id: str, attempt: int) -> worker_pb2.Abort:
    """An abort for the worker that runs the attempt."""
    return worker_pb2.Abort(request_id=request_id, attempt=attempt)


def submit_message(
    items: Sequence[worker_pb2.SubmittedRequest | worker_pb2.Abort],
) -> worker_pb2.SubmitRequest:
    """What goes to a worker in one message; an abort never overtakes its request."""
    return worker_pb2.SubmitRequest(
        requests=[item for item in items if isinstance(item, worker_pb2.SubmittedRequest)],
        aborts=[item for item in items if isinstance(item, worker_pb2.Abort)],
    )


def worker_completion(message: worker_pb2.Completion) -> WorkerCompletion:
    """A worker's last word; a reason we do not know counts as FAILED."""
    source = None
    if message.HasField("kv_source"):
        source = KvSource(
            worker_address=message.kv_source.worker_address,
            boot_id=message.kv_source.boot_id,
            lease_id=message.kv_source.lease_id,
        )
    return WorkerCompletion(
        request_id=message.request_id,
        attempt=message.attempt,
        reason=_COMPLETION_REASONS.get(message.reason, CompletionReason.FAILED),
        num_output_tokens=message.num_output_tokens,
        num_cached_prompt_tokens=message.num_cached_prompt_tokens,
        message=message.message,
        kv_source=source,
        field=message.field,
    )
