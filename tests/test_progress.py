"""What long commands tell where there is no terminal, with a clock that the test moves."""

import pytest

from statshift.cli.output import console
from statshift.cli.progress import MakingReport, MeasurementReport, TrainingReport, progress_bar
from statshift.hardening.training import Step
from statshift.measuring.progress import Progress
from statshift.shifts.conditions import Condition


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """The seconds that the bars go by; standard error is no terminal."""
    clock = Clock()
    monkeypatch.setattr(console(), "get_time", clock)
    assert not console().is_terminal
    return clock


@pytest.fixture
def told(capsys):
    """What was told since the last look, line by line."""

    def look():
        return capsys.readouterr().err.splitlines()

    return look


def test_a_measurement_tells_a_line_a_minute(clock, told):
    with progress_bar() as bar:
        report = MeasurementReport(bar)
        for images in range(0, 101, 10):  # 20 s a batch, 200 s of 400
            report(Progress(Condition("fog", 3), "auto", 0, 2, 0, images, 100))
            clock.now += 20
    assert told() == [
        "2 passes over 100 images.",
        "fog 3, auto: 30 of 200 images after 60 s, about 6 min left",
        "fog 3, auto: 60 of 200 images after 2 min, about 5 min left",
        "fog 3, auto: 90 of 200 images after 3 min, about 4 min left",
        "The first pass took 200.0 s; about 3 min to go.",
    ]


def test_a_batch_that_takes_minutes_is_told_of_once(clock, told):
    with progress_bar() as bar:
        report = MakingReport(bar, "attack")
        report(0, 40)
        for done in (10, 20):
            clock.now += 600
            report(done, 40)
    assert told() == [
        "40 images to attack.",
        "attacking: 10 of 40 images after 10 min, about 30 min left",
        "attacking: 20 of 40 images after 20 min, about 20 min left",
    ]


def test_a_training_tells_its_losses_and_goes_by_its_own_speed_when_resumed(clock, told):
    with progress_bar() as bar:
        report = TrainingReport(bar)
        for step in range(901, 904):
            clock.now += 30
            report(Step(step, 1000, 9, 10, {"clean": 0.25}))
    assert told() == [
        "10 epochs, 1,000 steps, of which 900 were taken before.",
        "epoch 9/10, loss clean 0.250: 902 of 1,000 steps after 60 s, about 49 min left",
    ]


def test_of_several_processes_the_first_tells(clock, told, monkeypatch):
    monkeypatch.setattr("statshift.cli.lines.join", lambda: (1, 2))
    with progress_bar() as bar:
        task = bar.add_task("corrupting", total=9, unit="images")
        clock.now += 61
        bar.update(task, completed=3)
    assert told() == []


def test_a_terminal_has_a_bar_and_no_lines(clock, told, monkeypatch):
    monkeypatch.setattr(console(), "_force_terminal", True)
    with progress_bar() as bar:
        bar.stop()
        task = bar.add_task("corrupting", total=9, unit="images")
        clock.now += 61
        bar.update(task, completed=3)
    assert "corrupting: 3" not in "\n".join(told())
