"""How gRPC waits for its sockets in our processes: on the thread that wants the answer.

gRPC's event engine reads sockets on a pool of threads of its own and hands each result to asyncio's polling
thread, which wakes the event loop. Without it the polling thread reads the sockets itself: one wake-up less
per message (decision 0006). gRPC reads this when it is imported, so it belongs in a process's environment.
"""

from __future__ import annotations

ENVIRONMENT = {"GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener"}
"""For gateway, scheduler and worker; what is set already wins."""
