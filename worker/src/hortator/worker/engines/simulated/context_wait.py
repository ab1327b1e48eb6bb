"""An engine that waits by itself before it mixes prompts into decode passes.

TensorRT-LLM can do so under attention DP (`attention_dp_config.enable_balance`): a prompt on one rank makes
all ranks wait for it, so prompts are held back until every rank has some. Two counts bound that, both in
passes: `timeout_iters` while some rank has none, `batching_wait_iters` more once all have. A rank without
anything to decode ends the first wait, and there is no second one then: nobody is held up.

Hortator's own groups keep it off; it is modelled to be compared with.
"""

from __future__ import annotations


class ContextWait:
    """Counts the passes that prompts were held back; asked once before each pass."""

    __slots__ = ("_batching_wait_iters", "_num_batching", "_num_waiting", "_timeout_iters")

    def __init__(self, *, timeout_iters: int, batching_wait_iters: int) -> None:
        self._timeout_iters = timeout_iters
        self._batching_wait_iters = batching_wait_iters
        self._num_waiting = 0
        self._num_batching = 0

    def lets_go(self, *, all_have_prompts: bool, all_have_decodes: bool, all_have_slots: bool) -> bool:
        """Whether prompts may join the pass that is about to be formed; some rank has one.

        Args:
            all_have_prompts: every rank has prompt tokens to run.
            all_have_decodes: every rank has sequences to decode.
            all_have_slots: every rank could take one more sequence.
        """
        if all_have_prompts and all_have_slots:
            self._num_waiting = 0
            if not all_have_decodes:
                return True
            self._num_batching += 1
            if self._num_batching <= self._batching_wait_iters:
                return False
            self._num_batching = 0
            return True
        self._num_waiting += 1
        if self._num_waiting < self._timeout_iters and all_have_decodes:
            return False
        self._num_waiting = 0
        return True
