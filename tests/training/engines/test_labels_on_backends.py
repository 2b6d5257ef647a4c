"""Every backend trains nets of several labels with the same losses and precisions."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from PIL import Image

from keras_preact.files import write_json
from tests.training.engines import on_backend
from tests.training.engines.test_on_backends import NET, run_on
from training.net import build_net
from training.recipe import load_recipe

RECIPE = ["--recipe", "cifar_short", "--dtype-policy", "float32", "--input-size", "16"]
RECIPE += ["--model-options", *(f"{name}={value}" for name, value in NET.items())]
RECIPE += ["--batch-size", "8", "--epochs", "2", "--epoch-steps", "3", "--warmup-epochs", "1"]
RECIPE += ["--mixup-alpha", "0.4", "--cutmix-alpha", "1.0", "--ema-momentum", "0.8"]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> list[str]:
    """Arguments of a run that starts from another, whose head is kept, on 5 test images."""
    folder = tmp_path_factory.mktemp("job")
    random = np.random.default_rng(0)
    rows = ["file,labels,split"]
    for number in range(17):
        labels = "|".join(name for name in ("red", "green") if random.random() < 0.5)
        rows.append(f"{number}.png,{labels},{'test' if number > 11 else 'train'}")
        pixels = random.integers(0, 256, (18, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    keras.utils.set_random_seed(0)
    recipe = load_recipe("cifar_short").replace(
        dtype_policy="float32", input_size=16, model_options=NET
    )
    start = folder.with_name("start")
    start.mkdir()
    build_net(recipe, 2, classifier_activation="sigmoid").save(start / "model.keras")
    record = {"recipe": vars(recipe), "class_names": ["green", "red"], "activation": "sigmoid"}
    write_json(start / "run.json", record)
    return [*RECIPE, "--data", str(folder), "--init", str(start)]


@pytest.mark.slow
def test_labels_are_trained_alike_on_every_backend(job, tmp_path, monkeypatch):
    """And on two devices of JAX, where 5 images do not divide, as on one."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the backend of the other tests")
    monkeypatch.setenv("RUNS", str(tmp_path))
    expected = on_backend.run(job, [])
    assert expected["status"] == 0
    runs = [run for backend in ("jax", "torch") for run in run_on(backend, job, tmp_path)]
    assert [len(run["devices"]) for run in runs] == [1, 2, 1]
    for run in runs:
        assert run["status"] == 0
        for received, wanted in zip(run["history"], expected["history"], strict=True):
            for name in ("loss", "val_loss", "val_mAP"):
                assert received[name] == pytest.approx(wanted[name], abs=1e-4), name
