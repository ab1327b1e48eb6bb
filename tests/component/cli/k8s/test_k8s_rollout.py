"""`hortator k8s rollout ...` over HTTP against an API server."""

import asyncio
import json

import pytest

from hortator.api.parse import parse
from hortator.cli.errors import EXIT_FAILED, CommandError
from hortator.cli.k8s import rollout
from hortator.operator.desired import desired
from hortator.operator.options import Images, Options

KEY = ("serving.hortator.dev/v1alpha1", "LLMService", "default", "demo")
OPTIONS = Options(images=Images.of_version("1.2.3"))
ROLLING = {
    "phase": "Rolling",
    "updatedGroups": 1,
    "totalGroups": 3,
    "moving": ["demo-p-1"],
    "message": "1 of 3 groups run what spec asks for; demo-p-1 moves: pod demo-p-1-0 waits",
}
DONE = {"phase": "Complete", "updatedGroups": 3, "totalGroups": 3, "message": "3 of 3 groups run it"}


def a_status(told, *, generation=1, reason="RollingUpdate", is_ready=False):
    progressing = {
        "type": "Progressing",
        "status": "True",
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-11-25T10:00:00Z",
        "observedGeneration": generation,
    }
    ready = progressing | {"type": "Ready", "status": str(is_ready), "reason": "NotReady"}
    return {"observedGeneration": generation, "conditions": [progressing, ready], "rollout": told}


@pytest.fixture
def an_operator(api):
    """Does for the service what the operator would have done by now: its revisions, and groups that run them."""

    def look(*, moves=True):
        service = api.get(KEY)
        parsed = parse(service)
        wanted = desired(
            parsed.service,
            uid=service["metadata"]["uid"],
            options=OPTIONS,
            generation=service["metadata"]["generation"],
            revisions=api.find("ControllerRevision"),
        )
        there = {one["metadata"]["name"] for one in api.find("ControllerRevision")}
        for obj in (wanted.record, *wanted.revisions):
            if obj["metadata"]["name"] not in there:
                api.create(obj)
        for group in wanted.groups if moves else ():
            statefulset = group.statefulset(epoch=1, replicas=group.num_members, annotations={})
            api.apply(statefulset, manager="hortator-operator", force=True)
        return wanted

    return look


async def test_status_tells_how_far_it_is(a_service, here, capsys):
    a_service(status=a_status(ROLLING))
    assert await rollout.status(here, name="demo", wait_s=None, as_json=False) == 0
    assert capsys.readouterr().out.replace("\n", " ").strip() == f"demo: Rolling: {ROLLING['message']}"


async def test_status_as_json(a_service, here, capsys):
    a_service(status=a_status(ROLLING))
    await rollout.status(here, name=None, wait_s=None, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "name": "demo",
        "done": False,
        "overdue": False,
        "rollout": ROLLING,
    }


async def test_a_change_that_the_operator_has_not_seen_is_not_called_done(a_service, here, capsys):
    a_service(status=a_status(DONE, generation=0))
    assert await rollout.status(here, name="demo", wait_s=0.0, as_json=False) == EXIT_FAILED
    said = capsys.readouterr()
    assert "the operator has not looked at the latest change yet" in said.out.replace("\n", " ")
    assert "not done after 0 s" in said.err


async def test_wait_ends_when_it_is_done(api, a_service, here, capsys, monkeypatch, wait_until):
    monkeypatch.setattr(rollout, "POLL_S", 0.01)
    said = []

    def has_told():
        said.append(capsys.readouterr().out)
        return "Rolling" in "".join(said)

    a_service(status=a_status(ROLLING))
    waiting = asyncio.create_task(rollout.status(here, name="demo", wait_s=30.0, as_json=False))
    await wait_until(has_told)
    assert not waiting.done()
    api.patch(KEY, {"status": a_status(DONE)}, subresource="status")
    await wait_until(lambda: has_told() and "Complete" in "".join(said))
    assert not waiting.done(), "a group is not ready yet"
    api.patch(KEY, {"status": a_status(DONE, is_ready=True)}, subresource="status")
    assert await waiting == 0
    lines = "".join([*said, capsys.readouterr().out])
    assert lines.count("demo: Rolling") == 1, "a line only when there is something new"
    assert "demo: Complete: 3 of 3 groups run it; not ready: NotReady" in lines
    assert "demo: Complete: 3 of 3 groups run it\n" in lines


