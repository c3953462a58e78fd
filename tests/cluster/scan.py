"""Look for secrets in all processes of a container: their names come as JSON on standard input.

Prints {"processes": COUNT, "found": [[program, file, name], ...]}; the file is cmdline or environ.
This process itself has the container's environment, as whatever is started by `docker exec`.
"""

import json
import os
import sys

needles = json.load(sys.stdin)
found = []
pids = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
for pid in pids:
    texts = {}
    for file in ("cmdline", "environ"):
        try:
            with open(f"/proc/{pid}/{file}", "rb") as content:
                texts[file] = content.read().decode("utf-8", "replace")
        except OSError:
            continue
    argv = texts.get("cmdline", "").split("\0")
    if pid == "1":
        program = "agent"
    elif any(argument.endswith("/agent/helper.py") for argument in argv):
        program = "helper"
    else:
        program = argv[0]
    for file, text in texts.items():
        found += [[program, file, name] for name, value in needles.items() if value in text]
print(json.dumps({"processes": len(pids), "found": found}))
