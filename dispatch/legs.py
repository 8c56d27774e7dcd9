"""Carry an execution on from a terminal, leg by leg: show it, ask what it asks, resume it.

The main thread belongs to the person, whom it can wait for and be interrupted by; all I/O is done
by the event loop of a portal's thread, where the server runs too if there is none elsewhere.
"""

from __future__ import annotations

import shlex

from dispatch.client import End, Received, Tail
from dispatch.core import events
from dispatch.core.errors import Conflict, Gone, Unavailable, Unprocessable
from dispatch.place import Place
from dispatch.terminal import Screen, brief

Call = events.Await | events.ApprovalStart

#: What the process ends with.
OK, FAILED, USAGE, WAITING, INTERRUPTED = 0, 1, 2, 3, 130


class Legs:
    """One execution, shown on `screen`."""

    def __init__(self, place: Place, screen: Screen):
        self._place, self._client, self._screen = place, place.client, screen
        self._execution_id, self._seq = "", 0
        self._last: events.Event | None = None
        self._open: dict[str, Call] = {}

    def carry(self, tail: Tail) -> int:
        """Until it ends, or waits for what nobody here can answer; gives the exit code."""
        try:
            end = self._place.call(self._follow, tail)
            while end is End.TURN and self._open and self._screen.is_interactive:
                end = self._answer()
        except EOFError:
            return self._waiting()
        except Unavailable as exc:
            if not self._execution_id:
                raise
            self._screen.refused(exc)
            self._follow_later()
            return FAILED
        except KeyboardInterrupt:
            self._interrupted()
            return INTERRUPTED
        return self._ended(end)

    def show(self, execution_id: str, tail: Tail) -> int:
        """What there is of it now."""
        status = self._place.call(self._client.status, execution_id)
        self._place.call(self._follow, tail, status["lastSeq"])
        return OK

    async def _follow(self, tail: Tail, until: int | None = None) -> End | None:
        async with tail:
            self._execution_id, self._seq = tail.execution_id, tail.seq
            while self._seq != until:
                received = await anext(tail, None)
                if received is None:
                    break
                self._execution_id = tail.execution_id
                self._take(received)
                self._screen.show(received, self._execution_id)
        return tail.end

    def _take(self, received: Received) -> None:
        self._seq, self._last = received.seq, received.event
        match received.event:
            case events.Await(tool_call_id=str(call_id), tool_name=str()) as opened:
                self._open[call_id] = opened
            case events.ApprovalStart() as approval:
                self._open[approval.approval_id] = approval
            case events.ToolComplete() as done:
                self._open.pop(done.tool_call_id, None)
            case events.ApprovalComplete() as decided:
                self._open.pop(decided.approval_id, None)
            case _:
                pass

    # --- answering --------------------------------------------------------------------------------

    def _answer(self) -> End | None:
        """Ask for what is open, and carry on with the answer. Raises `EOFError`."""
        try:
            return self._place.call(self._follow, self._ask())
        except Unprocessable as exc:
            self._screen.refused(exc)
            return End.TURN
        except (Conflict, Gone) as exc:
            # Somebody else was faster, or it timed out: see what became of it.
            self._screen.refused(exc)
            events_after = self._client.events(self._execution_id, after=self._seq, through=False)
            return self._place.call(self._follow, events_after)

    def _ask(self) -> Tail:
        calls = [one for one in self._open.values() if isinstance(one, events.Await)]
        if calls:
            is_alone = len(calls) == 1
            outputs = {
                str(one.tool_call_id): self._screen.ask_output(one, is_alone=is_alone)
                for one in calls
            }
            return self._client.resume(self._execution_id, outputs)
        approval = next(one for one in self._open.values() if isinstance(one, events.ApprovalStart))
        is_approved, reason = self._screen.ask_decision(approval)
        return self._client.approve(
            self._execution_id, approval.approval_id, is_approved=is_approved, reason=reason
        )

    # --- the end ----------------------------------------------------------------------------------

    def _ended(self, end: End | None) -> int:
        match end:
            case End.TURN if self._open:
                return self._waiting()
            case End.TURN:
                self._screen.say(f"parked; when it is mended: {self._command('retry')}")
                return FAILED
            case _:
                succeeded = isinstance(self._last, events.ExecutionComplete) and self._last.success
                return OK if succeeded else FAILED

    def _waiting(self) -> int:
        names = [one.tool_name for one in self._open.values()]
        outputs = []
        for id, one in self._open.items():
            self._screen.say(f"waiting for {one.tool_name} {brief(one.parameters)}")
            if isinstance(one, events.ApprovalStart):
                for command in ("approve", "deny"):
                    self._screen.say(f"  {self._command(command, id)}")
            else:
                key = str(one.tool_name) if names.count(one.tool_name) == 1 else id
                outputs += ["--output", f"{key}=JSON"]
        if outputs:
            self._screen.say(f"  {self._command('resume', *outputs)}")
        return WAITING

    def _interrupted(self) -> None:
        if self._execution_id:
            rests = "rests until somebody opens its file again"
            goes_on = rests if self._place.is_here else "goes on without you"
            self._screen.say(f"{self._execution_id} {goes_on}; to follow it:")
            self._follow_later()

    def _follow_later(self) -> None:
        after = ("--after", str(self._seq), "--follow")
        self._screen.say(f"  {self._command('events', *after)}")

    def _command(self, name: str, *arguments: str) -> str:
        return shlex.join(("dispatch", name, self._execution_id, *arguments, *self._place.again))
