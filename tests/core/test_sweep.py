from collections import Counter
from collections.abc import Callable

from tests.core.sweep import Covered, sweep_many

FLOWS = 60


def test_a_flow_cut_after_any_entry_goes_on_as_if_nothing_had_happened(
    record_property: Callable[[str, object], None],
) -> None:
    covered: Covered = Counter()
    cuts = sweep_many(FLOWS, covered)
    waits, _, appends = ({key[i] for key in covered} for i in range(3))
    record_property(
        "sweep",
        f"{FLOWS} flows, {cuts} cuts, {sum(covered.values())} foreign appends; covered"
        f" {len(covered)} triples of wait, cut and append, of {len(waits)} kinds of wait"
        f" ({', '.join(sorted(waits))}) and {len(appends)} kinds of append"
        f" ({', '.join(sorted(appends))})",
    )
    assert waits >= {"Gather", "Race", "StepWait", "ToolWait", "SleepWait", "ApprovalWait"}
    assert appends >= {"cancel", "settle again", "resume", "timer", "step: fail", "tool fails"}
