"""Every fault that must be survived: what is done, how the job ends, within what bound.

A test names the cells that it proves with `@pytest.mark.cell("nodes.killed", …)`; the run writes
docs/reference/faults.md from this list and the tests' results, so a cell without a test shows.
B is five heartbeats, the grace period, and the upload of what there is.
"""

from dataclasses import dataclass

NODES = "Nodes and network"
APPLICATION = "The application"
SIGNALS = "Signals to the agent"
INHERITED = "What the application inherits"
S3 = "S3"
ARCHIVES = "Archives"
MACHINE = "The machine"
SECURITY = "Security"
CHANCE = "By chance"


@dataclass(frozen=True)
class Cell:
    """One fault. `open` says why it can't be tested, where that is so."""

    name: str
    section: str
    fault: str
    ends: str
    bound: str = "B"
    open: str = ""


_SAME = "75 on every other node, results uploaded, the node named"
_GOES_ON = "the job goes on"

CELLS = [
    # -- several nodes; at the main node and at a worker, in every phase: by one fault or another
    #    that looks the same to the others, and all of them together by the soak
    Cell("nodes.agent-killed", NODES, "agent killed with SIGKILL", _SAME),
    Cell("nodes.container-killed", NODES, "container killed", _SAME, "20 s in the run phase"),
    Cell("nodes.cut", NODES, "network dropped without a FIN", _SAME),
    Cell("nodes.stopped-briefly", NODES, "agent stopped for less than five heartbeats", _GOES_ON),
    Cell(
        "nodes.stopped-longer",
        NODES,
        "agent frozen for longer than five heartbeats, then continued",
        f"{_SAME}; the frozen one was declared lost: 75, its results not uploaded",
    ),
    Cell("nodes.sshd-killed", NODES, "sshd killed", f"restarted; {_GOES_ON}"),
    Cell(
        "nodes.unreachable",
        NODES,
        "a worker that is alive but can't be reached at the end (its sshd is stopped)",
        "75, the worker named with the cause; the main node's results uploaded",
        "30 s and B",
    ),
    Cell(
        "nodes.cut-briefly",
        NODES,
        "network cut for two of the five heartbeats",
        f"{_GOES_ON}; mpirun that is just starting its daemons fails, and its cause is named",
    ),
    Cell(
        "nodes.never-starts",
        NODES,
        "a worker never starts",
        "75 naming the missing index; the workers that are there end with it",
        "the join deadline",
    ),
    Cell("nodes.late", NODES, "a worker, or the main node, starts later", "it joins"),
    Cell(
        "nodes.stranger",
        NODES,
        "worker of another attempt or job, an index twice or out of range; a readiness file cut "
        "short, not JSON, huge, a symbolic link",
        "refused by name; the job goes on with the valid ones",
    ),
    Cell("nodes.wrong-key", NODES, "wrong host key, an unknown key", "77 on the node that sees it"),
    Cell(
        "nodes.firewall",
        NODES,
        "the nodes reach each other over SSH only, or mpirun's daemon can't start on one",
        "mpirun's code, and the error names the cause",
        "what the network needs to refuse",
    ),
    Cell("nodes.all-at-once", NODES, "64 workers in one second", "all join, none refused"),
    # -- the application
    Cell("application.code", APPLICATION, "exits with a code of its own", "the same code"),
    Cell("application.signal", APPLICATION, "killed by a signal", "128+N"),
    Cell(
        "application.memory",
        APPLICATION,
        "killed by the kernel for lack of memory",
        "137, and the line gives the limit and the peak",
    ),
    Cell(
        "application.missing",
        APPLICATION,
        "missing, not executable, wrong architecture, missing library or interpreter, a directory",
        "127 or 126 with the reason",
    ),
    Cell(
        "application.not-executable",
        APPLICATION,
        "can't be executed (wrong machine, missing interpreter, CRLF, no #!), under every launcher",
        "126 or 127 with the reason, never the launcher's own code",
    ),
    Cell(
        "application.environment",
        APPLICATION,
        "a rank on any node reads its environment",
        "that of its own node's container, less the agent's secrets",
    ),
    Cell(
        "application.ignores-sigterm",
        APPLICATION,
        "ignores SIGTERM",
        "SIGKILL to all of its processes",
        "the grace period",
    ),
    Cell(
        "application.grace",
        APPLICATION,
        "a script's child, a process in another group, a rank on any node saves its state",
        "each gets one SIGTERM and the whole grace period, also if the leader has exited",
        "the grace period",
    ),
    Cell(
        "application.daemons",
        APPLICATION,
        "leaves daemons that hold its stdout",
        "reaped and killed",
        "2 s",
    ),
    Cell(
        "application.output",
        APPLICATION,
        "much output, lines of 100 MB, no newline, any byte",
        "time.log byte for byte, bounded memory",
    ),
    Cell(
        "application.blocked-stdout",
        APPLICATION,
        "the container's stdout is not read, or its reader is gone",
        "time.log complete, what the console missed is counted, SIGTERM works at once",
    ),
    Cell("application.stopped", APPLICATION, "stops itself", "logged"),
    Cell(
        "application.unkillable",
        APPLICATION,
        "survives SIGKILL (state D)",
        "abandoned 2 s after SIGKILL, results uploaded",
    ),
    Cell(
        "application.cleans",
        APPLICATION,
        "cleans /tmp (rm -rf /tmp/*), on the main node, on a worker",
        "the job goes on, and ends with its code",
    ),
    Cell(
        "application.stdin",
        APPLICATION,
        "wants a file as standard input, or other resource limits",
        "it has them on every node, with every launcher; 78 if they can't be had",
    ),
    Cell(
        "application.own-log",
        APPLICATION,
        "empties its output directory, or writes a time.log of its own",
        "the agent's log reaches S3; the application's file keeps its name and bytes",
    ),
    Cell(
        "application.many-results",
        APPLICATION,
        "leaves 600,000 results on a node, a million in all",
        "delivered, heartbeats on time",
    ),
    Cell(
        "application.full-disk",
        APPLICATION,
        "fills the disk",
        "its own code; the line names the file system",
    ),
    Cell(
        "application.rank-dies",
        APPLICATION,
        "one rank dies, one node's mpirun daemon dies",
        "the whole job ends with that code",
    ),
    Cell("application.time-limit", APPLICATION, "runs past its time limit", "124"),
    # -- signals
    Cell(
        "signals.end",
        SIGNALS,
        "SIGTERM or SIGINT, in every phase, on main node, worker and single node",
        "forwarded, grace, SIGKILL; results uploaded; 143 or 130",
        "30 s",
    ),
    Cell("signals.second", SIGNALS, "a second SIGTERM", "shortens the grace"),
    Cell("signals.forwarded", SIGNALS, "any other signal", "forwarded to the application"),
    Cell("signals.job-control", SIGNALS, "job control, with and without a terminal", "as a shell"),
    Cell("signals.orphans", SIGNALS, "1500 orphans at once", "reaped", "100 ms of a processor"),
    Cell("signals.at-once", SIGNALS, "SIGTERM 20 ms after the start", "143"),
    Cell("signals.subreaper", SIGNALS, "not PID 1", "a subreaper: no zombie, no orphan left"),
    Cell(
        "signals.nested",
        SIGNALS,
        "SIGTERM to an agent whose command runs a job",
        "the command's code, when the job inside has saved what there is",
        "27 s",
    ),
    Cell("inherited.environment", INHERITED, "environment", "its own, less the agent's secrets"),
    Cell("inherited.descriptors", INHERITED, "descriptors", "0, 1, 2 and no other"),
    Cell("inherited.dispositions", INHERITED, "signal dispositions and mask", "default, empty"),
    Cell("inherited.directory", INHERITED, "working directory", "the container's"),
    Cell("inherited.closed", INHERITED, "closed stdin, stdout, stderr", "nothing changes"),
    # -- S3
    Cell(
        "s3.passing",
        S3,
        "500, 503, slow down, reset, truncated body, a stall of 30 s, then good again",
        "retried; no byte wrong",
    ),
    Cell("s3.lasting", S3, "the same forever", "69 naming bucket and key", "as the log states"),
    Cell("s3.refused", S3, "404, 403, expired, no credentials, wrong region", "66 or 77, a hint"),
    Cell(
        "s3.credentials",
        S3,
        "the endpoint of the container's credentials throttles, stalls, fails, refuses",
        "waited for; 69 if it persists, results stay on the node; 77 for a refusal",
        "as the log states",
    ),
    Cell("s3.checksum", S3, "checksum of the body wrong", "retried, then 65"),
    Cell("s3.no-right-to-write", S3, "no permission to write the results", "77 before the run"),
    Cell(
        "s3.upload-fails",
        S3,
        "an upload is refused or fails half way",
        "the others are uploaded, no manifest, lost ones are named; 73 if the application's is 0",
    ),
    Cell(
        "s3.changes-while-sent",
        S3,
        "a result changes while it is sent, once or always",
        "sent again; a result that keeps changing is named, size and digest are those on S3",
    ),
    Cell("s3.object-changes", S3, "the object changes while it is fetched", "fetched again"),
    # -- archives
    Cell("archives.corrupt", ARCHIVES, "corrupt, truncated, empty, not an archive", "65"),
    Cell("archives.password", ARCHIVES, "password wrong or missing, header encrypted or not", "77"),
    Cell("archives.no-keys", ARCHIVES, "no keys inside; keys with wrong modes", "65; accepted"),
    Cell(
        "archives.lead-out",
        ARCHIVES,
        "names with .., absolute, links that point outside, a name reserved for the agent",
        "65, and nothing outside is touched",
    ),
    Cell(
        "archives.name-taken",
        ARCHIVES,
        "a file that would replace a directory of the image, or a directory a file",
        "65, and the image's files stay",
    ),
    Cell(
        "archives.no-space",
        ARCHIVES,
        "more bytes than the disk has free",
        "71, nothing partial is left",
    ),
    Cell("archives.no-7zip", ARCHIVES, "7-Zip missing", "71"),
    Cell("archives.deps", ARCHIVES, "deps.tar.gz broken in the same ways", "the same"),
    Cell(
        "archives.packages",
        ARCHIVES,
        "a package that fails to configure, of another architecture, installed already, not root",
        "65 with dpkg's message; skipped; no need to be root",
    ),
    Cell(
        "archives.any-package",
        ARCHIVES,
        "packages with pre-dependencies, below directories that a slim image lacks, of a foreign"
        " architecture that the image enables, with a script that leaves a process behind",
        "installed, with apt-get and only with dpkg",
    ),
    # -- the machine
    Cell("machine.helper", MACHINE, "a helper hangs or is killed", "retried once, then an error"),
    Cell(
        "machine.hangs",
        MACHINE,
        "a program that the agent runs for information hangs",
        "retried, then 75",
    ),
    Cell("machine.bug", MACHINE, "an exception in the agent's own code, in any phase", "70"),
    Cell("machine.read-only", MACHINE, "read-only but /tmp", _GOES_ON),
    Cell("machine.not-root", MACHINE, "not root; a user id without a passwd entry", _GOES_ON),
    Cell("machine.no-shm", MACHINE, "no /dev/shm", _GOES_ON),
    Cell("machine.descriptors", MACHINE, "16 file descriptors", _GOES_ON),
    Cell("machine.pids", MACHINE, "a limit of 32 processes", _GOES_ON),
    Cell("machine.clock", MACHINE, "the clock steps by an hour", _GOES_ON),
    Cell("machine.leftovers", MACHINE, "/tmp/batch of an earlier attempt", _GOES_ON),
    Cell("machine.two-agents", MACHINE, "two agents in one container", "the second ends with 75"),
    Cell("machine.home", MACHINE, "HOME unset", _GOES_ON),
    Cell("machine.host-name", MACHINE, "host name not resolvable", _GOES_ON),
    Cell("machine.ipv6", MACHINE, "loopback has IPv6 only", _GOES_ON),
    Cell("machine.init", MACHINE, "another init as PID 1", _GOES_ON),
    # -- security
    Cell("security.host-keys", SECURITY, "strict host keys, both ways", "77"),
    Cell("security.key-modes", SECURITY, "modes of the keys", "readable by their owner only"),
    Cell("security.sshd", SECURITY, "password, other user, forwarding", "refused by sshd"),
    Cell(
        "security.secrets",
        SECURITY,
        "key, password, credentials",
        "in no argument, log, report, object or environment of the application",
    ),
    Cell(
        "security.shell",
        SECURITY,
        "a process that looks like a node of a local run",
        "architrave local shell uses nothing from it",
    ),
    Cell(
        "security.events",
        SECURITY,
        "an event of a Lambda function sets a variable that loads code",
        "refused by name, whatever the patterns",
    ),
    Cell("security.removed", SECURITY, "decrypted files and keys", "removed at the end"),
    Cell(
        "security.s3-doors",
        SECURITY,
        "another user, or a container, at the ports besides S3 on this machine (`local run`)",
        "reads nothing, replaces nothing",
    ),
    Cell("security.s3-names", SECURITY, "an S3 key with ..", "refused or kept below its prefix"),
    Cell("security.readiness", SECURITY, "a hostile readiness file", "refused by name"),
    Cell("security.other-job", SECURITY, "a node of another job or attempt", "can't join: 77"),
    # -- by chance
    Cell("chance.parsers", CHANCE, "any input to every parser", "its value, or a clear error", ""),
    Cell("chance.meeting", CHANCE, "joins, losses, late nodes in any order", "as expected", ""),
    Cell("chance.soak", CHANCE, "whole jobs with a fault drawn by a seed", "the five checks"),
]
BY_NAME = {cell.name: cell for cell in CELLS}
