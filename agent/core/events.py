"""The agent's log events: a stable id for each, and its message.

A log line has the id as `event`, the message, and the values as fields. Tests, alarms and tools
rely on ids and fields. docs/reference/events.md is made from this table.
"""

from __future__ import annotations

from typing import Any

EVENTS: dict[str, str] = {
    # The job.
    "job_started": "job started, mode {mode}",
    "phase_started": "phase {phase} started",
    "wait_started": "wait started: {what}",
    "wait_finished": "wait finished: {what}",
    "wait_timed_out": "wait timed out: {what}",
    "wait_aborted": "wait aborted: {what}",
    "signal_received": "received {signal}",
    "variable_unknown": "unknown variable {name}",
    "process_stopped": "process {process} was stopped by signal {signal}",
    "command_timed_out": "command timed out after {seconds} s: {what}",
    "container_held": "keeping the container alive for debugging, for up to {seconds:g} s",
    "exit_code_not_written": "cannot write {path}: {cause}",
    "job_exited": "job exited with {code}",
    "log_lines_dropped": "{count} log lines dropped",
    # Errors. The first one of a job has the level error, and decides its exit code.
    "error": "cannot {what}: {cause}",
    "job_stopped": "{what}: {cause}",
    "application_stopped": "{what}: {cause}",
    "application_failed": "{cause}",
    "job_failed": "{cause}",
    "worker_failed": "{what}: {cause}",
    "worker_lost": "{what}: {cause}",
    "worker_out_of_memory": "worker {worker} {cause}",
    "main_lost": "{what}: {cause}",
    "node_frozen": "{what}: {cause}",
    "internal_error": "internal error",
    # The application.
    "application_starting": "application starting, launcher {launcher}",
    "mpi_not_used": "{program} does not use MPI, and mpirun starts one copy for each slot",
    "shell_syntax_literal": "no shell interprets APP_PARAMS: {arguments} are passed as they are",
    "arguments_not_found": "{arguments} are not in {directory}, the working directory",
    "application_stopping": "application stopping: {cause}",
    "application_killed": "sending SIGKILL to {processes}",
    "application_exited": "application exited with {code}",
    "stragglers_ended": "killed processes that the application left behind: {processes}",
    "rank_output_dropped": "dropped output of ranks still running after another rank exited",
    "console_output_missed": "console output incomplete: {bytes} bytes dropped",
    "output_lost": "cannot write {path}: {cause}",
    "time_log_renamed": "application wrote its own {its}, the agent's log is {agents}",
    "sampling_failed": "cannot sample the job's processes: {cause}",
    # Several nodes.
    "worker_joined": "worker {worker} joined",
    "nodes_joined": "all {nodes} nodes joined",
    "main_joined": "joined main node {main}",
    "join_retried": "cannot join yet, retrying: {cause}",
    "record_received": "received the record of worker {worker}, {files} files",
    "heartbeat_failed": "cannot send a heartbeat: {cause}",
    "heartbeat_link_broken": "heartbeat link broken: {cause}",
    "heartbeat_link_failed": "cannot start the heartbeat link: {cause}",
    "readiness_files_restored": "readiness files in {directory} were removed, made again",
    "readiness_files_not_restored": "cannot make the readiness files again: {cause}",
    "readiness_file_refused": "ignored invalid readiness file {file}: {cause}",
    "output_directory_shared": "output directory is shared, node {owner} uploads it",
    "sshd_output": "sshd: {text}",
    "sshd_exited": "sshd exited, restarting",
    "sshd_not_restarted": "cannot restart sshd: {cause}",
    # Helper processes.
    "helper_retried": "retrying {what}: {cause}",
    "helper_message": "helper sent a message",
    # S3 and archives.
    "fetch_started": "fetching {what}",
    "fetch_fallback": "fast download of {what} failed, using boto3: {cause}",
    "progress": "{what}: {percent} %",
    "checksum_mismatch": "checksum of {what} does not match",
    "archive_unpacked": "archive unpacked in {seconds} s",
    "credentials_awaited": "waiting for AWS credentials: {cause}",
    "credentials_received": "AWS credentials received after {seconds} s",
    # Results.
    "workdir_not_uploaded": "{count} files in {directory} are not uploaded",
    "links_not_followed": "{count} links to directories are not followed",
    "core_dumps_not_uploaded": "{count} core dumps are not uploaded",
    "exclude_unmatched": "ARCHITRAVE_OUTPUT_EXCLUDE: {patterns} match no file on this node",
    "file_vanished": "{file} vanished before its upload",
    "file_not_final": "{file} kept changing while it was uploaded",
    "result_not_uploaded": "cannot {what}: {cause}",
    "results_not_uploaded": "results not uploaded: this node was declared lost",
    "results_not_kept": "results are not kept: no destination on S3",
    "upload_fallback": "fast upload failed, using boto3: {cause}",
    "upload_finished": "uploaded {files} files to {to}",
    "report_failed": "cannot make report.html: {cause}",
    "report_not_uploaded": "cannot {what}: {cause}",
}


def message(event: str, fields: dict[str, Any]) -> tuple[str, set[str]]:
    """Return an event's message and the names of the fields that it shows; never raises.

    An unknown event, or one that lacks a field, has its id as message.
    """
    values = _Values(fields)
    try:
        return EVENTS[event].format_map(values), values.shown
    except (KeyError, ValueError, TypeError):
        return event, set()


class _Values(dict[str, Any]):
    """The fields for a template; it notes which of them were used."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.shown: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        self.shown.add(name)
        return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
