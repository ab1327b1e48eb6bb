"""The kubelet's own port, as far as `kubectl logs` needs it: what process-mode containers wrote."""

import asyncio
import ssl
from pathlib import Path

from aiohttp import web

from cluster.fakenodes.kubelet import Kubelet
from cluster.fakenodes.process import ProcessPod
from cluster.netns import MACHINE_IP
from cluster.processes import LabError

POLL_S = 0.1


async def serve(kubelet: Kubelet, *, certificate: Path, key: Path) -> tuple[web.AppRunner, int]:
    """All nodes of this process share the address and the port, which comes back."""

    async def logs(request: web.Request) -> web.StreamResponse:
        where = request.match_info
        try:
            player = kubelet.find(where["namespace"], where["pod"])
        except LabError as error:
            raise web.HTTPNotFound(text=str(error)) from None
        path = player.log(where["container"]) if isinstance(player, ProcessPod) else None
        if path is None or not path.exists():
            raise web.HTTPNotFound(text=f"{where['container']} has written nothing")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        is_followed = request.query.get("follow") in {"true", "1"}
        with path.open("rb") as file:
            if "tailLines" in request.query:
                await response.write(_tail(file.read(), int(request.query["tailLines"])))
            while True:
                block = file.read(1 << 16)
                if block:
                    await response.write(block)
                elif is_followed and not player.terminating.is_set():
                    await asyncio.sleep(POLL_S)
                else:
                    return response

    application = web.Application()
    application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", logs)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    runner = web.AppRunner(application, handle_signals=False, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, MACHINE_IP, 0, ssl_context=context).start()
    return runner, runner.addresses[0][1]


def _tail(text: bytes, num_lines: int) -> bytes:
    return b"".join(text.splitlines(keepends=True)[-num_lines:] if num_lines else [])
