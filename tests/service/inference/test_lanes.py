import pytest

from service.inference.lanes import LanePlan, batch_tiles_for, plan_lanes, plan_workers


@pytest.mark.parametrize(
    ("concurrency", "threads", "alone", "processors", "plan"),
    [
        (0, 0, 0, 1, LanePlan(1, 1)),
        (0, 0, 0, 2, LanePlan(2, 1, 2)),
        (0, 0, 0, 8, LanePlan(8, 1, 8)),
        (0, 0, 0, 12, LanePlan(6, 2, 12)),
        (0, 0, 0, 64, LanePlan(8, 8, 64)),
        (0, 0, 4, 8, LanePlan(8, 1, 4)),
        (0, 3, 0, 8, LanePlan(1, 3)),
        (1, 0, 0, 8, LanePlan(1, 8)),
        (2, 0, 0, 8, LanePlan(2, 4)),
        (4, 0, 0, 2, LanePlan(4, 1)),
        (2, 1, 0, 8, LanePlan(2, 1)),
        (2, 1, 8, 8, LanePlan(2, 1, 8)),
    ],
)
def test_what_is_open_is_filled_in_and_what_is_set_is_kept(
    concurrency: int, threads: int, alone: int, processors: int, plan: LanePlan
) -> None:
    assert plan_lanes(concurrency, threads, alone, processors) == plan


def test_workers_follow_the_processors_within_bounds() -> None:
    assert [plan_workers(0, processors) for processors in (1, 2, 6, 64)] == [2, 3, 7, 8]
    assert plan_workers(1, 64) == 1
    assert plan_workers(32, 2) == 32


def test_only_gpus_run_batches() -> None:
    assert batch_tiles_for("CUDAExecutionProvider", 16) == 16
    assert batch_tiles_for("CPUExecutionProvider", 16) == 1
    assert batch_tiles_for("OpenVINOExecutionProvider", 16) == 1
