"""Wire messages to our own types and back. Nothing else here; validation is what the types need to exist."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

from hortator.rpc.scheduling.v1 import scheduling_pb2 as scheduling
from hortator.rpc.worker.v1 import worker_pb2 as worker
from hortator.worker.engine import (
    EngineInfo,
    EngineRequest,
    ForwardPassEnded,
    ForwardPassStarted,
    RankLoad,
    RequestMode,
    Sampling,
)
from hortator.worker.gate import Manifest, RequestKey
from hortator.worker.gateway_link import Outbox
from hortator.worker.report import (
    Correction,
    DrainingReported,
    KeyedEndsReported,
    KeyedListReported,
    KeyedRequest,
    LeaderReported,
    LoadSnapshot,
    PassReported,
    SplitReported,
    StatesReported,
    WorkerIdentity,
    WorkerReport,
)
from hortator.worker.submission import (
    Attachment,
    Claim,
    Ended,
    EndReason,
    InvalidSubmission,
    KvLocation,
    Submission,
    engine_request_id,
)

_MODES = {
    worker.MODE_AGGREGATED: RequestMode.AGGREGATED,
    worker.MODE_PREFILL_ONLY: RequestMode.PREFILL_ONLY,
    worker.MODE_DECODE_ONLY: RequestMode.DECODE_ONLY,
}
_REASONS = {
    EndReason.STOP: worker.COMPLETION_REASON_STOP,
    EndReason.LENGTH: worker.COMPLETION_REASON_LENGTH,
    EndReason.PREFILLED: worker.COMPLETION_REASON_PREFILLED,
    EndReason.ABORTED: worker.COMPLETION_REASON_ABORTED,
    EndReason.FAILED: worker.COMPLETION_REASON_FAILED,
    EndReason.REFUSED: worker.COMPLETION_REASON_REFUSED,
    EndReason.KV_LOST: worker.COMPLETION_REASON_KV_LOST,
    EndReason.TAKEN_OVER: worker.COMPLETION_REASON_TAKEN_OVER,
}
_PHASES = {
    "prefill": scheduling.PHASE_PREFILL,
    "decode": scheduling.PHASE_DECODE,
    "aggregated": scheduling.PHASE_AGGREGATED,
}

# --- the token path


def decode_submission(message: worker.SubmittedRequest) -> Submission | Attachment | InvalidSubmission:
    """Read a submitted request; what cannot exist in our types is named instead of raised."""
    key: RequestKey = (message.request_id, message.attempt)
    mode = _MODES.get(message.mode)
    if not message.request_id:
        return InvalidSubmission(key=key, field="request_id", message="request_id is empty")
    if message.mode == worker.MODE_ATTACH:
        return Attachment(key=key, key_hash=message.key_hash, tokenizer=message.tokenizer)
    if mode is None:
        return InvalidSubmission(key=key, field="mode", message=f"unknown mode {message.mode}")
    location = decode_kv_location(message.kv_source) if message.HasField("kv_source") else None
    if (mode is RequestMode.DECODE_ONLY) != (location is not None):
        return InvalidSubmission(
            key=key, field="kv_source", message="kv_source is set exactly when the mode is DECODE_ONLY"
        )
    return Submission(
        key=key,
        epoch=message.epoch,
        batch_id=message.batch_id,
        batch_size=message.batch_size,
        dispatch_seq=message.dispatch_seq,
        engine_request=EngineRequest(
            request_id=engine_request_id(key),
            attempt=message.attempt,
            dp_rank=message.dp_rank,
            mode=mode,
            prompt_token_ids=tuple(message.prompt_token_ids),
            prior_output_ids=tuple(message.prior_output_ids),
            sampling=_decode_sampling(message.sampling),
            block_hashes=tuple(message.block_hashes),
        ),
        kv_location=location,
        claim=Claim(key_hash=message.key_hash, request_hash=message.request_hash)
        if message.key_hash
        else None,
        tokenizer=message.tokenizer,
        is_degraded=message.degraded,
    )


def _decode_sampling(message: worker.Sampling) -> Sampling:
    return Sampling(
        max_tokens=message.max_tokens,
        min_tokens=message.min_tokens,
        temperature=message.temperature,
        top_p=message.top_p,
        top_k=message.top_k,
        seed=message.seed,
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
    )


def decode_kv_location(message: worker.KvSource) -> KvLocation:
    """Where KV waits."""
    return KvLocation(
        worker_address=message.worker_address, boot_id=message.boot_id, lease_id=message.lease_id
    )


def encode_outbox(outbox: Outbox) -> worker.SubmitResponse:
    """Everything that happened to a gateway's requests since the last message."""
    response = worker.SubmitResponse()
    add = response.deltas.add
    for (request_id, attempt), chunk in outbox.chunks:
        add(
            request_id=request_id,
            attempt=attempt,
            token_index=chunk.token_index,
            token_ids=chunk.token_ids,
        )
    response.completions.extend(_encode_end(ended) for ended in outbox.ends)
    return response


