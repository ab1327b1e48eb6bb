"""A small but true DP+EP mixture-of-experts engine on CPU.

`TorchMoEEngine(TorchMoEConfig(...))` implements the Engine port. Importing this package does not import
torch; only the rank processes do. Without torch `start` raises EngineDeadError naming the extra.
"""

from hortator.worker.engines.torch_moe.assets import builtin_tokenizer_path, builtin_weights_path
from hortator.worker.engines.torch_moe.config import TorchMoEConfig
from hortator.worker.engines.torch_moe.engine import TorchMoEEngine

__all__ = ["TorchMoEConfig", "TorchMoEEngine", "builtin_tokenizer_path", "builtin_weights_path"]
