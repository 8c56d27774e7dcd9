import msgspec
import pytest

from dispatch.core.blocks import Blocks
from dispatch.core.events import Custom
from dispatch.core.journal import Draft, Origin, draft, entry


def told(drafts: list[Draft]) -> list[str]:
    """Kind and block of each draft."""
    facts = [entry(placed, 1, 1.0).facts.id for placed in drafts]
    return [f"{placed.kind} {id}" for placed, id in zip(drafts, facts, strict=True)]


def test_text_opens_a_block_once() -> None:
    blocks = Blocks(0)
    assert told(blocks.text("a")) == ["text_start text_1", "text_delta text_1"]
    assert told(blocks.text("b")) == ["text_delta text_1"]
    assert told(blocks.close()) == ["text_complete text_1"]
    assert told(blocks.close()) == []


def test_an_empty_string_opens_nothing() -> None:
    assert Blocks(0).text("") == []


def test_another_speaker_gets_a_block_of_its_own() -> None:
    blocks = Blocks(0)
    blocks.text("a")
    drafts = blocks.text("b", "step_1")
    assert told(drafts) == [
        "text_complete text_1",
        "text_start text_2",
        "text_delta text_2",
    ]
    assert b'"stepId":"step_1"' in drafts[1].rest
    assert [placed.origin for placed in drafts] == [Origin.ENGINE, Origin.ENGINE, Origin.WORLD]
    assert told(blocks.text("c"))[-1] == "text_delta text_3"


@pytest.mark.parametrize("speaker", ["", "step_1"])
def test_a_block_that_a_crash_left_open_is_gone_on_with_by_its_speaker(speaker: str) -> None:
    before = Blocks(0)
    after = Blocks(0)
    for seq, placed in enumerate(before.text("a", speaker), 1):
        after.feed(entry(placed, seq, 1.0))
    after.feed(entry(draft(Custom(name="x"), Origin.FLOW), 3, 1.0))
    assert told(after.text("b", speaker)) == ["text_delta text_1"]
    assert told(after.close()) == ["text_complete text_1"]


def test_blocks_have_names_of_their_own_in_every_segment() -> None:
    assert told(Blocks(0).text("a"))[-1] != told(Blocks(1).text("a"))[-1]
    assert msgspec.json.decode(b"{" + Blocks(2).text("a")[1].rest[1:])["id"] == "text_2_1"


def test_a_block_that_was_closed_stays_closed() -> None:
    blocks = Blocks(0)
    journal = [*Blocks(0).text("a")]
    closing = Blocks(0)
    closing.text("a")
    journal += closing.close()
    for seq, placed in enumerate(journal, 1):
        blocks.feed(entry(placed, seq, 1.0))
    assert told(blocks.text("b")) == ["text_start text_2", "text_delta text_2"]
