#!/bin/bash
# Run the script that triggered the job; without one, the job itself.
if [ -n "${INPUT_FILE_PATH:-}" ] && [ -f "$INPUT_FILE_PATH" ]; then
    exec bash "$INPUT_FILE_PATH" "$@"
fi
exec /opt/architrave/bin/architrave run "$@"
