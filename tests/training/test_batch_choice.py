"""The batch that fits into memory."""

from __future__ import annotations

import random
import resource
import subprocess
import sys

import pytest

from keras_preact.files import write_json
from training import process_memory
from training.batch_choice import (
    MOST,
    SHARE,
    WORTH_IT,
    Attempt,
    Demand,
    _watch,
    choose_batch,
    next_size,
)
from training.memory import GIB, device_bytes, free_bytes, resident_bytes
from training.process_memory import peak_bytes
from training.processes import stop
from training.recipe import AUTO
from training.run import read_run
from training.train import parse_arguments


def demand(**changes) -> Demand:
    values = {
        "fixed": 1e9,
        "per_image": 6e7,
        "limit": 8e9,
        "source": "--memory-gib",
        "on_host": True,
        "images": 50_000,
        "devices": 1,
        "batch_size": 0,
        "parts": 1,
    }
    return Demand(**{**values, **changes})


def search(job: Demand, fixed: float, per_image: float) -> list[Attempt]:
    """Try steps that take other bytes than were computed, as the command does."""
    attempts: list[Attempt] = []
    while size := next_size(job, attempts):
        taken = fixed + size * per_image
        attempts.append(Attempt(size, taken, taken <= SHARE * job.limit))
    return attempts


def test_the_first_size_is_the_largest_that_is_computed_to_fit():
    size = next_size(demand())
    assert size == 104
    assert demand().bytes_of(104) <= SHARE * 8e9 < demand().bytes_of(112)
    assert next_size(demand(devices=3)) == 96
    # No more than there are images, and 8 or fewer one by one.
    assert next_size(demand(images=75)) == 72
    assert next_size(demand(per_image=1.3e9)) == 5
    assert next_size(demand(parts=4, images=75)) == 16
    # The step says whether it fits.
    assert next_size(demand(per_image=1e12)) == 1


@pytest.mark.parametrize("devices", [1, 3])
def test_the_largest_size_is_found_whatever_was_computed(devices):
    draw = random.Random(0)
    for _ in range(200):
        job = demand(devices=devices)
        fixed, per_image = draw.uniform(0.5e9, 2e9), 10 ** draw.uniform(6, 8.7)
        attempts = search(job, fixed, per_image)
        best = max(each.size for each in attempts if each.fits)
        possible = [each for each in job.sizes if fixed + each * per_image <= SHARE * job.limit]
        assert best <= possible[-1]
        if len(attempts) < MOST:
            # No further than a size that is worth another step, by what the last step took.
            assert best * WORTH_IT**2 >= possible[-1] - 8 * devices
        assert len(attempts) <= MOST + 2


def test_a_given_batch_is_divided_into_as_few_micro_batches_as_fit():
    job = demand(batch_size=256)
    assert job.sizes == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert [each.size for each in search(job, 1e9, 6e7)] == [64]
    assert [each.size for each in search(job, 1e9, 12e7)] == [64, 32]
    # It computed too much.
    assert [each.size for each in search(job, 1e9, 2e7)] == [64, 256]
    assert job.batch(64) == (256, 4)
    # No fewer than the recipe has.
    assert demand(batch_size=256, parts=8).sizes == [1, 2, 4, 8, 16, 32]
    assert demand(batch_size=96, devices=4).sizes == [4, 8, 12, 16, 24, 32, 48, 96]


def test_nothing_is_tried_twice_and_the_search_ends_where_nothing_fits():
    attempts = search(demand(batch_size=256), 9e9, 6e7)
    assert not any(each.fits for each in attempts)
    assert attempts[-1].size == 1
    assert len({each.size for each in attempts}) == len(attempts)


@pytest.mark.parametrize(
    ("group", "folder", "limit", "used"),
    [
        ("0::/job/{}", "sys/fs/cgroup/job", "memory.max", "memory.current"),
        (
            "4:cpu,memory:/job/{}",
            "sys/fs/cgroup/memory/job",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
        ),
    ],
)
def test_free_memory_is_what_machine_and_control_groups_leave(tmp_path, group, folder, limit, used):
    process, parent = tmp_path / "proc/self", tmp_path / folder
    process.mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable:  8000000 kB\n")
    assert free_bytes(tmp_path) == 8_000_000 * 1024
    (process / "cgroup").write_text(group.format("own") + "\n2:pids:/\n")
    for path, most in ((parent, "4000000000"), (parent / "own", "max")):
        path.mkdir(parents=True)
        (path / limit).write_text(f"{most}\n")
        (path / used).write_text("1500000000\n")
        (path / "memory.stat").write_text("anon 900000000\ninactive_file 500000000\n")
    # Cached files are given up.
    assert free_bytes(tmp_path) == 3_000_000_000
    (tmp_path / "proc/meminfo").write_text("MemAvailable:  2000 kB\n")
    assert free_bytes(tmp_path) == 2000 * 1024


def test_the_memory_of_this_process_is_read():
    assert 0 < resident_bytes() <= peak_bytes() * 1.01
    assert resident_bytes(2**30) == 0
    assert free_bytes() > 0
    assert device_bytes() is None or device_bytes() > GIB


