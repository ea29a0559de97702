"""The files that start clusters: each is held against the schema of what reads it, and what it types is typed here.

aws.yaml is held against the schema that Ray has for it, and what it asks of EC2 is asked of moto's.

schemas/kuberay-1.7.0-rayjob.json.gz: the schema of `RayJob` v1 in ray-operator/config/crd/bases/ray.io_rayjobs.yaml of
ray-project/kuberay v1.7.0 (Apache-2.0), without its descriptions.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.util import prepare_config, validate_config

from slamray import __version__
from slamray.config.load import load_recipe
from slamray.runtime.budget import Devices
from slamray.runtime.session import check_resources

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCHEMA = Path(__file__).parents[1] / "support" / "schemas" / "kuberay-1.7.0-rayjob.json.gz"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """As Kubernetes applies it: a field that the schema does not name is refused."""

    def strict(node: Any) -> Any:
        if isinstance(node, list):
            return [strict(one) for one in node]
        if not isinstance(node, dict):
            return node
        found = {key: strict(value) for key, value in node.items()}
        if found.pop("x-kubernetes-int-or-string", False):
            return {"type": ["integer", "string"]}
        if "properties" in found and isinstance(found.get("type"), str) and found["properties"]:
            found.setdefault("additionalProperties", False)
        return found

    whole: dict[str, Any] = strict(json.loads(gzip.decompress(SCHEMA.read_bytes())))
    whole["properties"]["metadata"] = {"type": "object"}
    return whole


@pytest.fixture
def job() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / "kuberay-job.yaml").read_text())
    return found


def test_the_job_fits_kuberays_schema(job: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.validate(job, schema)


@pytest.mark.parametrize("harm", ["replicas", "containers", "entrypoint", "auth"])
def test_a_job_that_does_not_fit_is_noticed(harm: str, job: dict[str, Any], schema: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    if harm == "replicas":
        cluster["workerGroupSpecs"][0]["replicas"] = "eight"
    elif harm == "containers":
        del cluster["headGroupSpec"]["template"]["spec"]["containers"]
    elif harm == "entrypoint":
        job["spec"]["entrypiont"] = job["spec"].pop("entrypoint")
    else:
        cluster["authOptions"]["mode"] = "none"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, schema)


def test_the_job_has_what_its_profile_needs_and_the_locks_ray(job: dict[str, Any]) -> None:
    words = job["spec"]["entrypoint"].split()[2:]
    compute = load_recipe([word for word in words if not word.startswith("root=")]).compute
    groups = {group["groupName"]: group for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    cpus = {
        name: group["maxReplicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
        for name, group in groups.items()
    }
    assert cpus["speak"] >= compute.tts_actors and groups["train"]["maxReplicas"] == compute.workers
    assert cpus["train"] >= compute.workers * compute.cpus_per_worker
    autoscaled = compute.autoscaled_cpus, compute.autoscaled_gpus
    assert autoscaled == (sum(cpus.values()), groups["train"]["maxReplicas"])
    assert {group["minReplicas"] for group in groups.values()} == {0}
    check_resources(compute, Devices(*map(float, filter(None, autoscaled))))
    locked = re.search(r"^ray==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked and job["spec"]["rayClusterSpec"]["rayVersion"] == locked.group(1)


@pytest.fixture
def aws() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    return found


def test_the_aws_cluster_fits_rays_schema_and_its_own_check(aws: dict[str, Any]) -> None:
    validate_config(prepare_config(aws))


@pytest.mark.parametrize("harm", ["min_workers", "head_node_type", "field", "container"])
def test_an_aws_cluster_that_does_not_fit_is_noticed(harm: str, aws: dict[str, Any]) -> None:
    if harm == "min_workers":
        aws["available_node_types"]["speak"]["min_workers"] = 10  # more than all workers together
    elif harm == "head_node_type":
        aws["head_node_type"] = "heda"
    elif harm == "field":
        aws["setup_comands"] = aws.pop("setup_commands")
    else:
        del aws["docker"]["container_name"]
    with pytest.raises((jsonschema.ValidationError, ValueError, AssertionError)):
        validate_config(prepare_config(aws))


def test_the_aws_cluster_has_what_its_profile_needs(aws: dict[str, Any]) -> None:
    compute, types = load_recipe(["profile=cluster"]).compute, aws["available_node_types"]
    have = {
        name: {kind: count * types[name]["min_workers"] for kind, count in types[name]["resources"].items()}
        for name in ("speak", "train")
    }
    assert have["speak"]["CPU"] >= compute.tts_actors and have["train"]["GPU"] == compute.workers
    assert have["train"]["CPU"] >= compute.workers * compute.cpus_per_worker
    assert types["head"]["resources"] == {"CPU": 0}


@pytest.mark.slow
def test_ray_starts_the_aws_clusters_machines_on_an_ec2(
    aws: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, subnets, security groups and images are Ray's choice: `ray up` up to where it would log in."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of no use")
    monkeypatch.delenv("AWS_ENDPOINT_URL")  # conftest's store, which is no EC2
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray puts a private key into ~/.ssh
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        from ray.autoscaler._private.aws.config import bootstrap_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

        boto3.client("iam", "us-east-1").create_instance_profile(InstanceProfileName="PROFILE")
        config = bootstrap_aws(prepare_config(aws))
        provider = AWSNodeProvider(config["provider"], "slam")
        for name, kind in config["available_node_types"].items():
            provider.create_node(kind["node_config"], {"ray-user-node-type": name}, 1)
        found = boto3.client("ec2", "us-east-1").describe_instances()["Reservations"]
    started = {one["InstanceType"] for reservation in found for one in reservation["Instances"]}
    assert started == {"m7i.2xlarge", "c7i.4xlarge", "p4de.24xlarge"}


def test_the_image_copies_what_is_there() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()]
    assert copied and all((ROOT / name).exists() for name in copied)
    assert "ENV RAY_AUTH_MODE=token" in text


def test_the_slurm_script_starts_a_cluster_that_the_job_runs_on(tmp_path: Path) -> None:
    """Slurm's own commands are stood in for: one node, and srun runs its words."""
    for name, does in (("scontrol", "echo 127.0.0.1"), ("srun", 'echo "$@" > words; env > environment')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
    }  # fmt: skip
    shutil.copy(CLUSTER / "slurm.sh", tmp_path)
    subprocess.run(["./slurm.sh", "recipe=slam", "root=/x"], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "words").read_text().split() == [
        ".venv/bin/ray", "symmetric-run", "--address", "127.0.0.1:6379", "--min-nodes", "1", "--", "env",
        "RAY_ADDRESS=127.0.0.1:6379", ".venv/bin/python", "jobs/slam.py", "recipe=slam", "root=/x",
    ]  # fmt: skip
    assert "RAY_AUTH_MODE=token\n" in (tmp_path / "environment").read_text()
    token = (tmp_path / "token").read_text()
    assert re.fullmatch("[0-9a-f]{64}", token) and (tmp_path / "token").stat().st_mode & 0o77 == 0


def test_a_job_whose_files_came_without_git_names_the_commit_it_was_given(tmp_path: Path) -> None:
    """Only the lock is installed there: the version is the package's own."""
    shutil.copytree(ROOT / "slamray", tmp_path / "slamray", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "from slamray.commands.run import provenance\nfrom slamray.config.load import load_recipe\n"
        "import json\nfound = provenance([], load_recipe([]))\n"
        "print(json.dumps([found['commit'], found['libraries']['slamray']]))"
    )
    environment = os.environ | {"SLAMRAY_COMMIT": "c" * 40, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == ["c" * 40, __version__]
