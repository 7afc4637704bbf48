"""Tests of curves for TensorBoard: property, read by its own reader."""

from __future__ import annotations

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medcontrast.engine.curves import Curves


def shown(folder):
    return [event.step for event in EventAccumulator(str(folder)).Reload().Scalars("loss")]


def test_a_resume_hides_what_an_earlier_process_wrote_of_later_steps(tmp_path):
    first = Curves(tmp_path, resumed=0)
    for step in range(1, 7):
        first.scalars(step, {"loss": 1.0})
    first.close()
    second = Curves(tmp_path, resumed=4)
    second.scalars(5, {"loss": 2.0})
    second.close()
    assert shown(tmp_path) == [1, 2, 3, 4, 5]


def test_another_writer_in_its_own_folder_hides_nothing(tmp_path):
    training = Curves(tmp_path, resumed=0)
    training.scalars(1, {"loss": 1.0})
    probe = Curves(tmp_path / "probe")
    probe.scalars(1, {"accuracy": 0.5})
    probe.close()
    training.scalars(2, {"loss": 1.0})
    training.close()
    assert shown(tmp_path) == [1, 2]
