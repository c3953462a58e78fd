"""The ways to start, as a user starts them."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from tests.support.basics import REPOSITORY, read_line, until

CATCHABLE = sorted(set(range(1, 32)) - {9, 17, 19, 20, 21, 22})
# Those whose default is to end a process: not CHLD, CONT, URG, WINCH, and what stops one.
FATAL = sorted(set(range(1, 32)) - {17, 18, 19, 20, 21, 22, 23, 28})
REPORT = """
import os, signal, sys
print(sorted(os.listdir("/proc/self/fd"))[:4])
mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
print(sorted(mask))
status = open("/proc/self/status").read()
print([line for line in status.splitlines() if line.startswith(("SigBlk", "SigIgn"))])
"""


@pytest.mark.cell("application.code")
def test_every_exit_code_is_passed_on(agent):
    """Those that mean something to a shell or to this agent, and their neighbours."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    every = [*range(4), *range(63, 80), *range(123, 160), 253, 254, 255]
    for first in range(0, len(every), 8):
        codes = every[first : first + 8]
        started = [agent("exec", "--", "sh", "-c", f"exit {code}", **quiet) for code in codes]
        assert [process.wait(20) for process in started] == codes


def test_a_first_argument_that_is_not_a_subcommand_runs_unchanged(agent):
    process = agent("/bin/sh", "-c", 'echo "$0|$1|$2"', "a b", "*", "$HOME")
    assert process.communicate(timeout=20)[0] == "a b|*|$HOME\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("application", "after", "code"),
    [
        ("exit 3", "true", 3),
        ("exit 3", "exit 5", 5),
        ("exit 0", "true", 0),
        # A job whose agent is killed reports nothing.
        ("kill -KILL \\$PPID; sleep 9", "true", 137),
    ],
    ids=["lost", "the command's own", "well", "killed"],
)
def test_a_job_s_code_is_not_lost_by_its_command(agent, application, after, code):
    job = f"EXEC_TYPE=lambda APP_BIN=/bin/sh APP_PARAMS=\"-c '{application}'\""
    env = {"ARCHITRAVE_LAUNCHER": "direct", "PYTHON": sys.executable}
    for _ in range(2):  # what an earlier one has left counts for nothing
        process = agent("sh", "-c", f'{job} "$PYTHON" -m agent run; {after}', env=env)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == code, errors
        # The command's agent has no log of its own: its warning is not JSON, and names the code.
        plain = [line for line in errors.splitlines() if not line.startswith("{")]
        warned = any(str(code) in line for line in plain)
        assert warned == (code not in (0, 5)), errors
    process = agent("true", env=env)
    assert process.wait(30) == 0


@pytest.mark.parametrize("number", FATAL)
@pytest.mark.cell("application.signal")
def test_death_by_signal_is_128_plus_n(agent, number):
    assert agent("sh", "-c", f"kill -{number} $$").wait(20) == 128 + number


@pytest.mark.parametrize("number", CATCHABLE)
@pytest.mark.cell("signals.forwarded")
def test_every_signal_is_forwarded(agent, number):
    """A child that says which signal it got says the one that the agent was sent."""
    code = (
        "import os, signal, sys, time\n"
        "def got(n, f): os.write(1, b'%d\\n' % n); os._exit(n)\n"
        f"signal.signal({number}, got)\n"
        "os.write(1, b'ready\\n')\n"
        "while True: time.sleep(0.05)\n"  # pause() may miss a signal that comes right before it
    )
    process = agent(sys.executable, "-c", code)
    assert read_line(process) == "ready\n"
    process.send_signal(number)
    assert read_line(process) == f"{number}\n"
    assert process.wait(20) == number


@pytest.mark.parametrize("number", [20, 21, 22])
@pytest.mark.cell("signals.job-control", "signals.forwarded")
def test_stop_and_go_on(agent, number):
    """TSTP, TTIN and TTOU stop the command and the agent after it; CONT lets both go on."""
    process = agent("sh", "-c", "echo $$; exec sleep 60")
    pid = int(read_line(process))
    for _ in range(2):
        process.send_signal(number)
        until(lambda: state(pid) == "T" and state(process.pid) == "T")
        process.send_signal(signal.SIGCONT)
        until(lambda: state(pid) != "T" and state(process.pid) != "T")
    process.terminate()
    assert process.wait(20) == 143


@pytest.mark.cell("signals.job-control")
def test_a_command_that_does_not_stop(agent):
    """The agent stops all the same, and passes on what comes when it goes on."""
    program = "trap '' TSTP; trap 'echo on' CONT; echo up; while :; do sleep 0.01; done"
    process = agent("sh", "-c", program)
    assert read_line(process) == "up\n"
    process.send_signal(signal.SIGTSTP)
    until(lambda: state(process.pid) == "T")
    process.send_signal(signal.SIGCONT)
    assert read_line(process) == "on\n"
    process.terminate()
    assert process.wait(20) == 143


