"""The folder of a run."""

from training import run
from training.records.checkpoint import Progress


def test_curves_are_drawn_once_for_what_is_to_be_seen(tmp_path, monkeypatch):
    drawn = []

    def draw(path, history, title):
        drawn.append(([epoch["epoch"] for epoch in history], title))

    monkeypatch.setattr(run, "draw_curves", draw)
    recipe = {"model": "PreActResNet20", "epochs": 3}
    description = {"recipe": recipe, "recipe_name": "tiny", "source": "data/digits"}
    folder = run.Run(tmp_path, description)
    progress = Progress()
    # Before the first epoch, after it, within the second, after it, and at the end.
    folder.write(progress, "running")
    progress.history.append({"epoch": 1})
    folder.write(progress, "running")
    progress.step = 5
    folder.write(progress, "running")
    progress.history.append({"epoch": 2})
    folder.write(progress, "running")
    folder.write(progress, "finished")
    title = "PreActResNet20 on digits, recipe tiny"
    assert drawn == [([1], title), ([1, 2], title)]
    assert (tmp_path / "history.csv").read_text().splitlines() == ["epoch", "1", "2"]
    record = run.read_run(tmp_path)
    assert (record["status"], record["stopped_early"]) == ("finished", True)
    assert record["history"] == progress.history
    # An earlier attempt's epochs are replaced by those of another.
    again = Progress([{"epoch": 1, "top1": 0.5}, {"epoch": 2, "top1": 0.5}])
    folder.write(again, "running")
    assert drawn[2:] == [([1, 2], title)]
