"""Settings and files of the engine, all without torch."""

import json
import subprocess
import sys

import pytest
from tokenizers import Tokenizer

from hortator.worker.engine import EngineDeadError
from hortator.worker.engines.torch_moe import (
    TorchMoEConfig,
    TorchMoEEngine,
    builtin_tokenizer_path,
    builtin_weights_path,
)
from hortator.worker.engines.torch_moe.shape import ModelShape, WeightFileError


def test_dp_size_must_divide_the_experts():
    with pytest.raises(
        ValueError, match=r"dp_size must divide the 12 routed experts .*1, 2, 3, 4, 6, 12.*not 5"
    ):
        TorchMoEConfig(dp_size=5).check_fits(ModelShape(num_routed_experts=12))


@pytest.mark.parametrize(
    "field",
    [
        "dp_size",
        "chunk_budget_tokens",
        "max_batch_size",
        "kv_blocks",
        "tokens_per_block",
        "collective_timeout_s",
        "start_timeout_s",
    ],
)
def test_sizes_and_times_must_be_positive(field):
    with pytest.raises(ValueError, match=field):
        TorchMoEConfig(**{field: 0})


def test_a_group_gives_up_on_a_silent_rank_after_10_s():
    """The library's own default is 30 minutes."""
    assert TorchMoEConfig().collective_timeout_s == 10


def test_the_builtin_weights_are_small_enough_to_commit_and_say_what_they_are():
    assert builtin_weights_path().stat().st_size <= 8_000_000
    assert ModelShape.from_file(builtin_weights_path()).name == "shakespeare-moe"


def test_the_builtin_tokenizer_fits_the_weights_and_loses_nothing():
    shape = ModelShape.from_file(builtin_weights_path())
    tokenizer = Tokenizer.from_file(str(builtin_tokenizer_path()))
    assert tokenizer.get_vocab_size() == shape.vocab_size
    assert tokenizer.token_to_id("<|endoftext|>") == shape.eos_token_id
    text = "HAMLET.\nTo be, or not to be — that is the question: été 漢 🙂"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_shape_survives_the_metadata():
    shape = ModelShape(dim=64, name="tiny")
    assert ModelShape.from_metadata(shape.to_metadata()) == shape


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not safetensors at all",
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{]",
    ],
)
def test_a_file_that_is_no_weight_file_is_a_clear_error(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightFileError):
        ModelShape.from_file(path)


def test_a_shape_of_another_version_is_refused():
    metadata = {"shape": json.dumps({"dim": 1})}
    with pytest.raises(WeightFileError, match="this version"):
        ModelShape.from_metadata(metadata)


def test_importing_the_engine_does_not_import_torch():
    code = "import sys, hortator.worker.engines.torch_moe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_starting_without_torch_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    engine = TorchMoEEngine(TorchMoEConfig())
    with pytest.raises(EngineDeadError, match="extra `cpu`"):
        await engine.start()
    await engine.aclose()


def test_settings_that_cannot_run_are_refused_before_the_start(tmp_path):
    with pytest.raises(ValueError, match="dp_size"):
        TorchMoEEngine(TorchMoEConfig(dp_size=5))
    with pytest.raises(ValueError, match=r"cannot read the weight file .*missing"):
        TorchMoEEngine(TorchMoEConfig(weights_path=tmp_path / "missing"))