async def test_wait_ends_at_once_when_it_takes_too_long(a_service, here, capsys):
    a_service(status=a_status(ROLLING, reason="ProgressDeadlineExceeded"))
    assert await rollout.status(here, name="demo", wait_s=30.0, as_json=False) == EXIT_FAILED
    assert "Rolling (ProgressDeadlineExceeded)" in capsys.readouterr().out


async def test_history_shows_what_changed_and_who_runs_it(api, a_service, an_operator, here, capsys):
    a_service()
    an_operator()
    api.patch(KEY, {"spec": {"engine": {"image": "mine:2"}}})
    an_operator(moves=False)
    await rollout.history(here, name="demo", as_json=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines[1:]] == [
        ["Prefill", "1"],
        ["Prefill", "2"],
        ["Decode", "1"],
        ["Decode", "2"],
    ]
    assert lines[1][4] == "2"
    assert lines[2][4:] == ["0", "wanted", "engine.image:", "default", "->", "mine:2"]
    await rollout.history(here, name="demo", as_json=True)
    first, *_ = json.loads(capsys.readouterr().out)
    assert (first["role"], first["number"], first["num_groups"], first["is_wanted"]) == (
        "Prefill",
        1,
        2,
        False,
    )


async def test_undo_writes_the_fields_that_groups_still_run(api, a_service, an_operator, here, capsys):
    before = a_service()["spec"]
    first = an_operator()
    api.patch(KEY, {"spec": {"engine": {"image": "mine:2", "env": [{"name": "A", "value": "b"}]}}})
    an_operator(moves=False)
    assert await rollout.undo(here, name="demo", role=None, number=None, as_json=False) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "demo: Prefill goes back to revision 1 (" in said
    assert "and Decode goes back to revision 1 (" in said
    assert api.get(KEY)["spec"]["engine"] == before["engine"]
    assert an_operator(moves=False).revisions == tuple(
        api.get(("apps/v1", "ControllerRevision", "default", one["metadata"]["name"]))
        for one in first.revisions
    ), "the operator wants the very objects of before"


async def test_undo_of_one_role_says_what_else_it_changes(api, a_service, an_operator, here, capsys):
    a_service()
    an_operator()
    api.patch(KEY, {"spec": {"engine": {"image": "mine:2"}, "rollout": {"paused": True}}})
    an_operator()
    await rollout.undo(here, name="demo", role="Decode", number=1, as_json=False)
    said = capsys.readouterr().out
    assert "demo: Prefill shares fields with it and changes too" in said
    assert "the rollout is paused (hortator k8s rollout resume demo)" in said.replace("\n", " ")


async def test_undo_does_not_write_over_what_somebody_else_has_changed(
    api, a_service, an_operator, here, monkeypatch
):
    a_service()
    an_operator()
    api.patch(KEY, {"spec": {"engine": {"image": "mine:2"}}})
    an_operator(moves=False)
    find = rollout.find_service

    async def found_then_changed(kube, name):
        service = await find(kube, name)
        api.patch(KEY, {"spec": {"replicas": 2}})
        return service

    monkeypatch.setattr(rollout, "find_service", found_then_changed)
    with pytest.raises(CommandError, match="change LLMService"):
        await rollout.undo(here, name="demo", role=None, number=None, as_json=False)
    assert api.get(KEY)["spec"]["engine"]["image"] == "mine:2"


@pytest.mark.parametrize("is_paused", [True, False])
async def test_pause_and_resume_change_this_one_field(api, a_service, here, capsys, is_paused):
    before = a_service()["spec"]
    await rollout.set_paused(here, name=None, is_paused=is_paused, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"name": "demo", "paused": is_paused}
    assert api.get(KEY)["spec"] == before | {"rollout": {"paused": is_paused}}
