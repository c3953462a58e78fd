"""The agent's own log."""

import json
import subprocess
import sys

from agent.engine.log import Log


def test_log_hides_secrets_and_never_raises():
    lines = []
    log = Log(lines.append, secrets=("geheim",))
    log.context = {"job": "j"}
    log.info("before it is open", value="geheim!")
    log.open()
    log.info("with geheim", words=["a geheim b"], other=object(), nothing=None)
    records = [json.loads(line) for line in lines]
    assert [r["event"] for r in records] == ["before it is open", "with ***"]
    assert b"geheim" not in b"".join(lines)
    assert records[1]["words"] == ["a *** b"] and "nothing" not in records[1]


def test_starting_loads_no_asyncio():
    """Structlog's import of asyncio, and with it of ssl, stays undone."""
    code = (
        "import sys; from agent.engine.log import Log; "
        "l = Log(lambda b: None); l.open(); l.info('x');"
        "print('ssl' in sys.modules, 'asyncio.events' in sys.modules)"
    )
    blocked = "import sys; sys.modules['rich'] = None; " + code
    done = subprocess.run(
        [sys.executable, "-c", blocked], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
