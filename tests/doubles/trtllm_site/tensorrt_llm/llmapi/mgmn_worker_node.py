"""Every other rank of a launch over several pods."""

from tensorrt_llm import _world

if __name__ == "__main__":
    _world.work()
