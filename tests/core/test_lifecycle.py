from dispatch.core.lifecycle import FINAL, POLL, TRANSITIONS, Command, Status


def test_every_status_has_a_word_for_the_poll() -> None:
    assert POLL.keys() == set(Status)
    assert set(POLL.values()) == {"queued", "running", "paused", "completed", "failed", "cancelled"}


def test_three_statuses_are_final_and_take_no_command() -> None:
    assert {status for status in Status if status.is_final} == FINAL
    assert {Status.COMPLETED, Status.FAILED, Status.CANCELLED} == FINAL
    assert all(status not in FINAL for status, _ in TRANSITIONS)


def test_every_other_status_takes_resume_and_cancel() -> None:
    for command in (Command.RESUME, Command.CANCEL):
        assert {status for status, taken in TRANSITIONS if taken is command} == set(Status) - FINAL


def test_only_what_is_parked_is_retried() -> None:
    retried = {status for status, command in TRANSITIONS if command is Command.RETRY}
    assert retried == {Status.INTERRUPTED}


def test_commands_lead_on_or_to_the_end() -> None:
    for (_, command), status in TRANSITIONS.items():
        assert status is (Status.CANCELLED if command is Command.CANCEL else Status.RUNNING)
