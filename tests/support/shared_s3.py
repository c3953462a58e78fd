"""One S3 server for the clusters of a worker: each has it for itself, with its buckets empty."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from agent.tools.cluster.s3 import EmbeddedS3


class Server:
    """The server, started for the first cluster, and again if it has died."""

    def __init__(self):
        self.taken = False
        self.buckets = set()
        self._embedded = None
        self._stack = ExitStack()

    def take(self):
        """Return the running server."""
        self.taken = True
        if self._embedded is None or self._embedded._process.poll() is not None:
            self.stop()
            directory = self._stack.enter_context(tempfile.TemporaryDirectory())
            # Containers reach it by the addresses of their networks, which come later.
            self._embedded = self._stack.enter_context(
                EmbeddedS3(Path(directory) / "s3", "0.0.0.0")
            )
            self.buckets = set()
        return self._embedded

    def give_back(self):
        """Empty the buckets: by this machine's address, since a cluster's is gone by now."""
        self.taken = False
        client = self._embedded.client()
        for bucket in self.buckets:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                found = [{"Key": one["Key"]} for one in page.get("Contents", ())]
                if found:
                    client.delete_objects(Bucket=bucket, Delete={"Objects": found, "Quiet": True})

    def stop(self):
        self._stack.close()
        self._embedded = None


class SharedS3(EmbeddedS3):
    """A cluster's share of it; while another cluster has it, the next one starts its own server."""

    server = Server()

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._shares = False

    def start(self):
        if self.server.taken:
            super().start()
            return
        running = self.server.take()
        self._shares = True
        self.access_key, self.secret_key = running.access_key, running.secret_key
        self.ports = running.ports
        self.endpoint = f"http://{self.address}:{self.ports['s3.port']}"

    def create_bucket(self, bucket):
        if not self._shares:
            super().create_bucket(bucket)
        elif bucket not in self.server.buckets:
            super().create_bucket(bucket)
            self.server.buckets.add(bucket)

    def stop(self):
        if not self._shares:
            super().stop()
            return
        self._shares = False
        self.server.give_back()