@pytest.mark.cell("signals.orphans")
@pytest.mark.parametrize(
    ("leftover", "seconds", "printed"),
    [("trap 'echo saved; exit' TERM", (0, 1.5), "saved\n"), ("trap '' TERM", (2, 10), "")],
)
def test_what_the_command_leaves_behind_is_stopped(agent, leftover, seconds, printed):
    """It gets SIGTERM, and two seconds; the code is the command's."""
    script = f"({leftover}; echo up; for i in $(seq 80); do sleep 0.05; done) & read line; exit 7"
    process = agent("sh", "-c", script, stdin=subprocess.PIPE)
    assert read_line(process) == "up\n"
    start = time.monotonic()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.wait(20) == 7
    shortest, longest = seconds
    assert shortest <= time.monotonic() - start < longest
    assert process.stdout.read() == printed


@pytest.mark.cell("signals.orphans")
def test_a_signal_ends_the_time_of_what_is_left(agent):
    """A signal to the agent while it waits means now."""
    script = "(trap '' TERM; echo up; exec sleep 5) & read line; exit 7"
    process = agent("sh", "-c", script, stdin=subprocess.PIPE)
    assert read_line(process) == "up\n"
    start = time.monotonic()
    process.stdin.write("\n")
    process.stdin.flush()
    until(lambda: not children_of(process.pid, "sh"))
    process.terminate()
    assert process.wait(20) == 7
    assert time.monotonic() - start < 2


def children_of(pid, name):
    ps = ["ps", "--ppid", str(pid), "-o", "comm="]
    return name in subprocess.run(ps, capture_output=True, text=True).stdout.split()


def state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.cell("signals.forwarded")
def test_a_sigchld_from_outside_ends_nothing(agent):
    process = agent("sh", "-c", "echo ready; read line; exit 5", stdin=subprocess.PIPE)
    assert read_line(process) == "ready\n"
    process.send_signal(signal.SIGCHLD)
    process.communicate("\n", timeout=20)
    assert process.returncode == 5


@pytest.mark.cell("inherited.directory")
@pytest.mark.parametrize(
    "arguments", [("exec", "--", "sh", "-c", "pwd; read line || sleep 2"), ("run",)]
)
def test_the_directory_is_the_commands_own(agent, tmp_path, arguments):
    """The command starts where the agent was started, and the agent itself stays nowhere."""
    env = {"EXEC_TYPE": "lambda", "ARCHITRAVE_LAUNCHER": "direct", "APP_BIN": "/bin/sh"}
    env |= {"APP_PARAMS": "-c 'pwd; read line || sleep 2'", "PYTHONPATH": str(REPOSITORY)}
    process = agent(*arguments, env=env, stdin=subprocess.PIPE, cwd=tmp_path)
    assert read_line(process) == f"{tmp_path}\n"
    until(lambda: os.readlink(f"/proc/{process.pid}/cwd") == "/")
    process.communicate("\n", timeout=20)
    assert process.returncode == 0


@pytest.mark.cell("signals.at-once")
def test_signal_in_the_first_moment_counts(agent):
    """A SIGTERM that comes before anything is imported still ends the command."""
    process = agent("sleep", "60")
    until(lambda: blocked(process.pid))
    process.terminate()
    assert process.wait(20) == 143


def blocked(pid):
    """Return whether a process blocks SIGTERM, as the agent's first statement does."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":\t", 1) for line in status if line.startswith("Sig"))
    return (int(fields["SigBlk"], 16) | int(fields["SigCgt"], 16)) >> (signal.SIGTERM - 1) & 1


@pytest.mark.cell("application.missing")
def test_missing_and_not_executable(agent, tmp_path):
    (tmp_path / "plain").write_text("x")
    for command, code in (("no-such-program", 127), (str(tmp_path / "plain"), 126)):
        process = agent("exec", "--", command)
        first, *_ = process.communicate(timeout=20)[1].splitlines()
        assert command in first
        assert process.returncode == code


@pytest.mark.cell("signals.orphans", "signals.subreaper")
def test_orphans_are_reaped(agent):
    """What a double fork leaves becomes no zombie, and is not mistaken for the command."""
    script = (
        "for i in 1 2 3 4 5 6 7 8; do (sleep 0 & exec true) ; done; wait; echo $$; exec sleep 60"
    )
    process = agent("sh", "-c", script)
    read_line(process)

    def no_zombies():
        ps = subprocess.run(
            ["ps", "--ppid", str(process.pid), "-o", "stat="], capture_output=True, text=True
        )
        return not [line for line in ps.stdout.split() if line.startswith("Z")]

    until(no_zombies)
    process.terminate()
    assert process.wait(20) == 143


@pytest.mark.cell("inherited.descriptors", "inherited.dispositions")
def test_what_the_command_inherits(agent):
    """Three descriptors, an empty mask, default dispositions."""
    extra = os.open(os.devnull, os.O_RDONLY)
    process = agent(sys.executable, "-c", REPORT, pass_fds=(extra,))
    lines = process.communicate(timeout=20)[0].splitlines()
    os.close(extra)
    assert lines[0] == "['0', '1', '2', '3']"  # 3 is the listing itself
    assert lines[1] == "[]"
    # SIGPIPE (13) and SIGXFSZ (25) are ignored by the Python that prints this, and by nothing else.
    assert lines[2] == "['SigBlk:\\t0000000000000000', 'SigIgn:\\t0000000001001000']"


@pytest.mark.cell("inherited.environment")
def test_the_environment_is_the_given_one(agent):
    """Python's own LC_CTYPE doesn't reach the command."""
    process = agent("env", env={"ODD": "a b\n=c", "LC_ALL": "C"})
    out = process.communicate(timeout=20)[0]
    assert "LC_CTYPE" not in out and "ODD=a b\n=c\n" in out


@pytest.mark.cell("inherited.closed")
def test_closed_descriptors_stay_closed(root):
    """Without stdin, stdout and stderr the exit code is still the command's."""
    line = (
        f"exec {sys.executable} -m agent sh -c 'ls /proc/self/fd >/dev/null; exit 6' <&- >&- 2>&-"
    )
    assert subprocess.run(["sh", "-c", line], timeout=20).returncode == 6


