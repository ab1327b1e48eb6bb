"""A process that ends at any moment, also between two looks at it."""

import signal
from types import SimpleNamespace

from cluster.fakenodes.sandbox import Running

NO_PROCESS = 1 << 30


class Ending(Running):
    """Its process is there at the first look and gone at the next."""

    num_looks = 0

    @property
    def pid(self):
        Ending.num_looks += 1
        return NO_PROCESS if Ending.num_looks == 1 else None


async def test_a_signal_for_a_process_that_ends_meanwhile_is_no_error():
    await Ending(SimpleNamespace(returncode=None)).send(signal.SIGTERM)
    assert Ending.num_looks == 1
