"""Requests with idempotency keys on this worker, and what becomes of them without their gateway.

Rules:

1. Of two requests under a key only the newer may live.
2. One whose link breaks is an *orphan*: it goes on, or waits with its tokens if it has ended, until another
   gateway attaches, a scheduler has it ended, or its time is over. What only prefills cannot be one.
3. Who attaches gives it a name of its own and gets all of its tokens, from the first. A gateway that had it
   and is still there is told that it was taken over, and cannot end it any more.
4. A scheduler that has everything under a key ended is told when nothing is left. What was dispatched under
   the key before that and comes late is refused.
5. Schedulers are also told of every end that no gateway could hear of.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from hortator.worker.engine import EngineRequest, RequestMode, TokenChunk
from hortator.worker.gate import RequestKey
from hortator.worker.gateway_link import GatewayLink
from hortator.worker.live_request import LiveRequest
from hortator.worker.metrics import WorkerMetrics
from hortator.worker.orphans import Orphans
from hortator.worker.report import Correction, KeyedRequest
from hortator.worker.submission import Attachment, Claim, Ended, EndReason, Submission

MAX_CLOSED_KEYS = 10_000
"""Keys of which a scheduler had everything ended lately (rule 4)."""


class KeyedRequests:
    """See the module docstring. The host tells what happens; `abort` and `say_ended` are what it does."""

    def __init__(
        self,
        orphans: Orphans,
        metrics: WorkerMetrics,
        *,
        abort: Callable[[RequestKey], None],
        say_ended: Callable[[KeyedRequest], None],
    ) -> None:
        """Begin with nothing.

        Args:
            orphans: how long they are kept, and how many.
            metrics: where they are counted.
            abort: ends a live request; `ended` is called when it has.
            say_ended: tells schedulers that nothing is left under a key.
        """
        self._orphans = orphans
        self._metrics = metrics
        self._abort = abort
        self._say_ended = say_ended
        self._by_hash: dict[bytes, LiveRequest] = {}
        self._renamed: dict[RequestKey, RequestKey] = {}
        self._closed: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        """Epoch and dispatch sequence up to which nothing may begin."""
        self._log = structlog.get_logger("hortator.worker.keyed_requests")

    def all(self) -> list[KeyedRequest]:
        """All that are here, orphans and others."""
        return [_named(live.name, claim) for live in self._by_hash.values() if (claim := live.claim)]

    def key_of(self, name: RequestKey) -> RequestKey:
        """The key of the request that its gateway calls so."""
        return self._renamed.get(name, name)

    # --- gateways

    def is_closed(self, submission: Submission) -> bool:
        """Whether a submission comes too late (rule 4)."""
        claim = submission.claim
        closed = None if claim is None else self._closed.get(claim.key_hash)
        return closed is not None and (submission.epoch, submission.dispatch_seq) <= closed

    def hold(self, live: LiveRequest, claim: Claim, request: EngineRequest) -> None:
        """A request with a key begins."""
        older = self._by_hash.get(claim.key_hash)
        if older is not None:
            self._end(older)
        live.claim = claim
        live.can_attach = request.mode is not RequestMode.PREFILL_ONLY
        live.output_ids = array("I", request.prior_output_ids)
        self._by_hash[claim.key_hash] = live

    def orphan(self, live: LiveRequest, now: float) -> bool:
        """The link of a live request broke. False: it has no key, or cannot go on without a gateway."""
        if live.claim is None or live.output_ids is None or not live.can_attach or live.is_aborted:
            return False
        self._log.info("orphaned", request_id=live.name[0], attempt=live.name[1])
        self._give_up(self._orphans.add(live.claim.key_hash, len(live.output_ids), now))
        return True

    def attach(self, link: GatewayLink, attachment: Attachment) -> bool:
        """Give a request to another gateway, all of its output first. False: there is none to give."""
        live = self._by_hash.get(attachment.key_hash)
        if live is None or not live.can_attach or live.is_aborted or live.output_ids is None:
            return False
        if not self.is_orphan_no_more(live):
            live.link.num_live -= 1
            live.link.push_end(Ended(key=live.name, reason=EndReason.TAKEN_OVER))
        self._renamed.pop(live.name, None)
        live.name = attachment.key
        live.link = link
        self._metrics.attached.inc()
        self._log.info("attached", request_id=live.name[0], attempt=live.name[1], engine_id=live.engine_id)
        if live.output_ids:
            link.push_chunk(live.name, _all_tokens(live, live.output_ids))
        if live.ended is None:
            link.num_live += 1
            self._renamed[live.name] = live.key
        else:
            del self._by_hash[attachment.key_hash]
            link.push_end(replace(live.ended, key=live.name))
        return True

    # --- the engine

    def keep_output(self, live: LiveRequest, token_ids: Sequence[int]) -> None:
        """A live request has more output."""
        if live.output_ids is None or live.claim is None:
            return
        live.output_ids.extend(token_ids)
        if live.link.is_closed and live.claim.key_hash in self._orphans:
            self._give_up(self._orphans.grow(live.claim.key_hash, len(token_ids)))

    def ended(self, live: LiveRequest, ended: Ended) -> None:
        """A live request has ended: an orphan is kept."""
        claim = live.claim
        if claim is None:
            return
        self._renamed.pop(live.name, None)
        if self._by_hash.get(claim.key_hash) is live:
            if claim.key_hash in self._orphans:
                live.ended = ended
                return
            del self._by_hash[claim.key_hash]
        if live.end_is_awaited or live.link.is_closed:
            self._say_ended(_named(live.name, claim))

    # --- schedulers and time

    def close(self, correction: Correction) -> None:
        """A scheduler has all ended that is here under a key, but for a newer attempt of the same request."""
        key_hash, (request_id, attempt) = correction.key_hash, correction.key
        self._closed[key_hash] = (correction.epoch, correction.dispatch_seq)
        if len(self._closed) > MAX_CLOSED_KEYS:
            self._closed.popitem(last=False)
        live = self._by_hash.get(key_hash)
        if live is None or (live.name[0] == request_id and live.name[1] > attempt):
            self._say_ended(KeyedRequest(key=correction.key, key_hash=key_hash))
            return
        live.end_is_awaited = True
        self._end(live)

    def next_expiry(self) -> float | None:
        """When `expire` has something to do."""
        return self._orphans.next_expiry()

    def expire(self, now: float) -> None:
        """End the orphans whose time is over."""
        self._give_up(self._orphans.expire(now))

    def is_orphan_no_more(self, live: LiveRequest) -> bool:
        """Somebody has attached, or ends it. False: it was none."""
        was_orphan = live.claim is not None and self._orphans.remove(live.claim.key_hash)
        self._metrics.orphans.set(len(self._orphans))
        return was_orphan

    def _give_up(self, key_hashes: Sequence[bytes]) -> None:
        for key_hash in key_hashes:
            live = self._by_hash.get(key_hash)
            if live is not None:
                self._log.info("orphan given up", request_id=live.name[0], attempt=live.name[1])
                self._end(live)
        self._metrics.orphans.set(len(self._orphans))

    def _end(self, live: LiveRequest) -> None:
        """End a request, whether it runs or is only kept."""
        if live.ended is None:
            self._abort(live.key)
        elif live.claim is not None:
            self.is_orphan_no_more(live)
            del self._by_hash[live.claim.key_hash]
            self._say_ended(_named(live.name, live.claim))


def _named(name: RequestKey, claim: Claim) -> KeyedRequest:
    return KeyedRequest(key=name, key_hash=claim.key_hash, request_hash=claim.request_hash)


def _all_tokens(live: LiveRequest, output_ids: array[int]) -> TokenChunk:
    return TokenChunk(
        request_id=live.engine_id, attempt=live.key[1], token_index=0, token_ids=tuple(output_ids)
    )
