"""The text of an error."""

import io
import json

from agent.core.errors import AgentError


def test_error_text():
    error = AgentError("fetch s3://b/k", "it is gone", code=66, hint="look")
    assert str(error) == "cannot fetch s3://b/k: it is gone"
    assert AgentError.from_json(json.loads(json.dumps(error.to_json()))).code == 66
    assert io.StringIO(str(error)).read()
