from datetime import timedelta

import pytest
import torch
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from accelerate.utils import DistributedType, LoggerType
from train_models import read_lines, sft

from equipoise.errors import ConfigError, TrainingError
from equipoise.train import processes
from equipoise.train.processes import begin, lost_processes_named, process_sums, seed_dropout, shard, whole_batches
from equipoise.train.sft import train_sft


class Two:
    """What the functions ask of an accelerator, for one of two processes."""

    num_processes = 2

    def __init__(self, rank: int) -> None:
        self.process_index = rank


def test_shares_of_a_batch_are_disjoint_and_complete():
    assert [shard([1, 2, 3, 4, 5], Two(rank)) for rank in (0, 1)] == [[1, 3, 5], [2, 4]]


def test_a_batch_smaller_than_the_number_of_processes_is_refused_or_left_out():
    with pytest.raises(ConfigError, match=r"A batch of 1 cannot be divided among 2 processes(.|\n)*Raise the"):
        shard([1], Two(0))
    assert whole_batches([(1, 2), (3,), (4, 5)], Two(1)) == [(1, 2), (4, 5)]
    with pytest.raises(ConfigError, match="cannot be divided"):
        whole_batches([(3,)], Two(1))


def test_one_process_has_all_of_it(world, tmp_path):
    accelerator = begin(sft(tmp_path, model=world, demonstrations=[{"path": "x"}]))
    assert shard([1, 2, 3], accelerator) == [1, 2, 3]
    assert process_sums({"a": 1.5}, accelerator) == {"a": 1.5}
    assert processes.gather([1.0, 2.0], accelerator) == [1.0, 2.0]


def test_processes_gather_in_the_order_before_the_batch_was_divided(monkeypatch):
    everyone = [shard([0.0, 1.0, 2.0, 3.0, 4.0], Two(rank)) for rank in (0, 1)]
    monkeypatch.setattr(processes, "gather_object", lambda _: everyone)
    assert processes.gather(everyone[0], Two(0)) == [0.0, 1.0, 2.0, 3.0, 4.0]
    everyone[:] = [[], [1.0, 2.0]]  # one saw nothing of a group
    assert processes.gather(everyone[0], Two(0)) == processes.gather(everyone[1], Two(1)) == [1.0, 2.0]


def test_dropout_differs_between_steps_and_processes():
    drawn = []
    for step, rank in ((0, 0), (1, 0), (0, 1), (0, 0)):
        seed_dropout(3, step, Two(rank))
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(
    "said",
    [
        "[/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:41387: Connection reset by peer",
        "[/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 5000ms for recv operation to complete",
        "Application timeout caused pair closure",
    ],
)
def test_what_the_library_says_of_a_lost_process_is_put_into_words(monkeypatch, said):
    """The messages are those of a process killed, one stopped, and one lost before."""
    for name, value in (("is_initialized", True), ("get_rank", 0), ("get_world_size", 2)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    with (
        pytest.raises(TrainingError, match="Another process of this run has ended") as caught,
        lost_processes_named(),
    ):
        raise RuntimeError(said)
    assert "process 0 of 0 to 1" in str(caught.value)
    with pytest.raises(RuntimeError, match="shapes do not match"), lost_processes_named():
        raise RuntimeError("shapes do not match")


def test_the_time_to_wait_for_other_processes_is_the_configured_one(world, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(processes, "Accelerator", lambda **settings: given.append(settings) or Two(0))
    monkeypatch.setattr(Two, "distributed_type", DistributedType.NO, raising=False)
    begin(sft(tmp_path, model=world, demonstrations=[{"path": "x"}], hardware={"device": "cpu", "timeout": 7}))
    handler, _ = given[0]["kwargs_handlers"]
    assert handler.timeout == timedelta(seconds=7)


def test_the_number_of_threads_is_the_configured_one(world, tmp_path):
    torch.set_num_threads(2)
    begin(sft(tmp_path, model=world, demonstrations=[{"path": "x"}]))
    assert torch.get_num_threads() == 1


class Notebook(GeneralTracker):
    """A tracker that keeps what it is given."""

    name = "tensorboard"
    requires_logging_directory = True
    pages: list[tuple[int, dict[str, float]]]

    def __init__(self, project: str, folder: object, **_: object) -> None:
        super().__init__()
        Notebook.opened, Notebook.pages, Notebook.closed = (project, str(folder)), [], False

    @property
    def tracker(self) -> object:
        return self

    def start(self) -> None: ...

    def store_init_configuration(self, values: dict[str, object]) -> None: ...

    def log(self, values: dict[str, float], step: int | None = None, **_: object) -> None:
        Notebook.pages.append((step or 0, values))

    def finish(self) -> None:
        Notebook.closed = True


def test_a_tracker_gets_every_step_and_the_run_s_directory_nothing_of_it(world, tmp_path, monkeypatch):
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Notebook)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD])
    shown = [{"path": str(world / "demonstrations.jsonl")}]
    settings = {"demonstrations": shown, "epochs": 1, "batch_size": 16}
    out = train_sft(sft(tmp_path / "out", model=world / "policy", trackers=["tensorboard"], **settings))
    assert [{"step": step, **values} for step, values in Notebook.pages] == read_lines(out / "metrics.jsonl")
    assert Notebook.opened == ("equipoise", str(tmp_path / "out-trackers"))
    assert Notebook.closed
    plain = train_sft(sft(tmp_path / "plain", model=world / "policy", **settings))
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in plain.iterdir())


def test_a_tracker_that_is_not_installed_is_refused(world, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_available_trackers", [])
    shown = [{"path": str(world / "demonstrations.jsonl")}]
    config = sft(tmp_path / "out", model=world / "policy", demonstrations=shown, trackers=["wandb", "mlflow"])
    with pytest.raises(ConfigError, match=r"not installed: mlflow, wandb(.|\n)*equipoise\[trackers\]"):
        train_sft(config)
    assert not (tmp_path / "out").exists()
