"""A person's decision: approved, denied, or none in time. Nothing is raised, the flow decides."""

from typing import Any

from dispatch import Decision, Flow, Run, approval, flow, result


@flow("approval")
async def delete_with_approval(run: Run[Any]) -> Flow:
    """Ask whether a record may be deleted."""
    decision: Decision = yield approval(
        "delete_record", {"record": "A-17"}, reason="It cannot be brought back."
    )
    yield f"The deletion was {'approved' if decision.approved else 'denied'}."
    yield result({"outcome": decision.outcome, "reason": decision.reason})
