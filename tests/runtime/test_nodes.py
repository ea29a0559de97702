"""A folder that a node of the cluster does not see is named before any work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.ports import wait_for

from slamray.errors import BadInput
from slamray.recipe.ready import check_root
from slamray.stage.folder import Folder

RAY = str(Path(sys.executable).parent / "ray")
CODE = """
import sys
import ray
from slamray.errors import BadInput
from slamray.runtime.nodes import check_root
from slamray.stage.folder import Folder
ray.init(address=sys.argv[1], log_to_driver=False)
while len(ray.nodes()) < 2:
    pass
for root in sys.argv[2:]:
    try:
        check_root(Folder(root))
        print("seen")
    except BadInput as error:
        print(error)
"""

LEAVING = """
import sys
import ray
from ray.cluster_utils import Cluster
from slamray.runtime.nodes import check_root
from slamray.stage.folder import Folder
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
cluster.wait_for_nodes()

class Leaving(Folder):
    def write(self, name, content):
        cluster.remove_node(node, allow_graceful=False)
        super().write(name, content)

check_root(Leaving(sys.argv[1]))
print([node["Alive"] for node in ray.nodes()].count(False), "gone")
ray.shutdown()  # a node that a driver is connected to is not removed
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_folder_that_is_another_one_on_a_node_is_refused(tmp_path: Path) -> None:
    """The second node is a process that has a file system of its own over one of two folders."""
    common, own = tmp_path / "common", tmp_path / "own"
    for folder in (common, own):
        folder.mkdir()
    environment = os.environ | {"RAY_AUTH_MODE": "token"}
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    head = [RAY, "start", "--head", "--port=6391", "--include-dashboard=false", "--num-cpus=1", "--block"]
    node = f"mount -t tmpfs none {own} && exec {RAY} start --address=127.0.0.1:6391 --num-cpus=1 --block"
    running = [subprocess.Popen(head, env=environment, stdout=subprocess.DEVNULL)]
    try:
        wait_for(6391)
        shared = ["unshare", "--mount", "sh", "-c", node]
        running.append(subprocess.Popen(shared, env=environment, stdout=subprocess.DEVNULL))
        command = [sys.executable, "-c", CODE, "127.0.0.1:6391", str(common), str(own)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    finally:
        for process in running:
            process.kill()
    assert done.returncode == 0, done.stderr
    seen, refused = done.stdout.splitlines()
    assert seen == "seen"
    assert refused.startswith(f"root: 1 of 2 nodes do not see the driver's {own} (")
    assert not list(tmp_path.rglob(".seen-*"))


@pytest.mark.slow
def test_a_node_that_goes_after_it_was_listed_is_not_said_to_be_blind(tmp_path: Path) -> None:
    """Nodes are listed, the token is written, nodes are asked: a node ends when the token is written."""
    command = [sys.executable, "-c", LEAVING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0 and done.stdout.splitlines()[-1:] == ["1 gone"], done.stderr[-3000:]
    assert not list(tmp_path.rglob(".seen-*"))


def test_a_folder_in_a_jobs_own_copy_of_its_files_is_refused() -> None:
    copy = Folder("/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_1/runs")
    with pytest.raises(BadInput, match=r"root: .*_ray_pkg_1/runs is Ray's copy of the job's files, which it deletes"):
        check_root(copy)
    check_root(Folder("/home/somebody/runs"))
