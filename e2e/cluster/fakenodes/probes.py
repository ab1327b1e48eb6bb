"""Probes as a kubelet runs them: when, how often, and how many results in a row count."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

Obj = dict[str, Any]
RunInPod = Callable[[list[str]], Awaitable[int]]


async def attempt(probe: Obj, *, container: Obj, pod_ip: str, run: RunInPod) -> str:
    """One try; empty: passed, else why not."""
    timeout_s = probe.get("timeoutSeconds", 1)
    try:
        async with asyncio.timeout(timeout_s):
            if "exec" in probe:
                code = await run(probe["exec"]["command"])
                return f"exit code {code}" if code else ""
            if "tcpSocket" in probe:
                _, writer = await asyncio.open_connection(pod_ip, _port(probe["tcpSocket"], container))
                writer.close()
                return ""
            return await _get(probe["httpGet"], container, pod_ip)
    except (OSError, aiohttp.ClientError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def watch(
    probe: Obj,
    *,
    container: Obj,
    pod_ip: str,
    run: RunInPod,
    initially: bool | None,
    changed: Callable[[bool, str], Awaitable[None]],
) -> None:
    """Probe until cancelled; `changed` is told when the verdict changes, with the reason of a failure."""
    verdict, num_same, last = initially, 0, None
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    while True:
        problem = await attempt(probe, container=container, pod_ip=pod_ip, run=run)
        passed = not problem
        num_same = num_same + 1 if passed == last else 1
        last = passed
        needed = probe.get("successThreshold", 1) if passed else probe.get("failureThreshold", 3)
        if num_same >= needed and passed != verdict:
            verdict = passed
            await changed(passed, problem)
        await asyncio.sleep(probe.get("periodSeconds", 10))


async def _get(action: Obj, container: Obj, pod_ip: str) -> str:
    scheme = action.get("scheme", "HTTP").lower()
    host = action.get("host") or pod_ip
    url = f"{scheme}://{host}:{_port(action, container)}{action.get('path', '/')}"
    headers = {entry["name"]: entry["value"] for entry in action.get("httpHeaders", [])}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers, ssl=False) as response:
        with contextlib.suppress(aiohttp.ClientError):
            await response.read()
        is_fine = 200 <= response.status < 400
        return "" if is_fine else f"HTTP probe failed with statuscode: {response.status}"


def _port(action: Obj, container: Obj) -> int:
    port = action["port"]
    if isinstance(port, int):
        return port
    return next(entry["containerPort"] for entry in container.get("ports", []) if entry.get("name") == port)
