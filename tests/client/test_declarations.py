"""The events as TypeScript knows them are the events as they are."""

from tests.client.declarations import EVENTS, declared


def test_the_declared_events_are_the_events() -> None:
    assert EVENTS.read_text() == declared(), "python -m tests.client.declarations"
