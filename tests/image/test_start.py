"""The ways to start the image, as `docker run` and SCAR start it."""

import contextlib
import os
import pty
import subprocess

import pytest

from tests.support.basics import until
from tests.support.containers import LAMBDA

pytestmark = pytest.mark.timeout(120)

README_LINE = LAMBDA | {"APP_BIN": "/bin/sh", "APP_PARAMS": '-c "echo a  b; exit 3"'}


@pytest.fixture
def results(tmp_path):
    """Return a directory for the results that every user may write."""
    directory = tmp_path / "results"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


def time_log(directory):
    """Return the application's lines of time.log, and the names of the lines of times."""
    lines = (directory / "time.log").read_text().split("\n")
    assert lines[-5] == "" and lines[-1] == ""
    return lines[:-5], [line.split("\t")[0] for line in lines[-4:-1]]


def test_the_readme_s_line(containers, target, results):
    """A local run: the code is the application's, the results are in the mounted directory."""
    done = containers.run(target, env=README_LINE, options=("-v", f"{results}:/tmp"))
    assert done.returncode == 3
    # The inner shell splits its own arguments once more.
    assert time_log(results) == (["a b"], ["real", "user", "sys"])
    assert done.stdout == (results / "time.log").read_text()


@pytest.mark.parametrize("arguments", [(), ("run",), ("/opt/run.sh",), ("bash", "/opt/run.sh")])
def test_the_job_however_it_is_named(containers, image, results, arguments):
    """With and without `run`, and by the script that every run_helper.sh ends with: once."""
    env = README_LINE | {"APP_PARAMS": '-c "echo \\"a  b\\"; exit 4"'}
    done = containers.run(image, *arguments, env=env, options=("-v", f"{results}:/tmp"))
    assert (done.returncode, done.stdout.count("a  b")) == (4, 1)
    assert time_log(results)[0] == ["a  b"]


def test_the_default_launcher_runs_one_process(containers, image, results):
    """Lambda mode with mpirun in the image is still one process on this machine alone."""
    env = README_LINE | {"ARCHITRAVE_LAUNCHER": "auto", "APP_PARAMS": "-c 'echo one; exit 3'"}
    done = containers.run(image, env=env, options=("-v", f"{results}:/tmp"))
    assert (done.returncode, done.stdout.count("one\n")) == (3, 1)


@pytest.mark.parametrize("arguments", [("/opt/run_batch.sh",), ("bash", "/opt/run_batch.sh")])
def test_run_batch_runs_the_downloaded_script(containers, image, tmp_path, arguments):
    """What SCAR downloads as INPUT_FILE_PATH is run by bash, and may end in the job itself."""
    script = tmp_path / "script.sh"
    script.write_text(
        "echo helper\nexport APP_PARAMS=\"-c 'echo app; exit 6'\"\nbash /opt/run.sh\n"
    )
    env = README_LINE | {"INPUT_FILE_PATH": "/in/script.sh"}
    done = containers.run(image, *arguments, env=env, options=("-v", f"{tmp_path}:/in:ro"))
    assert done.returncode == 6
    assert done.stdout.startswith("helper\napp\n")


def test_run_batch_without_a_script_is_the_job(containers, image):
    assert containers.run(image, "/opt/run_batch.sh", env=README_LINE).returncode == 3


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("exec", "--", "/bin/sh", "-c", "exit 5"), 5),
        (("/bin/sh", "-c", "exit 5"), 5),
        (("sh", "-c", "kill -9 $$"), 137),
        (("no-such-program",), 127),
        (("exec", "--", "/no/such/program"), 127),
        (("/etc/passwd",), 126),
        (("exec",), 64),
        (("--fast",), 64),
        (("--version",), 0),
    ],
)
def test_commands_unchanged(containers, lambda_image, arguments, code):
    """Whatever is not a subcommand runs under the agent, and its code is the container's."""
    assert containers.run(lambda_image, *arguments).returncode == code


