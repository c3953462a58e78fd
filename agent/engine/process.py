"""Start processes, and reap every child that exits: this program's own and orphans alike."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time

from agent.core.errors import NOT_FOUND
from agent.engine.process_name import name_of, name_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    import signal
    from collections.abc import Callable, Collection, Mapping, Sequence
else:
    import _signal as signal  # the public one imports enum, a fifth of a start

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# The kernel picks a child and not the agent when memory runs out.
CHILD_OOM_SCORE = "500"
# How long exec may take: so long the loop is blocked, then it serves events, until the program's
# file system counts as dead.
_EXEC_MILLISECONDS, _EXEC_SECONDS = 200, 60.0
_REAP_SECONDS, _KILL_ORPHANS_SECONDS = 0.5, 2.0
# The agent has no descriptor above this when it starts a program.
_HIGH_DESCRIPTOR = 256
_ALL_SIGNALS = signal.valid_signals()
_UNCATCHABLE = {signal.SIGKILL, signal.SIGSTOP}


class Child:
    """One process that the agent started; it leads a process group of its own."""

    def __init__(self, pid: int, name: str) -> None:
        self.pid = pid
        self.name = name
        self.status: int | None = None
        self.stopped_by = 0
        self.user_seconds = 0.0
        self.system_seconds = 0.0

    @property
    def running(self) -> bool:
        """Return whether the process has not exited yet."""
        return self.status is None

    @property
    def signal(self) -> int:
        """Return the number of the signal that killed it, 0 if none did."""
        return os.WTERMSIG(self.status) if self.status and os.WIFSIGNALED(self.status) else 0

    @property
    def code(self) -> int:
        """Return the exit code as a shell gives it: 128+N for signal N."""
        assert self.status is not None, f"{self.name} is still running"
        return 128 + self.signal if self.signal else os.WEXITSTATUS(self.status)

    def kill_group(self, number: int) -> bool:
        """Send a signal to the whole process group; return whether any process was there."""
        try:
            os.killpg(self.pid, number)
        except OSError as error:
            return error.errno == errno.EPERM
        return True


class Children:
    """The table of children: the only place in this process that waits for any."""

    def __init__(self) -> None:
        self._by_pid: dict[int, Child] = {}
        name_process("architrave")
        self.is_init = os.getpid() == 1
        self._libc: ctypes.CDLL | None = None
        # Serves events until a descriptor can be read, or the seconds are over; the loop sets it.
        self.wait_for: Callable[[int, float], bool] = _only_wait
        self._closed = _occupy_closed_descriptors()
        _close_descriptors_on_exec()
        if not self.is_init:
            import ctypes

            self._libc = ctypes.CDLL(None, use_errno=True)
            self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        cwd: str = "",
        stdin: int | str = 0,
        stdout: int = 1,
        stderr: int = 2,
        foreground: bool = False,
        serve_events: bool = False,
        rlimits: Sequence[tuple[int, int, int]] = (),
    ) -> Child:
        """Start `argv` in a process group of its own; raise AgentError 126, 127, 71 or 75.

        It gets the three descriptors and no other (`stdin` may be a path, which the agent needs no
        descriptor for), default signal dispositions, an empty mask, and `rlimits` (resource, soft
        and hard value of setrlimit(2)). With `foreground` its group becomes the terminal's. With
        `serve_events` a program whose file system doesn't answer is given up after a minute, and
        the loop goes on meanwhile.
        """
        try:
            alive, report = os.pipe()
        except OSError as error:
            from agent.engine import start_error  # for a failure only

            raise start_error.no_room(argv[0], error) from error
        agent = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                descriptors = (stdin, stdout, stderr)
                self._become(agent, argv, env, cwd, descriptors, rlimits, foreground, report)
        except OSError as error:
            from agent.engine import start_error  # for a failure only

            os.close(alive)
            raise start_error.no_room(argv[0], error) from error
        finally:
            os.close(report)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        child = Child(pid, os.path.basename(argv[0]))
        self._by_pid[pid] = child
        failure = self._failure(child, alive, serve_events)
        if failure:
            from agent.engine import start_error  # for a failure only

            raise start_error.of_step(argv[0], *map(int, failure.split()))
        return child

    def _failure(self, child: Child, alive: int, serve_events: bool) -> bytes:
        """Return why the program was not executed, empty if it was: then the pipe is closed."""
        with os.fdopen(alive, "rb") as pipe:
            ready = select.poll()
            ready.register(alive, select.POLLIN)
            if not serve_events or ready.poll(_EXEC_MILLISECONDS):
                return pipe.read()
            try:
                if self.wait_for(alive, _EXEC_SECONDS):
                    return pipe.read()
            except BaseException:
                child.kill_group(signal.SIGKILL)
                raise
        child.kill_group(signal.SIGKILL)
        from agent.engine import start_error  # for a failure only

        raise start_error.hangs(child.name, _EXEC_SECONDS)

    def reap(self) -> list[Child]:
        """Reap everything that has exited or stopped; return the children among it."""
        ours: list[Child] = []
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return ours
            if pid == 0:
                return ours
            child = self._by_pid.get(pid)
            if child is None:
                continue
            if os.WIFSTOPPED(status):
                child.stopped_by = os.WSTOPSIG(status)
                ours.append(child)
                continue
            child.status = status
            child.user_seconds, child.system_seconds = usage.ru_utime, usage.ru_stime
            del self._by_pid[pid]
            ours.append(child)

    @property
    def running(self) -> list[Child]:
        """Return our own children that have not exited."""
        return list(self._by_pid.values())

    def orphans(self) -> list[int]:
        """Return the processes that were reparented to us when the one that started them exited."""
        # By its number: proot, in which SCAR runs images, answers for itself at /proc/thread-self.
        pid = os.getpid()
        try:
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
                pids = {int(word) for word in file.read().split()}
        except OSError:
            from agent.engine.proc import children_by_status  # for old kernels only

            pids = children_by_status()
        return sorted(pids - self._by_pid.keys())

    def kill_orphans(self, spared: Collection[int] = ()) -> list[str]:
        """Kill every orphan that isn't spared, and what they leave to us; return their names.

        What forks faster than it can be killed has two seconds: the rest of the job can't wait.
        """
        done = set(spared)
        names: list[str] = []
        until = time.monotonic() + _KILL_ORPHANS_SECONDS
        while (left := set(self.orphans()) - done) and time.monotonic() < until:
            for pid in left:
                names.append(name_of(pid))
                try:
                    os.kill(pid, signal.SIGKILL)  # ours to reap: the number can't be another's
                except OSError:
                    continue  # another user's, and we are not root
            done |= left
            _await_and_reap(left)
        return names

    def _become(
        self,
        agent: int,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        descriptors: tuple[int | str, int, int],
        rlimits: Sequence[tuple[int, int, int]],
        foreground: bool,
        report: int,
    ) -> None:
        """Turn the forked process into the program. Never returns."""
        step = 0
        try:
            os.setpgid(0, 0)
            if foreground:
                os.tcsetpgrp(0, os.getpid())
            if self._libc:
                # An agent that is not PID 1 may be killed: none of its processes outlives it.
                self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != agent:
                    return  # killed between the fork and this: no signal will come any more
            stdin, stdout, stderr = descriptors
            _close_all_but({fd for fd in (*descriptors, report) if not isinstance(fd, str)})
            if isinstance(stdin, str):
                stdin = os.open(stdin, os.O_RDONLY)
            self._place((stdin, stdout, stderr))
            if cwd:
                step = 1
                os.chdir(cwd)
            try:
                with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
                    score.write(CHILD_OOM_SCORE)
            except OSError:
                pass
            for number in _ALL_SIGNALS - _UNCATCHABLE:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            if rlimits:
                import resource  # for a job only

                for limit, soft, hard in rlimits:
                    resource.setrlimit(limit, (soft, hard))
            step = 2
            os.execvpe(argv[0], list(argv), env)
        except OSError as error:
            os.write(report, f"{error.errno or 0} {step}".encode())
        except ValueError:  # a NUL in an argument, or a name with =
            os.write(report, f"{errno.EINVAL} {step}".encode())
        finally:
            os._exit(NOT_FOUND)

    def _place(self, descriptors: tuple[int, int, int]) -> None:
        """Put the three descriptors where they belong; what was closed for us stays closed."""
        # Copies first: a source may be another one's target.
        high = [fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 3) for source in descriptors]
        for target, (source, copy) in enumerate(zip(descriptors, high, strict=True)):
            os.dup2(copy, target, inheritable=True)
            if source in self._closed:
                os.close(target)


def _only_wait(fd: int, seconds: float) -> bool:
    ready = select.poll()
    ready.register(fd, select.POLLIN)
    return bool(ready.poll(1000 * seconds))


def _close_all_but(kept: set[int]) -> None:
    """Make room for copies of descriptors: a limit of 16 is nearly used up by the agent's own."""
    low = 3
    for fd in (*sorted(fd for fd in kept if fd > 2), _HIGH_DESCRIPTOR):
        os.closerange(low, fd)
        low = fd + 1


