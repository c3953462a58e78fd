"""Which variables an event of a Lambda function may set: exact names, or patterns of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from agent.core.errors import bad
from agent.core.variables import EVENT_ENV

NAME = EVENT_ENV.name
# The application's parameters, and of OpenMP's variables (specification 5.2, chapter 21) those that
# only tune: others load a library or write a file.
DEFAULT = (
    *("APP_IN_FILE", "APP_PARAMS", "APP_PARAMS1", "APP_PARAMS2"),
    *("OMP_CANCELLATION", "OMP_DYNAMIC", "OMP_MAX_ACTIVE_LEVELS", "OMP_MAX_TASK_PRIORITY"),
    *("OMP_NESTED", "OMP_NUM_TEAMS", "OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND"),
    *("OMP_SCHEDULE", "OMP_STACKSIZE", "OMP_TEAMS_THREAD_LIMIT", "OMP_THREAD_LIMIT"),
    "OMP_WAIT_POLICY",
)
# Never allowed: with these a caller of the function could run code of their own, from a file that
# the event brings, or change what the agent does.
NEVER = (
    # the agent, its platform, and where things are
    *("ARCHITRAVE_*", "AWS_*", "_*", "LAMBDA_*", "EXEC_TYPE", "S3_*", "PRIVATE_*", "SSH_*"),
    *("TMP_*", "INPUT_FILE_PATH", "PATH", "HOME", "TMPDIR", "TMP", "TEMP", "USER", "SHELL", "PWD"),
    # the loader and the C library (ld.so(8), environ(7))
    *("LD_*", "GCONV_PATH", "GLIBC_TUNABLES", "MALLOC_*", "LOCPATH", "NLSPATH", "GETCONF_DIR"),
    *("HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS", "RESOLV_*"),
    # shells (bash(1))
    *("BASH*", "ENV", "IFS", "PS4", "SHELLOPTS", "PROMPT_COMMAND", "CDPATH", "ZDOTDIR"),
    # interpreters
    *("PYTHON*", "PERL*", "RUBY*", "GEM_*", "NODE_OPTIONS", "NODE_PATH", "NODE_EXTRA_*", "NPM_*"),
    *(
        "JAVA_*",
        "JDK_*",
        "CLASSPATH",
        "R_LIBS*",
        "R_PROFILE*",
        "R_ENVIRON*",
        "R_HOME",
        "R_STARTUP*",
    ),
    *("JULIA_*", "LUA_PATH*", "LUA_CPATH*", "LUA_INIT*", "TCL*", "OCTAVE_*", "PHP*", "GUILE_*"),
    # MPI, OpenMP and accelerators: each loads a library that a variable names
    *("OMP_TOOL*", "OMPI_*", "OPAL_*", "ORTE_*", "PMIX_*", "PRTE_*", "PMI_*", "HYDRA_*", "MPIR_*"),
    *("MPICH_*", "I_MPI_*", "UCX_*", "FI_PROVIDER*", "NCCL_*", "HWLOC_*", "LTDL_*", "FLEXIBLAS*"),
    *(
        "CUDA_INJECTION*",
        "HSA_TOOLS*",
        "ROCP_*",
        "OCL_*",
        "OPENCL_*",
        "VK_*",
        "ZE_*",
        "LIBOMPTARGET_*",
    ),
    *("INTEL_LIBITTNOTIFY*", "INTEL_JIT_*", "HDF5_PLUGIN*", "QT_*", "GTK_*", "GIO_*"),
    # programs that others start
    *("EDITOR", "VISUAL", "PAGER", "LESS*", "GIT_*", "OPENSSL_*", "SSL*", "*_PROXY", "*_proxy"),
    *("BOTO*", "*_CA_BUNDLE", "TAR_OPTIONS"),
)
# Allowed by their exact names only, never by a pattern: an input can be a program.
_EXACT_ONLY = frozenset({"APP_BIN"})


def read(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names and patterns that are set, or the default; raise AgentError (78)."""
    if NAME not in env:
        return DEFAULT
    patterns = tuple(env[NAME].split())
    for pattern in patterns:
        if _never(pattern):
            cause = f"no event may set {pattern}"
            raise bad(NAME, env[NAME], cause, f"leave {pattern} out, and set it for the function")
    return patterns


def allows(name: str, patterns: Iterable[str]) -> bool:
    """Return whether an event may set a variable."""
    if _never(name):
        return False
    given = tuple(patterns)
    by_pattern = any(fnmatchcase(name, pattern) for pattern in given)
    return name in given or (by_pattern and name not in _EXACT_ONLY)


def advice(name: str, patterns: Iterable[str]) -> str:
    """Return what to do about a variable that an event may not set."""
    if _never(name):
        return f"no event may set it, whatever {NAME} has: set it for the function"
    if name in _EXACT_ONLY:
        return f"no pattern allows it: {NAME} must list {name} itself"
    return f"allowed are {' '.join(patterns) or 'none'}; see {NAME}"


def _never(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in NEVER)
