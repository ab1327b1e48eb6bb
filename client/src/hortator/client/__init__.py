"""The Python client library.

    async with Client(["gw-0:8080", "gw-1:8080"]) as client:
        async for event in client.generate("To be, or not to be"):
            match event:
                case Delta(text=text): print(text, end="")
                case Completion(finish_reason=reason): print(reason)

`Client` speaks to a service of several gateways and goes on when one dies; `GatewayClient` is a connection to
one gateway. What goes wrong for good is a `GenerateError`.
"""

from hortator.client.access import Access, AccessError, read_api_key
from hortator.client.errors import GenerateError
from hortator.client.gateway import GatewayClient
from hortator.client.messages import ChatTurn, Completion, Delta, Model, Prompt, Sampling
from hortator.client.resuming import Client

__all__ = [
    "Access",
    "AccessError",
    "ChatTurn",
    "Client",
    "Completion",
    "Delta",
    "GatewayClient",
    "GenerateError",
    "Model",
    "Prompt",
    "Sampling",
    "read_api_key",
]
