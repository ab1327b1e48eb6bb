"""Rank 0 of a launch over several pods."""

import sys

from tensorrt_llm import _world

if __name__ == "__main__":
    if sys.argv[1:] == ["--action", "stop"]:
        _world.connect().say("stop")
    else:
        _world.lead()
