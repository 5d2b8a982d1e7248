"""Queries of the real serf, answered by handlers of serfmp: as recorded of serf's own handlers.

What differs, on purpose (docs/deviations.md): of two handlers of one query the first that ends answers, not the first
in the list. The recorded `late` script sleeps 1 s for a query of 600 ms; here both are longer, so that a busy machine
does not decide.
"""

import json
from pathlib import Path

from tests.harness import AnswerRecord, Launcher, eventually

DEADLINE_S = 60.0
QUERY_S = 5.0

RECORDED = json.loads((Path(__file__).parents[1] / "data/handlers.json").read_text(encoding="utf-8"))["queries"]


def test_queries_of_the_real_serf_are_answered_as_it_answers_them(launch: Launcher) -> None:
    handlers = [text.replace("sleep 1; echo late", f"sleep {QUERY_S + 1}; echo late") for text in RECORDED["handlers"]]
    ours = launch.serfmp("qa", handlers=handlers)
    asker = launch.serf("asker", join=[ours])
    for agent in (ours, asker):
        agent.wait_statuses({"qa": "alive", "asker": "alive"}, DEADLINE_S)
    client = asker.client()
    streams = {
        case["name"]: client.query(
            case["name"], case["payload"].encode(), timeout_s=QUERY_S, request_ack=True, nodes=("qa",)
        )
        for case in RECORDED["asked"]
    }
    for name, stream in streams.items():
        stream.wait_for(lambda record: getattr(record, "kind", "") == "done", DEADLINE_S, f"the end of {name}")
    for case in RECORDED["asked"]:
        # At the end of a query the real agent may tell acks and responses of nobody.
        records = [one for one in streams[case["name"]].records if isinstance(one, AnswerRecord) and one.sender]
        assert [record.sender for record in records if record.kind == "ack"] == ["qa"], case["name"]
        answers = [record.payload.decode() for record in records if record.kind == "response"]
        if case["name"] == "two":
            assert answers in (["one\n"], ["two\n"])
        else:
            # The command line that was recorded does not show one line end at the end.
            assert [answer.removesuffix("\n") for answer in answers] == (
                [] if case["shown"] is None else [case["shown"]]
            ), case["name"]
    for line in RECORDED["warnings"]:
        eventually(lambda line=line: line in ours.log(), DEADLINE_S, line)  # type: ignore[misc]
