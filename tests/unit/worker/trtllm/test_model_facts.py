"""What a model says of itself, from a folder or from the hub."""

import sys
from types import SimpleNamespace

import pytest

from hortator.worker.engines.trtllm.config import TensorRTLLMConfig
from hortator.worker.engines.trtllm.model_facts import tokenizer_files


@pytest.fixture
def a_hub(tmp_path, monkeypatch):
    """A hub, at the border of the library that speaks to it: what it has, and what was asked of it."""
    asked = []

    def hf_hub_download(repository, file, *, revision, local_files_only):
        assert local_files_only, "asks the hub"
        asked.append((repository, file, revision))
        if not (tmp_path / file).is_file():
            raise FileNotFoundError(file)
        return str(tmp_path / file)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    return tmp_path, asked


def test_a_folder_has_its_tokenizer_in_it(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    assert tokenizer_files(TensorRTLLMConfig(model=f"file://{tmp_path}")) == (tmp_path / "tokenizer.json",)


def test_of_a_model_on_the_hub_the_files_of_its_revision_are_taken_from_what_was_fetched(a_hub):
    folder, asked = a_hub
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    config = TensorRTLLMConfig(model="hf://deepseek-ai/DeepSeek-V3", revision="abc")
    assert [file.name for file in tokenizer_files(config)] == ["tokenizer.json", "tokenizer_config.json"]
    assert {(repository, revision) for repository, _, revision in asked} == {
        ("deepseek-ai/DeepSeek-V3", "abc")
    }


def test_without_a_tokenizer_there_the_rest_is_not_asked_for(a_hub):
    _, asked = a_hub
    assert tokenizer_files(TensorRTLLMConfig(model="hf://some/model")) == ()
    assert [file for _, file, _ in asked] == ["tokenizer.json"]


def test_without_the_hubs_library_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert tokenizer_files(TensorRTLLMConfig(model="hf://some/model")) == ()
