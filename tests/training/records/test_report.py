"""Pictures of a run."""

import numpy as np
import pytest
from PIL import Image

from training.fewshot import draw_results
from training.records.report import draw_confusion, draw_curves

# What is between the dollars is no TeX.
NAME = "$5_to_$10"
EPOCH = {"epoch": 1, "learning_rate": 0.1}
EPOCH |= dict.fromkeys(("loss", "val_loss", "top1", "val_top1"), 0.5)


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: draw_curves(path, [EPOCH], NAME),
        lambda path: draw_confusion(path, np.eye(2, dtype="int"), [NAME, "cat"]),
        lambda path: draw_results(path, {"probe": {"1": [0.5]}}, NAME),
    ],
)
def test_names_with_dollars_are_drawn(draw, tmp_path):
    draw(tmp_path / "drawn.png")
    assert Image.open(tmp_path / "drawn.png").size > (0, 0)
