"""Groups of chains report as one group would, whichever of them is ahead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nbcore.common.progress import Report, Slowest

STEPS = [("warmup", 3), ("warmup", 6), ("tuning", 0), ("tuning", 1), ("sampling", 3)]
REPORTS = [Report(phase, None, 8, done, 6) for phase, done in STEPS]


@given(st.lists(st.integers(0, len(STEPS) - 1), min_size=1, max_size=4), st.data())
def test_groups_report_as_the_slowest_alone(starts: list[int], data: st.DataObject) -> None:
    """From where each group begins or goes on, in any order of their steps."""
    seen: list[Report] = []
    groups = Slowest(seen.append, len(starts))
    left = {g: REPORTS[start:] for g, start in enumerate(starts)}
    while any(left.values()):
        g = data.draw(st.sampled_from([g for g, reports in left.items() if reports]))
        groups.of(g)(left[g].pop(0))
    whole = REPORTS[min(starts) :]
    assert seen == whole[len(whole) - len(seen) :]  # none before all have said where they are
    assert seen[-1] == REPORTS[-1]


def test_a_group_that_has_nothing_left_to_do_does_not_silence_the_others() -> None:
    seen: list[Report] = []
    groups = Slowest(seen.append, 2)
    groups.of(0)(REPORTS[-1])
    for report in REPORTS:
        groups.of(1)(report)
    assert seen == REPORTS
