"""Statistics: destructive reads; on the old path a read that times out silences them (facts s3)."""

import asyncio
import queue


class _OldPath:
    """Nothing before a first prompt; once a read times out, nothing until another prompt is submitted."""

    def __init__(self):
        self._rows = queue.Queue()
        self._is_done = True

    def put(self, row):
        self._rows.put(row)

    def on_prompt(self):
        self._is_done = False

    def read(self, timeout):
        """All rows until none came for `timeout` seconds."""
        rows = []
        while not self._is_done:
            try:
                rows.append(self._rows.get(timeout=timeout))
            except queue.Empty:
                self._is_done = True
        return rows

    async def aread(self, timeout):
        """Row by row; ends when none came for `timeout` seconds."""
        loop = asyncio.get_running_loop()
        while not self._is_done:
            end = loop.time() + timeout
            while True:
                try:
                    row = self._rows.get_nowait()
                except queue.Empty:
                    if loop.time() >= end:
                        self._is_done = True
                        break
                    await asyncio.sleep(0.0005)
                    continue
                yield row
                break


class _RpcPath:
    """A read waits for the first row, up to `timeout` seconds, and takes what is there."""

    def __init__(self):
        self._rows = queue.Queue()

    def put(self, row):
        self._rows.put(row)

    def on_prompt(self):
        pass

    def read(self, timeout):
        rows = []
        try:
            rows.append(self._rows.get(timeout=timeout))
            while True:
                rows.append(self._rows.get_nowait())
        except queue.Empty:
            return rows

    async def aread(self, timeout):
        for row in self.read(timeout):  # blocks the loop it is called on (facts s3)
            yield row


def statistics(profile):
    """Of one line."""
    return _RpcPath() if profile.rpc_statistics else _OldPath()


def rows_of(iteration, latency_s, model, profile):
    """Rows of one iteration. Only what the facts call rank-local differs between the rows of ranks."""
    config = model.config
    first = model.ranks[0]
    ranks = model.ranks if profile.ranked_rows else model.ranks[:1]
    rows = []
    for load, rank in zip(model.loads(of_pass=True), ranks, strict=False):
        used = first.kv.used
        row = {
            "iter": iteration,
            "iterLatencyMS": latency_s * 1000,
            "numActiveRequests": first.batch_size,
            "numQueuedRequests": 0,
            "kvCacheStats": {
                "maxNumBlocks": config.kv_blocks_total,
                "usedNumBlocks": used,
                "freeNumBlocks": config.kv_blocks_total - used,
                "tokensPerBlock": config.tokens_per_block,
            },
            "inflightBatchingStats": {
                "numScheduledRequests": rank.batch_size,
                "numContextRequests": int(load.pass_prefill_tokens > 0),
                "numGenRequests": load.pass_decode_tokens,
                "numPausedRequests": 0,
                "numCtxTokens": load.pass_prefill_tokens,
                "microBatchId": 0,
                "avgNumDecodedTokensPerIter": 0.0,
            },
        }
        if profile.ranked_rows:
            row["attentionDpRank"] = rank.dp_rank
        rows.append(row)
    return rows