def test_arguments_arrive_as_they_are(containers, lambda_image):
    arguments = ("printf", "%s|", "a  b", "", "*", "$HOME", "--", "é")
    assert containers.run(lambda_image, *arguments).stdout == "a  b||*|$HOME|--|é|"


def test_standard_input_reaches_the_command(containers, lambda_image):
    assert containers.run(lambda_image, "cat", text="through\n").stdout == "through\n"


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({}, ["EXEC_TYPE"]),
        ({"AWS_LAMBDA_FUNCTION_NAME": "x"}, ["EXEC_TYPE"]),
        ({"EXEC_TYPE": "nonsense"}, ["nonsense", "lambda", "batch", "shell"]),
    ],
)
def test_no_way_to_run(containers, target, env, named):
    """Without a valid EXEC_TYPE the code is 64, and the error names what is valid."""
    done = containers.run(target, env=env)
    assert done.returncode == 64
    assert all(value in done.stderr for value in named) and "hint: " in done.stderr


@pytest.mark.parametrize("name", ["LAMBDA", "Lambda"])
def test_exec_type_in_any_case(containers, lambda_image, name):
    assert containers.run(lambda_image, env=README_LINE | {"EXEC_TYPE": name}).returncode == 3


@pytest.mark.parametrize(
    ("arguments", "env"), [(("shell",), {}), (("debug",), {}), ((), {"EXEC_TYPE": "shell"})]
)
def test_shell_takes_commands(containers, target, arguments, env):
    """Without a terminal the debug shell runs what comes on standard input."""
    env = env | {"APP_BIN": "/opt/app", "APP_PARAMS": "x"}
    done = containers.run(target, *arguments, env=env, text="cd /opt; echo here $PWD; exit 5\n")
    assert (done.returncode, done.stdout) == (5, "here /opt\n")
    assert "/opt/app x" in done.stderr


