"""Pausing at a rung, and going on."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from mnist_sweep.sweep.promotion import PAUSED, PROMOTED, SCHEDULE, Promotion, paused


def trial(number: int, curve: Sequence[float], at: int = 0, **attributes: Any) -> FrozenTrial:
    """A trial that has reported this curve, and is paused after epoch `at`."""
    made = create_trial(
        state=TrialState.WAITING if at else TrialState.RUNNING,
        intermediate_values=dict(enumerate(curve, start=1)),
        user_attrs={"digest": "", **({PAUSED: at} if at else {}), **attributes},
    )
    made.number = number
    return made


def promotion(**changes: int) -> Promotion:
    return Promotion(**{"min_epochs": 1, "reduction_factor": 3, "max_epochs": 9, "sign": 1, **changes})


def test_the_rungs_are_below_the_longest_trial() -> None:
    assert promotion().rungs == [1, 3]
    assert promotion(max_epochs=10).rungs == [1, 3, 9]
    assert promotion(min_epochs=2, reduction_factor=2, max_epochs=16).rungs == [2, 4, 8]
    assert promotion(min_epochs=5, max_epochs=3).rungs == [5]


def test_a_trial_pauses_unless_it_is_among_the_best_third() -> None:
    trials = [trial(0, [0.5]), trial(1, [0.6])]
    assert promotion().decide(1, 1, 9, trials) == "pause"  # of two none goes on
    trials.append(trial(2, [0.7]))
    assert promotion().decide(2, 1, 9, trials) is True
    assert promotion().decide(1, 1, 9, trials) == "pause"
    assert promotion().decide(1, 2, 9, trials) is True  # no rung


def test_the_best_of_the_highest_rung_goes_on_first() -> None:
    low = [trial(number, [0.1 * number], at=1) for number in range(3)]
    high = [trial(number, [0.5, 0.5, 0.5 + 0.1 * number], at=3) for number in range(3, 6)]
    assert promotion().next([*low, *high], last=False) == 5
    high[2] = trial(5, [0.5, 0.5, 1.0, 1.0])  # has gone on
    assert promotion().next([*low, *high], last=False) is None  # of six at the first rung two go on, and these have
    assert promotion().next(low, last=False) == 2


def test_trials_of_another_program_are_not_ranked() -> None:
    others = [trial(number, [0.9] * 9) for number in range(3)]
    for other in others:
        del other.user_attrs["digest"]
    ours = [trial(number, [0.1 * number], at=1) for number in (3, 4, 5)]
    assert promotion().next([*others, *ours], last=False) == 5


def test_at_the_end_the_best_of_few_goes_on() -> None:
    two = [trial(0, [0.5], at=1), trial(1, [0.6], at=1)]
    assert promotion().next(two, last=False) is None
    assert promotion().next(two, last=True) == 1


def test_lower_is_better_where_the_sign_says_so() -> None:
    trials = [trial(number, [0.1 * number], at=1) for number in range(3)]
    assert promotion(sign=-1).next(trials, last=False) == 0


def test_a_short_trial_is_held_to_the_same_bar_at_its_end() -> None:
    others = [trial(number, [0.5, 0.6 + 0.01 * number]) for number in range(5)]
    good, bad = trial(5, [0.5, 0.9]), trial(5, [0.5, 0.1])
    assert promotion().decide(5, 2, 2, [*others, good]) is True
    assert promotion().decide(5, 2, 2, [*others, bad]) is False
    assert promotion().decide(5, 9, 9, [*others, trial(5, [0.1] * 9)]) is True  # it has come to the last rung


def test_schedules_over_the_whole_run_are_compared_with_each_other() -> None:
    plain = [trial(number, [0.9]) for number in range(3)]
    slow = [trial(number, [0.1 * number], at=1, **{SCHEDULE: "onecycle"}) for number in range(3, 6)]
    assert promotion().next([*plain, *slow], last=False) == 5
    assert promotion().decide(5, 1, 9, [*plain, *slow]) is True


def test_other_rungs_of_an_earlier_session_mix_nothing() -> None:
    trials = [trial(number, [0.1 * number] * 2, at=2) for number in range(6)]  # paused at epoch 2
    assert promotion().next(trials, last=False) == 5  # at the rung of epoch 1, where two of six go on
    assert promotion(min_epochs=3, max_epochs=27).next(trials, last=False) == 0  # on to the first rung
    assert promotion(min_epochs=2, max_epochs=9).next(trials, last=False) == 5


def test_a_promoted_trial_is_paused_no_more() -> None:
    assert paused(trial(0, [0.5], at=1))
    assert not paused(trial(0, [0.5], at=1, **{PROMOTED: 1}))
    assert paused(trial(0, [0.5, 0.5, 0.5], at=3, **{PROMOTED: 1}))


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=8), min_size=1, max_size=30))
def test_whoever_goes_on_is_the_best_that_waits_there(curves: list[list[float]]) -> None:
    trials = [trial(number, curve, at=len(curve)) for number, curve in enumerate(curves)]
    rule = promotion()
    for last in (False, True):
        while (number := rule.next(trials, last=last)) is not None:
            rung = max(each for each in rule.rungs if each <= len(trials[number].intermediate_values))
            values = {
                each.number: max([*each.intermediate_values.values()][:rung])
                for each in trials
                if paused(each) and rung <= len(each.intermediate_values) < rung * rule.factor
            }
            assert values[number] == max(values.values())
            done = [*trials[number].intermediate_values.values()]
            following = rung * rule.factor
            trials[number] = trial(number, [*done, *[0.5] * (following - len(done))], at=following * (following < 9))
