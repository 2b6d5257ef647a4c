"""Draw the pictures of the documentation: run `python docs/draw_images.py` in a checkout."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from keras_preact import PreActResNet50, analysis

DOCS = Path(__file__).parent.resolve()
IMAGES = DOCS / "images"
GUIDE = DOCS / "guides" / "why_it_works.md"
DEPTH = DOCS.parent / "benchmarks" / "results" / "depth.png"


def draw_units() -> None:
    """Draw the units of `PreActResNet50`."""
    graphs = analysis.unit_graphs(PreActResNet50(weights=None))
    analysis.draw_units(graphs, IMAGES / "preact_resnet50.svg")


def draw_guide() -> None:
    """Run the guide's blocks of Python, and keep the pictures that they draw."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "docs").symlink_to(DOCS)
        os.chdir(folder)
        blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
        exec(compile("\n".join(blocks), GUIDE.name, "exec"), {"__name__": GUIDE.stem})
        (IMAGES / GUIDE.stem).mkdir(exist_ok=True)
        shutil.copy("grad_cam.jpg", IMAGES / GUIDE.stem)
        for path in Path().glob("*.png"):
            # 256 colors are enough for a plot, and make its file a third as large.
            plot = Image.open(path).convert("RGB").quantize(256)
            plot.save(IMAGES / GUIDE.stem / path.name, optimize=True)


if __name__ == "__main__":
    # The site holds only what lies in docs.
    shutil.copy(DEPTH, IMAGES / "depth.png")
    draw_units()
    draw_guide()