def test_the_peak_is_read_where_there_is_no_linux_to_ask(tmp_path, monkeypatch):
    # A CPU's: that of a GPU's arrays is read from the framework.
    monkeypatch.setattr(process_memory, "PROCESSES", tmp_path)
    for platform, unit in (("linux", 1024), ("darwin", 1)):
        monkeypatch.setattr(sys, "platform", platform)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        assert 1 <= peak_bytes() / (unit * usage.ru_maxrss) <= 1.01


def parse(tiny_recipe, output, *options):
    arguments = ["--recipe", str(tiny_recipe), "--data", "digits", "--output", str(output)]
    return *parse_arguments([*arguments, *options]), [*arguments, *options]


@pytest.mark.parametrize("gib", ["0", "-1", "nan", "inf"])
def test_memory_that_is_none_is_refused(train, tmp_path, capsys, gib):
    assert train(tmp_path / "run", "--memory-gib", gib) == 2
    assert f"--memory-gib must be above 0. Received: {float(gib)}" in capsys.readouterr().err


def test_several_workers_need_numbers(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "TF_CONFIG",
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}',
    )
    for option in (("--batch-size", AUTO), ("--memory-gib", "4")):
        with pytest.raises(ValueError, match="several workers need numbers for `batch_size`"):
            choose_batch(*parse(tiny_recipe, tmp_path, *option))


def test_a_batch_that_is_given_is_left_alone(tiny_recipe, tmp_path):
    options, recipe, arguments = parse(tiny_recipe, tmp_path)
    assert choose_batch(options, recipe, arguments) is None
    assert recipe.batch_size == 128


def test_a_run_that_was_begun_keeps_its_batch(tiny_recipe, tmp_path):
    """That of a version that knew of no micro-batches too."""
    for recorded, expected in (
        ({"batch_size": 96}, (96, 1)),
        ({"batch_size": 96, "gradient_accumulation_steps": 3}, (96, 3)),
    ):
        write_json(tmp_path / "run.json", {"recipe": recorded, "batch_choice": {"why": "so"}})
        parsed = parse(tiny_recipe, tmp_path, "--batch-size", AUTO, "--memory-gib", "1")
        assert choose_batch(*parsed) == {"why": "so"}
        assert (parsed[0].batch_size, parsed[0].gradient_accumulation_steps) == expected
    # Another one is refused where the runs are compared.
    options, recipe, arguments = parse(tiny_recipe, tmp_path, "--memory-gib", "1")
    choose_batch(options, recipe, arguments)
    assert "batch_size" not in options
    # The batch that a rule sets is known later than this, unless the command line gives one.
    ruled = ("--memory-gib", "1", "--rule", "bit_hyperrule")
    options, recipe, arguments = parse(tiny_recipe, tmp_path, *ruled)
    choose_batch(options, recipe, arguments)
    assert (options.batch_size, options.gradient_accumulation_steps) == (96, 3)
    options, recipe, arguments = parse(tiny_recipe, tmp_path, *ruled, "--batch-size", "64")
    choose_batch(options, recipe, arguments)
    assert "gradient_accumulation_steps" not in options
    write_json(tmp_path / "run.json", {"status": "running"})
    with pytest.raises(ValueError, match="does not say the batch of the run"):
        choose_batch(options, recipe, arguments)


def test_a_wrong_job_is_refused_as_by_the_command_itself(train, tmp_path, forked_commands, capsys):
    output = tmp_path / "run"
    assert train(output, "--batch-size", AUTO, "--data", "digit") == 2
    assert "Did you mean" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(("gib", "stopped"), [(0.05, True), (64, False)])
def test_a_process_that_takes_too_much_is_stopped(tmp_path, gib, stopped):
    code = f"import time; taken = bytes(1) * 2**27; time.sleep({60 * stopped})"
    report = tmp_path / "report.json"
    write_json(report, {"demand": {"on_host": True, "limit": gib * GIB}})
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        assert _watch(process, report, 0.0) == stopped
    finally:
        stop(process)


def test_the_largest_batch_has_all_images_where_memory_allows(
    train, tmp_path, forked_commands, capsys
):
    output = tmp_path / "run"
    options = ("--memory-gib", "64", "--batch-size", AUTO, "--epochs", "1", "--warmup-epochs", "0")
    assert train(output, *options, "--gradient-accumulation-steps", "4") == 0
    printed = capsys.readouterr().out
    # Of 1437 images, by eights.
    assert "The batch of 1408 images is 4 micro-batches of 352." in printed
    record = read_run(output)
    assert record["recipe"]["batch_size"] == 1408
    assert record["recipe"]["gradient_accumulation_steps"] == 4
    assert record["batch_choice"]["memory_gib"] == 64
    (attempt,) = record["batch_choice"]["attempts"]
    assert attempt["fits"]
    assert attempt["micro_batch"] == 352
    assert 0.1 < attempt["gib"] < 8
    assert train(output, *options) == 0
    assert "is finished" in capsys.readouterr().out
