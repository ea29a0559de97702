"""On a cluster that an autoscaler makes, a pool of actors grows with it, and goes when there is nothing left to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import autoscaled
from support.ports import wait_for

RAY = str(Path(sys.executable).parent / "ray")
PORT = 6397
ACTORS, ROWS = 3, 60
# Ray's own provider of nodes for tests: each is a raylet of this machine.
CONFIG = {
    "cluster_name": "fake",
    "max_workers": ACTORS,
    "provider": {
        "type": "fake_multinode",
        "gcs_address": f"127.0.0.1:{PORT}",
        "use_node_id_as_ip": True,  # all have the same address
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "speak": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": ACTORS},
    },
    "head_node_type": "ray.head.default",
    "idle_timeout_minutes": 0.1,
    "upscaling_speed": 10.0,
    "auth": {},
    "docker": {},
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_actors_come_with_the_nodes_that_an_autoscaler_adds_and_leave_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text(json.dumps(CONFIG))
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    head = [
        RAY, "start", "--head", "--block", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false",
        f"--autoscaling-config={tmp_path / 'cluster.json'}",
    ]  # fmt: skip
    running = subprocess.Popen(head, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        command = [sys.executable, autoscaled.__file__, str(tmp_path), str(ACTORS), str(ROWS)]
        address = {"RAY_ADDRESS": f"127.0.0.1:{PORT}"}
        wait_for(PORT)
        done = subprocess.run(
            command, env=environment | address, capture_output=True, text=True, check=False, timeout=540
        )
        assert done.returncode == 0, done.stderr[-3000:]
    finally:
        os.killpg(running.pid, signal.SIGKILL)  # the nodes that the autoscaler has added are of its group
        running.wait()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["refused"].startswith("compute.tts_actors: needs 1 CPUs but the cluster has 0; ")
    assert found["refused"].endswith("or say compute.autoscaled_cpus where an autoscaler adds them")
    assert found["cores at the start"] == 0 and found["cores at the end"] == ACTORS
    assert found["cores when nothing is to do"] == 0 and found["trained"] == {"on": 1}
    assert len(list(tmp_path.glob("*.node"))) == ROWS
    assert len({path.read_text() for path in tmp_path.glob("*.node")}) == ACTORS
    assert [(tmp_path / f"{n}.bytes").read_bytes() for n in range(ROWS)] == [bytes([n] * 100) for n in range(ROWS)]
