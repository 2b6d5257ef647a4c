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
GUIDES = [DOCS / "guides" / f"{name}.md" for name in ("why_it_works", "detect_and_segment")]
DEPTH = DOCS.parent / "benchmarks" / "results" / "depth.png"


def draw_units() -> None:
    """Draw the units of `PreActResNet50`."""
    graphs = analysis.unit_graphs(PreActResNet50(weights=None))
    analysis.draw_units(graphs, IMAGES / "preact_resnet50.svg")


def draw_guide(guide: Path) -> None:
    """Run a guide's blocks of Python, and keep the pictures that they draw."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "docs").symlink_to(DOCS)
        os.chdir(folder)
        blocks = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
        exec(compile("\n".join(blocks), guide.name, "exec"), {"__name__": guide.stem})
        (IMAGES / guide.stem).mkdir(exist_ok=True)
        for path in Path().glob("*.jpg"):
            shutil.copy(path, IMAGES / guide.stem)
        for path in Path().glob("*.png"):
            # 256 colors are enough for a plot, and make its file a third as large.
            plot = Image.open(path).convert("RGB").quantize(256)
            plot.save(IMAGES / guide.stem / path.name, optimize=True)


if __name__ == "__main__":
    # The site holds only what lies in docs.
    shutil.copy(DEPTH, IMAGES / "depth.png")
    draw_units()
    for guide in GUIDES:
        draw_guide(guide)
