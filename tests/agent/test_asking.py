"""What the supervisor asks of a detector that may be started again."""

from typing import Any

from serfmp.agent.asking import Asking
from serfmp.bus import frames
from serfmp.detector.effects import JoinRequest, LeaveRequest


def test_a_later_detector_is_asked_what_was_not_answered_and_only_the_first_answer_counts() -> None:
    sent: list[frames.Ask] = []
    told: list[tuple[str, Any, str]] = []
    asking = Asking(sent.append)
    asking.ask(JoinRequest(("a:1",), True), lambda value, error: told.append(("join", value, error)))
    asking.ask(LeaveRequest(), lambda value, error: told.append(("leave", value, error)))
    join, leave = sent
    asking.on_answered(frames.Answered(join.number, 1, ""))
    asking.ask_again()
    assert sent == [join, leave, leave]
    asking.on_answered(frames.Answered(leave.number, None, "no"))
    asking.on_answered(frames.Answered(join.number, 2, ""))
    assert told == [("join", 1, ""), ("leave", None, "no")]
