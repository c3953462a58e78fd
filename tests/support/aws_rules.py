"""What AWS Batch and IAM make of rules: a small reading of their documentation."""

import re

EXITED = "Essential container in task exited"


def is_tried_again(rules, code=None, status_reason=EXITED, reason=""):
    """Return what AWS Batch does with an attempt that failed.

    Source: API reference of AWS Batch, EvaluateOnExit, and its user guide, job_retries: all
    conditions of a rule must match, a pattern from its start, and to its end unless it ends in an
    asterisk; the first rule that matches decides; without one the job is tried again. An action's
    case doesn't matter.
    """
    seen = {
        "onExitCode": "" if code is None else str(code),
        "onStatusReason": status_reason,
        "onReason": reason,
    }

    def matches(pattern, text):
        if pattern.endswith("*"):
            return text.startswith(pattern[:-1])
        return text == pattern

    for rule in rules:
        conditions = rule.keys() - {"action"}
        assert conditions
        if all(matches(rule[one], seen[one]) for one in conditions):
            return rule["action"].upper() == "RETRY"
    return True


def allows(policy, action, resource):
    """Return whether a policy allows it, by IAM's wildcards and its ${*} for an asterisk."""

    def matches(pattern, text):
        parts = re.split(r"(\$\{[*?$]\}|[*?])", pattern)
        wild = {"*": ".*", "?": "."}
        regex = "".join(
            re.escape(p[2]) if p.startswith("${") else wild.get(p, re.escape(p)) for p in parts
        )
        return re.fullmatch(regex, text, re.DOTALL) is not None

    return any(
        action in one["Action"] and any(matches(r, resource) for r in one["Resource"])
        for one in policy["Statement"]
        if one["Effect"] == "Allow"
    )
