#!/bin/bash
# Every run_helper.sh ends in `bash /opt/run.sh`: run the job.
exec /opt/architrave/bin/architrave run "$@"
