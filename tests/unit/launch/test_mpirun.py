"""mpirun's command lines and versions."""

import pytest

from agent.core.errors import AgentError
from agent.launch import mpirun

BASE = mpirun.MpiRun(4, slots=2)


ACROSS = mpirun.MpiRun(
    4,
    slots=2,
    hostfile="/h",
    hosts=200,
    interface="eth0",
    ssh=("/usr/bin/ssh", "-F", "/c"),
    as_root=True,
)


def test_mpirun_on_one_node():
    argv = mpirun.mpirun(BASE, ["/opt/app", "a b"])
    quiet = ["--mca", "ess_base_forward_signals", "none"]
    assert argv == ["mpirun", *quiet, "--host", "localhost:2", "-np", "2", "/opt/app", "a b"]


def test_mpirun_across_nodes():
    """Root is allowed only as root; ssh has its own configuration; 200 hosts don't stall."""
    argv = mpirun.mpirun(ACROSS, ["/opt/app"])
    line = " ".join(argv)
    assert "--allow-run-as-root" in argv and argv[-1] == "/opt/app"
    assert "/usr/bin/ssh -F /c" in argv
    assert "plm_rsh_no_tree_spawn 1" in line and "plm_rsh_num_concurrent 200" in line
    assert "orte_leave_session_attached 1" in line
    assert "btl_tcp_if_include eth0" in line and "oob_tcp_if_include eth0" in line
    assert "--allow-run-as-root" not in mpirun.mpirun(BASE, ["x"])


def test_open_mpi_5_has_other_names():
    five = mpirun.mpirun(mpirun.MpiRun(**vars(ACROSS) | {"major": 5}), ["/opt/app"])
    line = " ".join(five)
    assert "--prtemca plm_ssh_agent" in line and "plm_rsh" not in line
    assert "--prtemca prte_if_include eth0" in line
    assert "--leave-session-attached" in five


@pytest.mark.parametrize(
    ("text", "major"), [("mpirun (Open MPI) 4.1.4\n", 4), ("mpirun (Open MPI) 5.0.7\n", 5)]
)
def test_mpi_version(text, major):
    assert mpirun.mpi_version(text) == major


@pytest.mark.parametrize("text", ["", "HYDRA build details:\n", "mpirun (Open MPI) 1.4.3\n"])
def test_other_mpi_is_refused(text):
    with pytest.raises(AgentError) as caught:
        mpirun.mpi_version(text)
    assert caught.value.code == 78
