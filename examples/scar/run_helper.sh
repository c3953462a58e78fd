#!/bin/bash
# One job: these names, then the agent. SCAR runs this file in the container, on every node.

# One node on AWS Batch; these lines are optional.
# export AWS_BATCH_JOB_NUM_NODES=1
# export AWS_BATCH_JOB_NODE_INDEX=0
# export AWS_BATCH_JOB_MAIN_NODE_INDEX=0

# The password of private.7z; empty if it has none.
export PRIVATE_PASSWD=''
export APP_BIN='/bin/uname'
export APP_PARAMS='-a'
bash /opt/run.sh
