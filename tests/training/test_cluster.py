"""The files for clusters say what the training command understands."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.training.paths import ROOT
from training.engines.devices import read_workers
from training.processes import PREEMPTED
from training.train import parse_arguments

CLUSTER = ROOT / "training" / "cluster"


@pytest.fixture
def manifest():
    service, job = yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text())
    return service, job


def test_the_manifest_starts_workers_that_find_one_another(manifest):
    service, job = manifest
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    # Kubernetes replaces only variables that are defined further up.
    assert list(environment) == ["WORKER", "TF_CONFIG"]
    for index in range(spec["completions"]):
        addresses, place = read_workers(environment["TF_CONFIG"].replace("$(WORKER)", str(index)))
        assert place == index
        name, port = job["metadata"]["name"], service["spec"]["ports"][0]["port"]
        assert addresses == [
            f"{name}-{each}.{service['metadata']['name']}:{port}"
            for each in range(spec["completions"])
        ]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}


def test_the_manifest_s_command_and_statuses_are_ours(manifest):
    spec = manifest[1]["spec"]
    container = spec["template"]["spec"]["containers"][0]
    assert container["command"][:3] == ["python", "-m", "training.train"]
    options, recipe = parse_arguments(container["command"][3:])
    assert recipe.model == "PreActResNet50"
    mounts = [each["mountPath"] for each in container["volumeMounts"]]
    assert str(options.output.parent) in mounts
    assert str(Path(options.data).parent) in mounts
    ignored, failed = spec["podFailurePolicy"]["rules"]
    assert ignored["onExitCodes"]["values"] == [PREEMPTED]
    assert failed["onExitCodes"]["values"] == [1, 2]


# Slurm's two commands, as far as the script needs them: two hosts, each with one task.
SLURM = {
    "scontrol": """
if [ "$1" = show ]; then printf 'node7\\nnode9\\n'; else echo "$@" > "$CALLS/requeue"; fi
""",
    "srun": """
while [[ "$1" == --* ]]; do shift; done
for SLURM_PROCID in 0 1; do SLURM_PROCID=$SLURM_PROCID "$@" || exit; done
""",
    "python": """
printf '%s\\n' "$TF_CONFIG" > "$CALLS/config-$SLURM_PROCID"
printf '%s\\n' "$@" > "$CALLS/arguments-$SLURM_PROCID"
exit "$STATUS"
""",
}


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (1, False), (PREEMPTED, True)])
def test_the_slurm_script_starts_a_worker_on_each_machine(tmp_path, status, requeued):
    for name, script in SLURM.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/bash\n" + script)
        path.chmod(0o755)
    calls = tmp_path / "calls"
    calls.mkdir()
    arguments = ["--recipe", "imagenet_paper", "--data", "my data", "--output", "runs/one"]
    result = subprocess.run(
        [CLUSTER / "slurm.sh", *arguments],
        env={
            **os.environ,
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "CALLS": str(calls),
            "STATUS": str(status),
            "SLURM_JOB_ID": "1234567",
            "SLURM_JOB_NODELIST": "node[7,9]",
        },
    )
    assert result.returncode == status
    assert (calls / "requeue").exists() == requeued
    for index in range(2 if status == 0 else 1):
        addresses, place = read_workers((calls / f"config-{index}").read_text())
        assert addresses == ["node7:24567", "node9:24567"]
        assert place == index
        module, *received = (calls / f"arguments-{index}").read_text().splitlines()[1:]
        assert module == "training.train"
        assert received == arguments
        assert parse_arguments(received)[0].data == "my data"
