"""What every test tier shares: folders that need PyTorch are not even collected where it is missing."""

import importlib.util

collect_ignore_glob: list[str] = []
if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["tests/*/torch_moe/*", "tests/*/*/torch_moe/*"]
