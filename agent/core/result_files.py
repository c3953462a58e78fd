"""Names of the agent's own files in the directory of results and on S3."""

# Names in the directory of results that begin so.
HIDDEN = ".architrave-"
# Where several nodes share a directory: the log of each one that doesn't upload it, by its index.
NODE_LOG = "architrave-time-node-"
RUN, MANIFEST = "run.json", "manifest.json"
# In the runtime directory: the names of the results, what S3 has of them, this node's record.
RESULTS, STORED, RECORD = "results.list", "stored.jsonl", "record.json"
KEEP_HINT = "let the program run in TMP_OUTPUT_DIR (ARCHITRAVE_WORKDIR), or set TMP_OUTPUT_DIR={}"
