"""What the shared translation knows of models and engines is what they say of themselves."""

from hortator.api import processes
from hortator.worker.engines.simulated.config import SimulatedConfig
from hortator.worker.engines.torch_moe.assets import builtin_weights_path
from hortator.worker.engines.torch_moe.shape import ModelShape


def test_the_builtin_model_is_what_its_weight_file_says():
    shape = ModelShape.from_file(builtin_weights_path())
    assert shape.max_sequence_tokens == processes.BUILTIN_SEQUENCE_TOKENS
    assert shape.num_routed_experts == processes.BUILTIN_EXPERTS


def test_the_modelled_engine_takes_as_many_tokens_as_its_own_default():
    assert SimulatedConfig().max_sequence_tokens == processes.SIMULATED_SEQUENCE_TOKENS
