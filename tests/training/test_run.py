"""The folder of a run."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_preact.files import write_json
from training import run
from training.recipe import Recipe
from training.records.checkpoint import Progress


class Drawings(list):
    """Epochs and title of every drawing, each of which takes a second of a clock."""

    now = 0.0

    def draw(self, path, history, title):
        self.append(([epoch["epoch"] for epoch in history], title))
        self.now += 1

    def monotonic(self):
        return self.now


@pytest.fixture
def drawn(monkeypatch) -> Drawings:
    drawings = Drawings()
    monkeypatch.setattr(run, "draw_curves", drawings.draw)
    monkeypatch.setattr(run, "time", drawings)
    return drawings


TITLE = "PreActResNet20 on digits, recipe tiny"


def folder_of_a_run(path):
    recipe = {"model": "PreActResNet20", "epochs": 3}
    return run.Run(path, {"recipe": recipe, "recipe_name": "tiny", "source": "data/digits"})


def test_curves_are_drawn_once_for_what_is_to_be_seen(tmp_path, drawn):
    folder = folder_of_a_run(tmp_path)
    progress = Progress()
    # Before the first epoch, after it, within the second, after it, and at the end.
    folder.write(progress, "running")
    progress.history.append({"epoch": 1})
    folder.write(progress, "running")
    progress.step = 5
    drawn.now += 100
    folder.write(progress, "running")
    progress.history.append({"epoch": 2})
    folder.write(progress, "running")
    folder.write(progress, "finished")
    folder.draw(progress)
    assert drawn == [([1], TITLE), ([1, 2], TITLE)]
    assert (tmp_path / "history.csv").read_text().splitlines() == ["epoch", "1", "2"]
    record = run.read_run(tmp_path)
    assert (record["status"], record["stopped_early"]) == ("finished", True)
    assert record["history"] == progress.history
    # An earlier attempt's epochs are replaced by those of another.
    again = Progress([{"epoch": 1, "top1": 0.5}, {"epoch": 2, "top1": 0.5}])
    folder.draw(again)
    assert drawn[2:] == [([1, 2], TITLE)]
    # A callback may add a metric in some epochs only.
    folder.write(Progress([{"epoch": 1, "a": None}, {"epoch": 2, "b": 0.5}]), "running")
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines == ["epoch,a,b", "1,,", "2,,0.5"]


def test_drawing_takes_a_twentieth_of_the_time_at_most(tmp_path, drawn):
    folder = folder_of_a_run(tmp_path)
    progress = Progress()
    for epoch in range(1, 81):
        progress.history.append({"epoch": epoch})
        drawn.now += 0.5
        folder.write(progress, "running")
        lines = (tmp_path / "history.csv").read_text().splitlines()
        assert lines[-1] == str(epoch)
    # After the first epoch, and 20 seconds after each drawing.
    assert [epochs[-1] for epochs, _ in drawn] == [1, 41]
    folder.draw(progress)
    assert drawn[-1] == (list(range(1, 81)), TITLE)


def description(**changes):
    recipe = json.loads(json.dumps(dataclasses.asdict(Recipe(epochs=3, **changes))))
    return {
        "recipe": recipe,
        "recipe_name": "tiny",
        "source": "digits",
        "class_names": ["a", "b"],
        "images": {"train": 4, "test": 2},
    }


def test_a_run_killed_while_its_first_checkpoint_is_written_goes_on(tmp_path):
    folder = run.Run(tmp_path / "run", description())
    folder.start([], [])
    folder.checkpoint.with_name("partial-last.npz").write_bytes(b"PK")
    # In either order of the two that may be whole.
    for whole in (False, True):
        if whole:
            folder.checkpoint.write_bytes(b"PK")
        again = run.Run(tmp_path / "run", description())
        assert not again.finished
        with pytest.raises(FileExistsError, match="seed: 0 then, 1 now"):
            run.Run(tmp_path / "run", description(seed=1))
    # Of shards, an earlier version did not note that images were held out when they were written.
    run.Run(tmp_path / "run", description() | {"validation_split": 0.2})
    # What is recorded stays when the run goes on.
    write_json(tmp_path / "run" / "run.json", run.read_run(again.output) | {"history": [{}]})
    run.Run(tmp_path / "run", description()).start([], [])
    assert run.read_run(tmp_path / "run")["history"] == [{}]


def test_a_run_goes_on_however_its_set_is_written(tmp_path):
    folder = run.Run(tmp_path, description() | {"source": "photos"})
    folder.start([], [])
    for source in ("./photos/", str(Path("photos").resolve())):
        run.Run(tmp_path, description() | {"source": source})
    with pytest.raises(FileExistsError, match="source: 'photos' then, 'pictures' now"):
        run.Run(tmp_path, description() | {"source": "pictures"})


def test_a_run_killed_before_its_first_record_goes_on(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    for partial in ("partial-run.json", "checkpoint/partial-last.npz"):
        (tmp_path / partial).write_bytes(b"")
    run.Run(tmp_path, description())
    # Of which run a checkpoint is, nothing says.
    (tmp_path / "checkpoint" / "last.npz").write_bytes(b"")
    with pytest.raises(FileExistsError, match="has no run.json and holds: checkpoint"):
        run.Run(tmp_path, description())


def test_the_best_net_is_that_of_the_best_epoch_on_record(tmp_path):
    folder = run.Run(tmp_path, description())
    folder.start([], [])
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])

    def save(epoch):
        net.set_weights([np.array([[epoch]])])
        progress = Progress(best={"epoch": epoch})
        folder.save_best(net, progress)
        return progress

    def kept():
        return keras.saving.load_model(folder.best_model).get_weights()[0].item()

    first = save(1)
    folder.keep_best(first)
    assert kept() == 1
    # Killed before the checkpoint that knows of better epochs, or gone back: they are discarded.
    save(2)
    save(3)
    folder.checkpoint.with_name("partial-best-3.keras").write_bytes(b"PK")
    assert kept() == 1
    folder.keep_best(first)
    assert kept() == 1
    assert not [*folder.checkpoint.parent.iterdir()]
    # Killed right after that checkpoint.
    second = save(2)
    folder.keep_best(second)
    assert kept() == 2
    folder.keep_best(second)
    assert kept() == 2
    # In a new process: the last checkpoint is damaged, and the one before it counts.
    folder.keep_best(save(4))
    assert kept() == 4
    save(6)
    folder = run.Run(tmp_path, description())
    folder.keep_best(second)
    assert kept() == 2
    # Not damaged, and then without a better epoch: the one before is needed no longer.
    folder.keep_best(fifth := save(5))
    folder = run.Run(tmp_path, description())
    folder.keep_best(fifth)
    assert kept() == 5
    assert [path.name for path in folder.checkpoint.parent.iterdir()] == ["best-2.keras"]
    folder.keep_best(fifth)
    assert kept() == 5
    assert not [*folder.checkpoint.parent.iterdir()]
    # Neither is it once the run is over.
    folder.keep_best(seventh := save(7))
    assert [path.name for path in folder.checkpoint.parent.iterdir()] == ["best-5.keras"]
    folder.write(seventh, "finished")
    assert kept() == 7
    assert not [*folder.checkpoint.parent.iterdir()]
