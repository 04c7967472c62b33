"""Make the bucket of MLFLOW_ARTIFACTS (s3://bucket/folder) once the S3 server answers."""

from __future__ import annotations

import os
import sys
import time
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError


def main(seconds: float = 120.0) -> int:
    """Try until it is there: exit code 0, or 1 after so many seconds."""
    address = urlsplit(os.environ["MLFLOW_ARTIFACTS"])
    if address.scheme != "s3":
        print("MLFLOW_ARTIFACTS must be s3://bucket/folder with the profile s3", file=sys.stderr)
        return 1
    client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    end = time.monotonic() + seconds
    while True:
        try:
            if address.netloc not in {one["Name"] for one in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=address.netloc)
            return 0
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > end:
                print(error, file=sys.stderr)
                return 1
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
