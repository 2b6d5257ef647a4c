"""Every backend trains on the same batches: those of any other would give other losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from tests.training.engines import on_backend
from tests.training.paths import ROOT
from training.net import build_net
from training.recipe import load_recipe

NET = {"units": [1, 1], "channels": [8, 16], "strides": [1, 2], "stem_channels": 8}
# RandAugment (once), mixup, CutMix, label smoothing and averaged weights, as the recipe has them.
# Nothing that a backend draws by itself, and no rounding to 16 bits.
MODERN = ["--recipe", "imagenet_modern", "--dtype-policy", "float32", "--ema-momentum", "0.8"]
MODERN += ["--model", "PreActResNet18", "--input-size", "32", "--model-options", "drop_path=0.0"]
MODERN += [f"{name}={value}" for name, value in NET.items()]
MODERN += ["--batch-size", "8", "--epochs", "2", "--epoch-steps", "3", "--warmup-epochs", "1"]
MODERN += ["--rand-augment-layers", "1", "--class-weight", "balanced", "--save-every", "2"]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> list[str]:
    """Arguments of a run on photographs of several sizes, 5 of them for testing."""
    folder = tmp_path_factory.mktemp("job")
    random = np.random.default_rng(0)
    for split, count in (("train", 9), ("test", 5)):
        for number in range(count):
            path = (
                folder / "images" / split / "ab"[number % 3 == 1 or number == 0] / f"{number}.png"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (5, 6 + number, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((40 + number, 50), Image.Resampling.BICUBIC).save(path)
    recipe = load_recipe("imagenet_modern").replace(
        model="PreActResNet18", dtype_policy="float32", input_size=32, model_options=NET
    )
    keras.utils.set_random_seed(0)
    build_net(recipe, classes=2).save_weights(folder / "init.weights.h5")
    return [*MODERN, "--data", str(folder / "images"), "--init", str(folder / "init.weights.h5")]


@pytest.fixture(scope="module")
def on_tensorflow(job, tmp_path_factory) -> dict:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the backend of the other tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNS", str(tmp_path_factory.mktemp("runs")))
        return on_backend.run(job, [])


def run_on(backend: str, job: list[str], folder: Path) -> list[dict]:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    environment = {"KERAS_BACKEND": backend, "RUNS": str(folder), "XLA_FLAGS": flags}
    subprocess.run(
        [sys.executable, on_backend.__file__, str(folder / "out.json"), *job],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **environment},
        check=True,
    )
    return json.loads((folder / "out.json").read_text())


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_backend_trains_as_tensorflow_does(on_tensorflow, job, backend, tmp_path):
    """And JAX on two devices as on one."""
    runs = run_on(backend, job, tmp_path)
    assert [len(run["devices"]) for run in runs] == {"jax": [1, 2], "torch": [1]}[backend]
    for run in [on_tensorflow, *runs]:
        assert run["status"] == 0
        for received, expected in zip(run["history"], on_tensorflow["history"], strict=True):
            for name in ("loss", "val_loss", "top1", "val_top1", "learning_rate"):
                assert received[name] == pytest.approx(expected[name], abs=1e-4), name