@pytest.mark.cell("signals.job-control")
def test_terminal_belongs_to_the_command(root):
    """On a terminal the command is in the foreground: Ctrl-C reaches it."""
    leader, follower = pty.openpty()
    code = (
        "import os, signal, sys, time\n"
        "print('fg', os.tcgetpgrp(0) == os.getpgrp(), flush=True)\n"
        "signal.signal(2, lambda n, f: sys.exit(42))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(0.05)\n"  # pause() may miss a signal that comes right before it
    )
    process = subprocess.Popen(
        ["setsid", "-c", "-w", sys.executable, "-m", "agent", sys.executable, "-c", code],
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    text = b""
    while b"ready" not in text:
        text += os.read(leader, 1000)
    assert b"fg True" in text
    os.write(leader, b"\x03")
    assert process.wait(20) == 42
    os.close(leader)


@pytest.mark.cell("signals.job-control")
def test_a_shell_stops_and_continues_it(agent):
    """Under a shell with a terminal Ctrl-Z stops both, `fg` lets both go on, Ctrl-C ends both."""
    leader, follower = pty.openpty()
    shell = ["setsid", "-c", "-w", "bash", "--norc", "--noprofile", "-i"]
    ends = {"stdin": follower, "stdout": follower, "stderr": follower}
    process = subprocess.Popen(shell, env=os.environ | {"PS1": "ask> "}, cwd=REPOSITORY, **ends)
    os.close(follower)
    try:
        expect(leader, "ask> ")
        command = f"{sys.executable} -m agent sh -c 'echo pid\"\"=$$.; exec sleep 100'\n"
        os.write(leader, command.encode())
        pid = int(expect(leader, ".\r\n").rpartition("pid=")[2].rpartition(".")[0])
        os.write(leader, b"\x1a")
        expect(leader, "Stopped")
        assert state(pid) == "T"
        os.write(leader, b"fg\n")
        until(lambda: state(pid) == "S")
        os.write(leader, b"\x03")
        os.write(leader, b'echo code""=$?; exit 3\n')
        expect(leader, "code=130")
        assert process.wait(20) == 3
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def expect(leader, text):
    """Read from a terminal until a text has arrived; return everything read."""
    seen = b""
    while text.encode() not in seen:
        seen += os.read(leader, 4096)
    return seen.decode()


def test_help_and_version(agent):
    out, err = agent("--help").communicate(timeout=20)
    assert "architrave exec -- CMD" in out and not err
    assert len(out.splitlines()) <= 24 and max(map(len, out.splitlines())) <= 100
    assert agent("--version").communicate(timeout=20)[0].startswith("architrave 0.")


@pytest.mark.parametrize(
    ("arguments", "env", "named"),
    [
        ([], {}, "EXEC_TYPE"),
        ([], {"EXEC_TYPE": "fargate"}, "fargate"),
        (["run", "fast"], {"EXEC_TYPE": "batch"}, "fast"),
        (["exec"], {}, "architrave exec"),
        (["--fast"], {}, "--fast"),
    ],
)
def test_wrong_use_is_64(agent, arguments, env, named):
    process = agent(*arguments, env=env)
    err = process.communicate(timeout=20)[1]
    assert process.returncode == 64
    assert named in err and "hint: " in err and "Traceback" not in err


@pytest.mark.cell("signals.nested")
@pytest.mark.parametrize("command", ["{}; true", "setsid {} & wait"])
def test_a_job_inside_is_given_its_time(agent, root, command):
    """SIGTERM ends the command at once, and its job when it has saved what there is."""
    save = (
        "trap 'sleep 2; echo saved >$TMP_OUTPUT_DIR/saved; exit 9' TERM; echo up; sleep 60 & wait"
    )
    (root / "opt/app").write_text(f"#!/bin/sh\n{save}\n")
    env = {"EXEC_TYPE": "lambda", "APP_BIN": "/opt/app", "ARCHITRAVE_LAUNCHER": "direct"}
    process = agent("sh", "-c", command.format(f"{sys.executable} -m agent run"), env=env)
    assert read_line(process) == "up\n"
    process.terminate()
    assert process.wait(20) == 143
    assert (root / "tmp/saved").read_text() == "saved\n"
    assert not list(root.rglob(".architrave*"))
