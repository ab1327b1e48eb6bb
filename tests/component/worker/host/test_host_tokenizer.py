"""Workers send gateways what turns text into their model's tokens."""

import grpc
import pytest

from hortator.rpc.worker.v1 import worker_pb2 as pb
from hortator.runtime.tokenizer_files import digest_of, ids_digest, tokenizer_files_in


async def pulled(gateway, known: bytes = b"") -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    async for response in gateway.stub.PullTokenizer(pb.PullTokenizerRequest(known_digest=known)):
        assert len(response.chunk) <= 2**20
        files[response.file] = files.get(response.file, b"") + response.chunk
    return files


@pytest.fixture
def a_folder(tmp_path):
    """Large enough for several pieces, with weights and secrets beside it."""
    contents = {"tokenizer.json": b"{" + b" " * (3 * 2**20), "chat_template.jinja": b"{{ x }}"}
    for name, content in {**contents, "model.safetensors": b"weights", ".env": b"secret"}.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path, contents


async def test_the_files_beside_the_weights_are_sent_and_nothing_else(
    an_engine, a_worker, a_gateway, a_folder
):
    folder, contents = a_folder
    engine = an_engine()
    engine.tokenizer_files = tokenizer_files_in(folder)
    gateway = await a_gateway(await a_worker(engine))
    assert await pulled(gateway) == contents
    assert await pulled(gateway, digest_of(contents)) == {}
    assert await pulled(gateway, b"of another model") == contents


@pytest.mark.parametrize("loss", ["never there", "gone since"])
async def test_a_model_without_one_says_so(an_engine, a_worker, a_gateway, a_folder, loss):
    folder, _ = a_folder
    engine = an_engine()
    if loss == "gone since":
        engine.tokenizer_files = tokenizer_files_in(folder)
        (folder / "tokenizer.json").unlink()
    gateway = await a_gateway(await a_worker(engine))
    with pytest.raises(
        grpc.aio.AioRpcError, match=r"no tokenizer.json|cannot be read: No such file"
    ) as error:
        await pulled(gateway)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert str(folder) not in error.value.details()


def test_other_files_are_of_no_use_without_a_tokenizer(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert tokenizer_files_in(tmp_path) == ()


def test_digests_tell_names_and_contents_apart():
    one = {"tokenizer.json": b"ab", "tokenizer_config.json": b"c"}
    assert digest_of(one) == digest_of(dict(reversed(one.items())))
    others = [
        {"tokenizer.json": b"a", "tokenizer_config.json": b"bc"},
        {"tokenizer.json": b"ab", "chat_template.jinja": b"c"},
        {"tokenizer.json": b"ab"},
    ]
    assert len({digest_of(files) for files in [one, *others]}) == 4


async def test_a_prompt_that_was_read_with_another_tokenizer_is_refused(
    an_engine, a_worker, a_gateway, a_folder, scheduler
):
    """Its ids mean something else here. Another placement may work, so no field is at fault."""
    folder, contents = a_folder
    engine = an_engine(auto=True)
    engine.tokenizer_files = tokenizer_files_in(folder)
    worker = await a_worker(engine, scheduler_addresses=[scheduler.address])
    digest = ids_digest(contents["tokenizer.json"])
    assert (await scheduler.report("hello")).hello.tokenizer == digest
    gateway = await a_gateway(worker)
    await gateway.submit("other", tokenizer=ids_digest(b"{}"))
    refused = await gateway.completion("other")
    assert (refused.reason, refused.field) == (pb.COMPLETION_REASON_REFUSED, "")
    assert "another tokenizer" in refused.message
    await gateway.send(
        pb.SubmitRequest(
            requests=[
                pb.SubmittedRequest(request_id="back", mode=pb.MODE_ATTACH, key_hash=b"k", tokenizer=b"x")
            ]
        )
    )
    assert "another tokenizer" in (await gateway.completion("back")).message
    for name, tokenizer in (("same", digest), ("unknown", b"")):
        await gateway.submit(name, tokenizer=tokenizer)
        assert (await gateway.completion(name)).reason == pb.COMPLETION_REASON_LENGTH
    assert engine.batches == [["same#0"], ["unknown#0"]]


async def test_a_worker_without_a_tokenizer_takes_whatever_it_is_given(an_engine, a_worker, a_gateway):
    engine = an_engine(auto=True)
    gateway = await a_gateway(await a_worker(engine))
    await gateway.submit("any", tokenizer=b"x")
    assert (await gateway.completion("any")).reason == pb.COMPLETION_REASON_LENGTH
