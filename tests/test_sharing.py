"""Who measures what, rows in one order whoever finds them when, and what srun tells."""

import io
import json
import sys
from types import SimpleNamespace

import pytest

from statshift._core import processes
from statshift._core.errors import InputError
from statshift._core.slurm import PORTS, launch_variables, spelled_hosts
from statshift.measuring.ledger import Ledger
from statshift.measuring.sharing import share_out
from statshift.results import open_run, row_key
from statshift.results.ahead import read_ahead, write_ahead
from statshift.shifts.conditions import Condition

# Who measures what


def plan_of(conditions, batches, *, course=None, **shareable):
    """Return what `share_out` asks of a plan of so many conditions and batches, with protocols that share or do not."""
    plan = SimpleNamespace(
        conditions=[Condition(f"c{number}", 1) for number in range(conditions)],
        protocols={name: SimpleNamespace(shareable=value) for name, value in shareable.items()},
        images=SimpleNamespace(sets={}, base=SimpleNamespace(batch_count=lambda size: batches)),
        evaluate=SimpleNamespace(batch_size=8),
        course=course,
    )
    plan.repeats = lambda: [(name, 0) for name in ("source", *shareable)]
    plan.groups = lambda: [plan.conditions] if course else [[one] for one in plan.conditions]
    return plan


def shared(plan, world, todo=None):
    todo = todo or {one: plan.repeats() for one in plan.conditions}
    found = share_out(plan, todo, world)
    whole = [part for part in found.apart if not any(one in found.together for one in part)]
    assert sum(map(len, found.together.values())) + sum(
        len(left) for part in found.apart for left in part.values()
    ) == (sum(map(len, todo.values())))
    return found, len(whole), len(found.apart) - len(whole)


@pytest.mark.parametrize(
    ("conditions", "batches", "world", "whole"),
    [
        (15, 100, 1, 0),
        (15, 8, 2, 0),  # four batches each
        (16, 7, 2, 16),
        (3, 7, 2, 0),  # sharing takes 3 x 4, dealing 2 x 7
        (76, 16, 8, 76),
        (76, 79, 8, 0),  # 10 each but for one
        (76, 33, 8, 76),  # 5 for one, 4 for others: a quarter of the time is waiting
        (2, 3, 8, 0),
    ],
)
def test_conditions_with_few_batches_are_dealt_out_where_there_are_enough(conditions, batches, world, whole):
    plan = plan_of(conditions, batches, auto=True)
    found, number, others = shared(plan, world)
    assert (number, others) == (whole, 0)
    assert len(found.together) == conditions - whole


def test_what_answers_in_order_is_dealt_out():
    plan = plan_of(3, 100, auto=True, running=False, tent=False)
    found, whole, others = shared(plan, 2)
    assert found.together == {one: [("source", 0), ("auto", 0)] for one in plan.conditions}
    assert (whole, others) == (0, 6)
    assert found.apart[1] == {plan.conditions[0]: [("tent", 0)]}
    found, whole, others = shared(plan_of(8, 100, running=False, tent=False), 2)
    assert (whole, others) == (0, 8)
    assert [*found.apart[0].values()] == [[("running", 0), ("tent", 0)]]


def test_of_conditions_that_lack_only_that_the_source_is_found_together():
    plan = plan_of(2, 100, running=False)
    found, *_ = shared(plan, 2, {plan.conditions[1]: [("running", 0)]})
    assert found.together == {plan.conditions[1]: []}
    assert found.apart == [{plan.conditions[1]: [("running", 0)]}]


def test_of_a_stream_each_protocol_is_dealt_out():
    plan = plan_of(5, 2, course="mixed", auto=True, tent=False)
    found, whole, others = shared(plan, 4)
    assert found.together == {one: [("source", 0)] for one in plan.conditions}
    assert (whole, others) == (0, 2)
    assert found.apart[0] == {one: [("auto", 0)] for one in plan.conditions}


def test_alone_all_is_done_together():
    plan = plan_of(3, 2, running=False)
    todo = {one: plan.repeats() for one in plan.conditions}
    assert share_out(plan, todo, 1).together is todo
    assert [*processes.dealt(3)] == [0, 1, 2]


def test_apart_a_process_is_alone(monkeypatch):
    monkeypatch.setattr(processes.dist, "is_initialized", lambda: True)

    def work():
        with processes.apart():
            assert processes.join() == (0, 1)
            assert processes.gather(3) == [3]
            assert processes.from_first(4) == 4
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        work()
    assert processes._together()


# One order


def row(number, protocol="source"):
    return {"protocol": protocol, "shift": f"c{number}", "severity": 1, "draw": 0, "images": 3, "score": number / 3}


RECORD = {"model": {"spec": "a"}, "shifts": ["c0"]}


