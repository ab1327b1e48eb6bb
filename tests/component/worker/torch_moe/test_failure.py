"""When a rank, the parent or a peer fails, the group ends as a whole, soon, and leaves nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hortator.worker.engine import EngineDeadError, FinishReason
from hortator.worker.engines.torch_moe.config import TorchMoEConfig
from hortator.worker.engines.torch_moe.group import RankGroup
from hortator.worker.engines.torch_moe.plan import PassPlan

pytest.importorskip("torch")
pytestmark = [pytest.mark.torch]


def is_alive(pid):
    """A zombie that nobody has waited for yet counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def all_gone(pids, within_s):
    deadline = time.monotonic() + within_s
    while any(map(is_alive, pids)):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


@pytest.mark.parametrize("is_busy", [True, False], ids=["in mid pass", "idle"])
async def test_a_killed_rank_ends_the_group(start_engine, a_request, prompts, is_busy):
    async with start_engine(dp_size=2) as driver:
        pids = driver.engine.rank_pids
        request = a_request(prompts[0], max_tokens=900, ignore_eos=True)
        if is_busy:
            await driver.submit(request)
            await driver.answers[request.request_id].until(num_tokens=3)
        began_at = time.monotonic()
        os.kill(pids[1], signal.SIGKILL)
        while driver.output_error is None:
            assert time.monotonic() - began_at < 15
            await asyncio.sleep(0.01)
        assert isinstance(driver.output_error, EngineDeadError)
        assert await all_gone(pids, within_s=15 - (time.monotonic() - began_at))
        assert isinstance(driver.pass_error, EngineDeadError)
        if is_busy:
            assert driver.answers[request.request_id].end.reason is FinishReason.FAILED
        with pytest.raises(EngineDeadError):
            await driver.engine.submit([request])


async def test_a_rank_that_hangs_ends_the_group_within_15_s(start_engine, a_request, prompts):
    """A stopped rank is alive but answers nobody; its peer gives up after the default timeout, 10 s."""
    async with start_engine(dp_size=2) as driver:
        pids = driver.engine.rank_pids
        os.kill(pids[1], signal.SIGSTOP)
        began_at = time.monotonic()
        (answer,) = await driver.run(a_request(prompts[0], max_tokens=5))
        assert answer.end.reason is FinishReason.FAILED
        assert await all_gone(pids, within_s=15 - (time.monotonic() - began_at))
        assert "DP rank 0 failed: " in str(driver.output_error)


async def test_every_rank_runs_on_one_thread(start_engine):
    """Ranks share the cores; more threads in each would only fight for them."""
    async with start_engine(dp_size=2) as driver:
        for pid in driver.engine.rank_pids:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            assert {b"OMP_NUM_THREADS=1", b"MKL_NUM_THREADS=1"} <= set(environment)


def test_a_rank_takes_one_thread_whatever_the_process_was_set_to():
    script = """
import torch
from hortator.worker.engines.torch_moe import TorchMoEConfig
from hortator.worker.engines.torch_moe.plan import RankSetup
from hortator.worker.engines.torch_moe.rank import Rank

torch.set_num_threads(3)
print(torch.get_num_threads())
config = TorchMoEConfig(dp_size=1)
Rank(
    RankSetup(
        dp_rank=0,
        dp_size=1,
        parent_pid=0,
        weights_path=str(config.weights_path),
        store_path="",
        kv_blocks=2,
        tokens_per_block=16,
        collective_timeout_s=config.collective_timeout_s,
    )
)
print(torch.get_num_threads())
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert done.stdout.split() == [b"3", b"1"]


async def test_closing_leaves_no_process_and_ends_running_requests(start_engine, a_request, prompts):
    async with start_engine(dp_size=2) as driver:
        pids = driver.engine.rank_pids
        request = a_request(prompts[0], max_tokens=900, ignore_eos=True)
        await driver.submit(request)
        await driver.answers[request.request_id].until(num_tokens=1)
        began_at = time.monotonic()
        await driver.engine.aclose()
        assert time.monotonic() - began_at < 10
        assert not any(map(is_alive, pids))
        await driver.answers[request.request_id].done.wait()
        assert driver.answers[request.request_id].end.reason is FinishReason.ABORTED
    assert driver.output_error is None


async def test_ranks_in_different_passes_notice_before_they_compute():
    group = RankGroup(TorchMoEConfig(dp_size=2))
    await group.start()
    try:
        with pytest.raises(EngineDeadError, match="different passes, 1 to 2"):
            await group.run_pass([PassPlan(forward_pass_id=1), PassPlan(forward_pass_id=2)])
    finally:
        await group.aclose()


async def test_ranks_die_with_their_parent(tmp_path):
    script = """
import asyncio, os, signal
from hortator.worker.engines.torch_moe import TorchMoEConfig, TorchMoEEngine

async def main():
    engine = TorchMoEEngine(TorchMoEConfig(dp_size=2))
    await engine.start()
    print(*engine.rank_pids, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in output.split()]
    assert len(pids) == 2
    assert await all_gone(pids, within_s=5)


async def test_a_rank_that_cannot_load_fails_the_start_with_its_reason(tmp_path):
    """The header is fine, so the parent starts ranks; the tensors are missing."""
    from safetensors.torch import save_file

    from hortator.worker.engines.torch_moe import TorchMoEEngine
    from hortator.worker.engines.torch_moe.shape import ModelShape

    path = tmp_path / "empty.safetensors"
    save_file({}, path, metadata=ModelShape().to_metadata())
    engine = TorchMoEEngine(TorchMoEConfig(dp_size=2, weights_path=path))
    with pytest.raises(EngineDeadError, match=r"DP rank \d failed: .*attention_norm"):
        await engine.start()
    assert engine.rank_pids == ()
    await engine.aclose()
