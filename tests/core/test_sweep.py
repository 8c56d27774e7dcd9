from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.plans import PLANS, Plan
from tests.core.sweep import Covered, sweep

COVERED: Covered = Counter()


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(PLANS, st.integers(0, 2**32))
def test_a_flow_cut_after_any_entry_goes_on_as_if_nothing_had_happened(
    plan: Plan, seed: int
) -> None:
    sweep(plan, seed, COVERED)
