"""Is a gateway there, and does a token come out of it? What `helm test` runs.

    python -m hortator.cli.first_token my-llm-gateway.team-a.svc:8080 --timeout 240

A service that starts is asked again until it answers or the time is over. The prompt is token ids, so no
tokenizer is needed. Exit codes: 0 a token came, 1 none in time (the last answer is said), 2 bad arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence

from hortator.client import Completion, Delta, GatewayClient, GenerateError, Sampling

PROMPT = (1, 2, 3)
RETRY_S = 1.0
CALL_TIMEOUT_S = 30.0
ONE_TOKEN = Sampling(max_tokens=1, ignore_eos=True)


async def first_token(address: str) -> int:
    """The first token that the gateway at `address` (HOST:PORT) generates.

    Raises:
        GenerateError: it refuses, fails, or cannot be reached.
    """
    async with GatewayClient(address) as client:
        async for event in client.generate(PROMPT, sampling=ONE_TOKEN, timeout_s=CALL_TIMEOUT_S):
            match event:
                case Delta(token_ids=(token, *_)):
                    return token
                case Completion():
                    break
    raise GenerateError("DATA_LOSS", "the stream ended without a token")


async def wait_for_token(address: str, *, timeout_s: float) -> int:
    """The same, asked again until `timeout_s` is over.

    Raises:
        GenerateError: what the last answer was.
    """
    give_up_at = time.monotonic() + timeout_s
    said = ""
    while True:
        try:
            return await first_token(address)
        except GenerateError as error:
            if time.monotonic() + RETRY_S > give_up_at:
                raise
            if str(error) != said:
                said = str(error)
                print(f"not yet: {said}", file=sys.stderr, flush=True)
        await asyncio.sleep(RETRY_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="hortator.cli.first_token", description=__doc__)
    parser.add_argument("address", metavar="HOST:PORT", help="a gateway")
    parser.add_argument("--timeout", type=float, default=240.0, metavar="S", help="seconds to wait")
    options = parser.parse_args(arguments)
    try:
        token = asyncio.run(wait_for_token(options.address, timeout_s=options.timeout))
    except GenerateError as error:
        print(f"no token from {options.address} within {options.timeout:g} s: {error}", file=sys.stderr)
        return 1
    print(f"token {token} from {options.address}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