def _encode_end(ended: Ended) -> worker.Completion:
    request_id, attempt = ended.key
    completion = worker.Completion(
        request_id=request_id,
        attempt=attempt,
        reason=_REASONS[ended.reason],
        num_output_tokens=ended.num_output_tokens,
        num_cached_prompt_tokens=ended.num_cached_prompt_tokens,
        message=ended.message,
        field=ended.field,
    )
    location = ended.kv_location
    if location is not None:
        completion.kv_source.worker_address = location.worker_address
        completion.kv_source.boot_id = location.boot_id
        completion.kv_source.lease_id = location.lease_id
    return completion


def encode_info(identity: WorkerIdentity, info: EngineInfo) -> worker.InfoResponse:
    """What this worker is."""
    return worker.InfoResponse(
        worker_id=identity.worker_id,
        boot_id=identity.boot_id,
        model=info.model_name,
        dp_size=info.dp_size,
        ep_size=info.ep_size,
        chunk_budget_tokens=info.chunk_budget_tokens,
        chunked_prefill=info.chunked_prefill,
        max_batch_size=info.max_batch_size,
        kv_blocks_total=info.kv_blocks_total,
        tokens_per_block=info.tokens_per_block,
        max_sequence_tokens=info.max_sequence_tokens,
        vocab_size=info.vocab_size,
    )


# --- the report path


def encode_hello(
    identity: WorkerIdentity,
    info: EngineInfo,
    loads: LoadSnapshot,
    reusable_blocks: Iterable[tuple[int, tuple[int, ...]]],
    keyed_requests: Iterable[KeyedRequest] = (),
) -> scheduling.ReportRequest:
    """The first message of a report stream: everything a scheduler that knows nothing needs."""
    message = scheduling.ReportRequest()
    _fill_envelope(message, identity, loads)
    hello = message.hello
    hello.address = identity.address
    hello.phase = _PHASES[identity.phase]
    hello.model = info.model_name
    hello.dp_size = info.dp_size
    hello.ep_size = info.ep_size
    hello.chunk_budget_tokens = info.chunk_budget_tokens
    hello.chunked_prefill = info.chunked_prefill
    hello.max_batch_size = info.max_batch_size
    hello.kv_blocks_total = info.kv_blocks_total
    hello.tokens_per_block = info.tokens_per_block
    hello.max_sequence_tokens = info.max_sequence_tokens
    hello.admission_lead_passes = info.admission_lead_passes
    hello.tokenizer = identity.tokenizer
    _fill_states(hello.rank_states, loads.ranks)
    for dp_rank, hashes in reusable_blocks:
        hello.rank_states.blocks_changed.add(dp_rank=dp_rank, stored=hashes)
    hello.keyed_requests.extend([_encode_keyed(keyed) for keyed in keyed_requests])
    return message


def _encode_keyed(keyed: KeyedRequest) -> scheduling.KeyedRequest:
    request_id, attempt = keyed.key
    return scheduling.KeyedRequest(
        key_hash=keyed.key_hash, request_hash=keyed.request_hash, request_id=request_id, attempt=attempt
    )


