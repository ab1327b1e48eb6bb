"""`tensorrt_llm` is imported late, and its absence or age is one line."""

import sys

import pytest

from doubles.trtllm import SITE, emulate
from hortator.worker.engine import EngineDeadError
from hortator.worker.engine_factory import build_engine
from hortator.worker.engines.trtllm import library
from hortator.worker.engines.trtllm.engine import TensorRTLLMEngine
from hortator.worker.errors import EngineConfigError
from hortator.worker.settings import EngineKind, WorkerPhase

OPTIONS = {"model": "a/model", "tensor_parallel_size": 2}


@pytest.fixture
def without(monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(SITE)])
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt_llm"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("without")
def test_where_it_is_missing_package_and_image_are_named():
    with pytest.raises(EngineConfigError, match=r"tensorrt_llm is not installed.*hortator-worker-trtllm"):
        build_engine(EngineKind.TENSORRT_LLM, OPTIONS)
    with pytest.raises(EngineDeadError, match="tensorrt_llm is not installed"):
        library.load()


@pytest.mark.usefixtures("without")
def test_a_wrong_option_is_said_before_that():
    with pytest.raises(EngineConfigError, match=r"llm_args.stream_interval"):
        build_engine(EngineKind.TENSORRT_LLM, OPTIONS | {"llm_args": {"stream_interval": 4}})


def test_the_phase_of_the_worker_is_that_of_the_engine():
    emulate("1.2.1")
    engine = build_engine(EngineKind.TENSORRT_LLM, OPTIONS, phase=WorkerPhase.DECODE)
    assert isinstance(engine, TensorRTLLMEngine)
    assert engine.config.phase == "decode"


def test_an_old_version_is_refused_with_the_reason(monkeypatch):
    emulate("1.2.1")
    import tensorrt_llm

    monkeypatch.setattr(tensorrt_llm, "__version__", "1.1.0", raising=False)
    with pytest.raises(EngineDeadError, match=r"tensorrt_llm 1.1.0 is too old.*1.2 or newer"):
        library.load()


def test_a_broken_installation_is_one_line(monkeypatch):
    emulate("1.2.1")
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    monkeypatch.setattr(library, "is_installed", lambda: True)
    with pytest.raises(EngineDeadError, match=r"cannot be imported: ModuleNotFoundError"):
        library.load()
