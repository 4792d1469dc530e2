"""Asks an S3-compatible store, `s3://bucket/folder`.

boto3 and not fsspec: s3fs has an event loop in a thread. The forked workers of a DataLoader inherit
the loop without the thread, and wait for ever (https://github.com/fsspec/s3fs/issues/914). boto3
finds the store and the keys where Amazon's own tools do: `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`,
`~/.aws`.
"""

import os
from functools import cache
from typing import Any

from nano_cv.data.store import S3
from nano_cv.errors import UserError, first_line

TRIES = 3  # to read the body of an answer; boto3 itself only repeats requests without an answer


def exists(place: str) -> bool:
    """Return whether an object exists."""
    answer = ask(place, "list_objects_v2", "Prefix", MaxKeys=1)
    return any(place.endswith(f"/{entry['Key']}") for entry in answer.get("Contents", ()))


def ask(place: str, method: str, name: str = "Key", **options: Any) -> dict[str, Any]:
    """Send a request about an object; `name` is what the request calls its key.

    Returns the store's answer, with a `Body` as bytes, which is read again if it is cut off.
    """
    bucket, _, key = place.removeprefix(S3).partition("/")
    client, options = _client(os.getpid()), {"Bucket": bucket, name: key, **options}
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

    for left in reversed(range(TRIES)):
        try:
            answer: dict[str, Any] = getattr(client, method)(**options)
            try:
                return answer | {"Body": answer["Body"].read()} if "Body" in answer else answer
            except (HTTPClientError, IncompleteReadError):
                if not left:
                    raise
        except ClientError as error:
            raise UserError(f"{place}: {first_line(error)}") from error
        except BotoCoreError as error:
            raise UserError(
                f"{place}: {first_line(error)}; the store and its keys are taken from "
                "AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws"
            ) from error
    raise AssertionError("the last try returns or raises")


@cache
def _client(process: int) -> Any:
    """Make a client per process, because connections do not survive a fork."""
    try:
        import boto3
    except ImportError as error:
        raise UserError("s3:// needs boto3; type: poetry install --extras s3") from error
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.client("s3")
    except (BotoCoreError, ValueError) as error:  # no such profile; an address without http://
        raise UserError(f"s3://: {first_line(error)}") from error
