"""Relays: every link between processes of a test goes through one, which can cut it, slow it down or fall silent."""

from __future__ import annotations

import asyncio
import contextlib


class Relay:
    """Passes bytes on to an address, until it is cut."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.is_open = True
        self.delay_s = 0.0
        """What every piece waits before it goes on."""
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> str:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", port)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self, *, for_good: bool = False) -> None:
        """Break every connection; new ones are taken again, or not."""
        self.is_open = not for_good
        for writer in self._writers:
            writer.transport.abort()

    def fall_silent(self) -> None:
        """Nothing breaks and nothing arrives, as with lost packets, until `speak`."""
        self._speaks.clear()

    def speak(self) -> None:
        """What was held back arrives now."""
        self._speaks.set()

    async def stop(self) -> None:
        self._server.close()
        self.speak()
        self.cut(for_good=True)
        await asyncio.gather(*self._tasks)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        with contextlib.suppress(OSError):
            if self.is_open:
                host, _, port = self.target.rpartition(":")
                other_reader, other_writer = await asyncio.open_connection(host, int(port))
                self._writers.add(other_writer)
                ways = [self._pass_on(reader, other_writer), self._pass_on(other_reader, writer)]
                await asyncio.gather(*ways)
                self._writers.discard(other_writer)
        writer.transport.abort()
        self._writers.discard(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._speaks.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