def test_rows_are_put_in_their_turn_and_kept_before(tmp_path):
    """Two processes find rows out of order; a third launch, after a kill, finds all of them."""
    rows = [row(number) for number in range(5)]
    order = [row_key(one) for one in rows]
    with open_run(tmp_path / "run", RECORD) as run:
        first = Ledger([], order, {}, run, run.path)
        second = Ledger([], order, {}, None, run.path)
        assert second.add(rows[2], {"seconds": 1.0}, apart=True) == []
        assert first.add(rows[1], {}, apart=True) == []
        assert {*read_ahead(run.path)} == {order[1], order[2]}
        assert first.add(rows[0], {}, apart=True) == rows[:3]
        assert read_ahead(run.path) == {}
        assert not (run.path / "ahead").exists()
        second.add(rows[4], {"seconds": 2.0}, apart=True)
    with open_run(tmp_path / "run", RECORD) as run:
        assert run.rows == rows[:3]
        assert run.ahead == {order[4]: (rows[4], {"seconds": 2.0})}
        ledger = Ledger(run.rows, order[3:], run.ahead, run, run.path)
        assert ledger.settle() == []
        assert ledger.add(rows[3], {}) == rows[3:]
        assert ledger.rows == rows
    lines = (tmp_path / "run" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert json.loads((tmp_path / "run" / "timings.jsonl").read_text().splitlines()[-1])["seconds"] == 2.0


def test_rows_travel_where_a_process_does_not_see_the_directory(tmp_path):
    rows = [row(number) for number in range(3)]
    order = [row_key(one) for one in rows]
    with open_run(tmp_path / "run", RECORD) as run:
        ledgers = Ledger([], order, {}, run, run.path), Ledger([], order, {}, None, None)
        ledgers[1].add(rows[0], {}, apart=True)
        ledgers[0].add(rows[2], {}, apart=True)
        ledgers[1].add(rows[1], {}, apart=True)
        assert run.rows == []
        for ledger in ledgers:
            ledger.share([one.own for one in ledgers])
            assert ledger.rows == rows
        assert run.rows == rows
        assert not (run.path / "ahead").exists()


def test_a_run_with_rows_kept_ahead_only_is_no_fresh_one(tmp_path):
    with open_run(tmp_path / "run", RECORD) as run:
        write_ahead(run.path, row(1), {})
    with pytest.raises(InputError, match="holds another run"):
        open_run(tmp_path / "run", {**RECORD, "model": {"spec": "b"}})


def test_a_row_put_just_before_a_kill_is_not_put_again(tmp_path):
    with open_run(tmp_path / "run", RECORD) as run:
        run.append(row(1))
        write_ahead(run.path, row(1), {})
    with open_run(tmp_path / "run", RECORD) as run:
        assert run.rows == [row(1)]
        assert run.ahead == {}
        assert not (run.path / "ahead").exists()


# What srun tells


@pytest.mark.parametrize(
    ("nodes", "hosts"),
    [
        ("gpu1", ["gpu1"]),
        ("node[01-03,07],gpu1", ["node01", "node02", "node03", "node07", "gpu1"]),
        ("a,b[9-11]", ["a", "b9", "b10", "b11"]),
        ("r[1-2]n[08-09]-ib", ["r1n08-ib", "r1n09-ib", "r2n08-ib", "r2n09-ib"]),
    ],
)
def test_node_lists_are_spelled_out(nodes, hosts):
    assert [*spelled_hosts(nodes)] == hosts


STEP = {
    "SLURM_JOB_ID": "200505",
    "SLURM_STEP_ID": "1",
    "SLURM_NTASKS": "16",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_NODELIST": "node[01-04]",
    "SLURM_STEP_NODELIST": "node[03-04]",
}


def test_a_task_of_a_step_is_a_process_of_a_launch():
    assert launch_variables(STEP) == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "node03",
        "MASTER_PORT": str(15000 + 200506 % 10000),
    }
    assert launch_variables({**STEP, "MASTER_PORT": "7", "MASTER_ADDR": "h"})["MASTER_PORT"] == "7"
    without = {name: value for name, value in STEP.items() if name != "SLURM_STEP_NODELIST"}
    assert launch_variables(without)["MASTER_ADDR"] == "node01"
    assert len(PORTS) == 10000


@pytest.mark.parametrize(
    "changed",
    [
        {"WORLD_SIZE": "8", "RANK": "3"},  # torchrun within a step
        {"SLURM_STEP_NUM_TASKS": None},  # a batch script's own process
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_PROCID": None},  # salloc
    ],
)
def test_others_are_alone(changed):
    environment = {name: value for name, value in {**STEP, **changed}.items() if value is not None}
    assert launch_variables(environment) == {}


def test_what_is_typed_at_a_terminal_is_alone(monkeypatch):
    typed = {**STEP, "SLURM_PTY_PORT": "44263"}
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert launch_variables(typed)["RANK"] == "5"  # srun within an interactive allocation
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert launch_variables(typed) == {}
