"""The agent's own log."""

import json
import re
import subprocess
import sys

from agent.engine.log import Log


def test_log_hides_secrets_and_never_raises():
    lines = []
    log = Log(lines.append, secrets=("geheim",))
    log.context = {"job": "j"}
    log.info("before_it_is_open", value="geheim!")
    log.open()
    log.info("with geheim", items=["a geheim b"], other=object(), nothing=None)
    log.info("helper_retried", what="geheim", cause="x")
    records = [json.loads(line) for line in lines]
    assert [r["event"] for r in records] == ["before_it_is_open", "with ***", "helper_retried"]
    assert b"geheim" not in b"".join(lines)
    assert records[1]["items"] == ["a *** b"] and "nothing" not in records[1]
    assert records[2]["message"] == "retrying ***: x" and records[2]["what"] == "***"


def test_console_shows_the_message_and_the_other_fields():
    lines = []
    log = Log(lines.append, console=True)
    log.open()
    log.info("worker_joined", worker=2, slots=4)
    (line,) = lines
    text = re.sub(r"\x1b\[[\d;]*m", "", line.decode())
    assert "worker 2 joined" in text and "slots=4" in text and "worker=2" not in text


def test_starting_loads_no_asyncio():
    """asyncio, and with it ssl, is not imported for structlog."""
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