def encode_report(identity: WorkerIdentity, report: WorkerReport) -> scheduling.ReportRequest:
    """Any later message; `sequence` is left to the stream that sends it."""
    message = scheduling.ReportRequest()
    _fill_envelope(message, identity, report.loads)
    match report:
        case PassReported(report=ForwardPassStarted() as started):
            message.forward_pass_started.forward_pass_id = started.forward_pass_id
            message.forward_pass_started.predicted_s = started.predicted_s or 0.0
            _fill_states(message.forward_pass_started.rank_states, report.loads.ranks)
            _fill_blocks_changed(message.forward_pass_started.rank_states, started.ranks)
        case PassReported(report=ForwardPassEnded() as ended):
            message.forward_pass_ended.forward_pass_id = ended.forward_pass_id
            message.forward_pass_ended.duration_s = ended.duration_s
            _fill_states(message.forward_pass_ended.rank_states, report.loads.ranks)
            _fill_blocks_changed(message.forward_pass_ended.rank_states, ended.ranks)
            ranks = _by_rank(ended.ranks)
            message.forward_pass_ended.pass_prefill_tokens.extend(
                [rank.pass_prefill_tokens for rank in ranks]
            )
            message.forward_pass_ended.pass_decode_tokens.extend([rank.pass_decode_tokens for rank in ranks])
        case StatesReported():
            _fill_states(message.rank_states, report.loads.ranks)
        case SplitReported(split=split):
            message.batch_split.batch_id = split.batch_id
            message.batch_split.request_ids.extend(split.request_ids)
        case KeyedEndsReported(ends=ends):
            message.keyed_ends.requests.extend([_encode_keyed(keyed) for keyed in ends])
        case KeyedListReported(requests=requests):
            message.keyed_requests.requests.extend([_encode_keyed(keyed) for keyed in requests])
        case DrainingReported():
            message.draining.SetInParent()
        case LeaderReported(seen=seen):
            message.leader_seen.epoch = seen.epoch
            message.leader_seen.is_there = seen.is_there
        case _:
            assert_never(report)  # type: ignore[arg-type]
    return message


def _fill_envelope(message: scheduling.ReportRequest, identity: WorkerIdentity, loads: LoadSnapshot) -> None:
    message.worker_id = identity.worker_id
    message.boot_id = identity.boot_id
    message.epoch = loads.epoch
    message.included_dispatch_seq = loads.included_dispatch_seq


def _by_rank(ranks: Sequence[RankLoad]) -> list[RankLoad]:
    return sorted(ranks, key=lambda rank: rank.dp_rank)


def _fill_states(message: scheduling.RankStates, loads: Sequence[RankLoad]) -> None:
    ranks = _by_rank(loads)
    message.prefill_load_tokens.extend([rank.prefill_load_tokens for rank in ranks])
    message.batch_size.extend([rank.batch_size for rank in ranks])
    message.kv_blocks_used.extend([rank.kv_blocks_used for rank in ranks])
    message.num_waiting.extend([rank.num_waiting for rank in ranks])


def _fill_blocks_changed(message: scheduling.RankStates, ranks: Sequence[RankLoad]) -> None:
    for rank in ranks:
        if rank.stored_blocks or rank.removed_blocks:
            message.blocks_changed.add(
                dp_rank=rank.dp_rank, stored=rank.stored_blocks, removed=rank.removed_blocks
            )


def decode_manifest(epoch: int, message: scheduling.BatchManifest) -> Manifest:
    """A batch that will come."""
    return Manifest(
        batch_id=message.batch_id,
        epoch=epoch,
        dispatch_seq=message.dispatch_seq,
        members=tuple((member.request_id, member.attempt) for member in message.members),
        predicted_pass_s=message.predicted_pass_s,
    )


def decode_correction(epoch: int, message: scheduling.Correction) -> Correction:
    """A member that will not come, or must go."""
    return Correction(
        key=(message.request_id, message.attempt),
        key_hash=message.key_hash,
        epoch=epoch,
        dispatch_seq=message.dispatch_seq,
    )