@pytest.mark.cell("signals.job-control")
def test_shell_on_a_terminal(containers, image):
    """With a terminal it is interactive: a prompt, an answer, Ctrl-C that doesn't end it."""
    leader, follower = pty.openpty()
    _, rest = containers.arguments(image, ("shell",), options=("-it",))
    process = subprocess.Popen(
        ["docker", "run", "--rm", *rest], stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    seen = bytearray()
    try:
        expect(leader, seen, "debug shell")
        expect(leader, seen, "# ")
        os.write(leader, b"case $- in *i*) echo inter''active;; esac\n")
        expect(leader, seen, "interactive")
        # The signal is for a program that runs, not for a shell that is about to start it.
        os.write(leader, b"sh -c 'echo go\"\"ing; exec sleep 100'\n")
        expect(leader, seen, "going")
        os.write(leader, b"\x03")
        expect(leader, seen, "# ")
        os.write(leader, b"echo still''here $?\n")
        expect(leader, seen, "stillhere 130")
        os.write(leader, b"exit 7\n")
        with contextlib.suppress(OSError):  # the terminal is closed
            while os.read(leader, 4096):
                pass
        assert process.wait(30) == 7
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def expect(leader, seen, text):
    """Read from a terminal until a text has come; what comes with it stays in `seen`."""
    while text.encode() not in seen:
        try:
            seen += os.read(leader, 4096)
        except OSError:
            raise AssertionError(f"{text!r} is not in {bytes(seen)!r}") from None
    del seen[: seen.index(text.encode()) + len(text.encode())]


STATES = """
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        name, state = open(f"/proc/{pid}/stat").read().split("(", 1)[1].rsplit(")", 1)
        print(pid, name.replace(" ", "_"), state.split()[0])
    except OSError:
        pass
"""


@pytest.mark.parametrize("options", [(), ("--init",)])
@pytest.mark.cell("signals.orphans", "machine.init")
def test_no_zombies(containers, lambda_image, options):
    """Orphans are reaped, whether the agent is PID 1 or docker's init is."""
    script = "for i in 1 2 3 4 5; do (sleep 0.1 & exec true); done; echo started; exec sleep 100"
    container = containers.start(lambda_image, "sh", "-c", script, options=options)
    container.wait_for("started")

    def processes():
        lines = container.execute("/opt/architrave/bin/python3", "-c", STATES).splitlines()
        return [line.split() for line in lines]

    assert ("init" in {name for pid, name, _ in processes() if pid == "1"}.pop()) == bool(options)
    # The five short ones end and become no zombies; the long one is left.
    until(lambda: [name for _, name, _ in processes()].count("sleep") == 1)
    assert "Z" not in [state for _, _, state in processes()]
    code, seconds = container.stop()
    assert code == 143 and seconds < 10


@pytest.mark.cell("signals.orphans")
def test_what_a_command_leaves_behind(containers, lambda_image):
    """As PID 1 the agent signals daemons too, in sessions of their own, and ends with the code."""
    daemon = "trap 'echo saved; exit' TERM; echo up; while :; do sleep 0.05; done"
    script = f'setsid sh -c "{daemon}" & sleep 1; exit 7'
    done = containers.run(lambda_image, "sh", "-c", script)
    assert (done.returncode, done.stdout) == (7, "up\nsaved\n")


@pytest.mark.cell("signals.end")
def test_stop_a_command(containers, target):
    """`docker stop` ends a foreign command at once with 143."""
    container = containers.start(target, "exec", "--", "sh", "-c", "echo up; exec sleep 100")
    container.wait_for("up")
    code, seconds = container.stop()
    assert code == 143 and seconds < 10


@pytest.mark.parametrize("options", [(), ("--init",)])
@pytest.mark.cell("signals.end", "machine.init")
def test_stop_a_job(containers, target, results, options):
    """`docker stop` ends a job with 143; time.log is complete."""
    env = README_LINE | {"APP_PARAMS": "-c 'echo up; sleep 100'"}
    container = containers.start(target, env=env, options=("-v", f"{results}:/tmp", *options))
    container.wait_for("up")
    code, seconds = container.stop()
    assert code == 143 and seconds < 20
    assert time_log(results) == (["up"], ["real", "user", "sys"])


@pytest.mark.cell("signals.at-once")
def test_stop_in_the_first_moment(containers, lambda_image):
    """A SIGTERM that comes as soon as the container is there isn't lost."""
    env = README_LINE | {"APP_PARAMS": "-c 'sleep 100'"}
    for arguments in ((), ("sleep", "100")):
        container = containers.start(lambda_image, *arguments, env=env)
        container.wait_exec()
        code, seconds = container.stop()
        assert code == 143 and seconds < 20


@pytest.mark.cell("machine.read-only", "machine.not-root")
def test_without_rights(containers, target, results):
    """A user without a passwd entry, on a read-only file system with a /tmp, as Lambda has it."""
    options = ("--user", "993", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")
    params = "-c 'id -u; echo $TMP_OUTPUT_DIR; touch /x || exit 3'"
    done = containers.run(target, env=README_LINE | {"APP_PARAMS": params}, options=options)
    assert done.returncode == 3
    assert done.stdout.startswith("993\n/tmp\n")


@pytest.mark.cell("machine.read-only", "machine.not-root")
def test_without_rights_and_with_the_default_launcher(containers, image):
    """The same where mpirun is there to launch."""
    options = ("--user", "993", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")
    env = {"EXEC_TYPE": "lambda", "APP_BIN": "/bin/sh", "APP_PARAMS": "-c 'id -u; exit 3'"}
    done = containers.run(image, env=env, options=options)
    assert done.returncode == 3, done.stderr
    assert "993\n" in done.stdout


@pytest.mark.cell("machine.read-only")
def test_command_on_a_read_only_system(containers, target):
    """A foreign command needs not even a /tmp."""
    options = ("--user", "993", "--read-only", "--cap-drop", "ALL")
    done = containers.run(target, "sh", "-c", "id -u; exit 5", options=options)
    assert (done.returncode, done.stdout) == (5, "993\n")