def _await_and_reap(pids: set[int]) -> None:
    """Wait for killed orphans, all together; one that hangs in the kernel is left behind."""
    poll = select.poll()
    open_ = {}
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            continue
        open_[fd] = pid
        poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + _REAP_SECONDS
    while open_ and (left := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(1000 * left):
            poll.unregister(fd)
            os.close(fd)
            try:
                os.waitpid(open_.pop(fd), os.WNOHANG)
            except ChildProcessError:
                pass
    for fd in open_:
        os.close(fd)


def _occupy_closed_descriptors() -> set[int]:
    """Open /dev/null where standard descriptors are closed, so that no other file lands there."""
    closed = set()
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            closed.add(number)
            os.open(os.devnull, os.O_RDWR)
    return closed


def _close_descriptors_on_exec() -> None:
    """Keep descriptors that this process inherited from its children."""
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number > 2:
            try:
                os.set_inheritable(number, False)
            except OSError:
                pass  # the one that listed the directory


def pin_no_directory() -> None:
    """Leave the working directory to the program that was started there: it may be unmounted."""
    os.chdir("/")


def has_terminal() -> bool:
    """Return whether standard input is this session's terminal, so that job control applies."""
    try:
        return os.isatty(0) and os.tcgetpgrp(0) >= 0
    except OSError:
        return False
