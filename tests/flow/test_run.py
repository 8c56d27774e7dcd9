"""What a flow is given: inputs of its type, and randomness that a replay draws again."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from msgspec import Meta, Struct

from dispatch import Flow, Run, flow
from dispatch.core.errors import Unprocessable
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import StartPrivate


class Item(Struct):
    name: str
    count: Annotated[int, Meta(ge=1)] = 1


class Order(Struct):
    items: list[Item]


@flow("orders")
async def orders(run: Run[Order]) -> Flow:
    yield "x"


@flow("anything")
async def anything(run: Run[Any]) -> Flow:
    yield "x"


@flow("bare")
async def bare(run) -> Flow:  # type: ignore[no-untyped-def]  # as a first flow may be written
    yield "x"


def test_inputs_become_the_flows_type() -> None:
    assert orders.decode_inputs(b'{"items":[{"name":"cup"}]}') == Order([Item("cup", 1)])
    assert anything.decode_inputs(b"[1, null]") == [1, None]
    assert bare.decode_inputs(b'{"a":1}') == {"a": 1}


@pytest.mark.parametrize(
    ("inputs", "path", "message"),
    [
        (b"{}", "$", "Object missing required field `items`"),
        (b"[]", "$", "Expected `object`, got `array`"),
        (b'{"items":[{"name":"cup"},{"name":3}]}', "$.items[1].name", "Expected `str`, got `int`"),
        (b'{"items":[{"name":"cup","count":0}]}', "$.items[0].count", "Expected `int` >= 1"),
    ],
)
def test_inputs_that_misfit_are_refused_with_their_path(
    inputs: bytes, path: str, message: str
) -> None:
    with pytest.raises(Unprocessable) as refused:
        orders.decode_inputs(inputs)
    assert refused.value.code == "inputs-invalid"
    (detail,) = refused.value.details
    assert (detail.path, detail.message) == (path, message)


def test_the_schema_of_the_inputs_is_published() -> None:
    schema = orders.inputs_schema()
    assert schema["$defs"]["Item"]["properties"]["count"]["minimum"] == 1
    assert anything.inputs_schema() == {}


# --- randomness -----------------------------------------------------------------------------------


def run_of(seed: str, segment: int = 0) -> Run[Any]:
    start = StartPrivate(seed=seed, inputs=msgspec.Raw(b"{}"))
    return Run(anything, ExecutionId("exec_1"), start, inputs={}, segment=segment, state=None)


def drawn(run: Run[Any]) -> list[Any]:
    return [run.uuid(), run.random.random(), run.uuid(), run.random.choice("abcdefgh")]


def test_a_replay_draws_the_same() -> None:
    assert drawn(run_of("seed")) == drawn(run_of("seed"))


def test_each_seed_and_each_segment_draws_its_own() -> None:
    all_of_them = [run_of("seed"), run_of("other"), run_of("seed", segment=1)]
    uuids = [uuid for run in all_of_them for uuid in drawn(run)[::2]]
    assert len(set(uuids)) == 6
    assert len({run.random.random() for run in all_of_them}) == 3
    assert all(UUID(uuid).version == 4 for uuid in uuids)
