"""The same invocation through `sagemaker-core`, the resource layer of the SageMaker SDK.

Run it by `make sagemaker-core RUNTIME_URL=http://127.0.0.1:8090 ENDPOINT_NAME=rag`, or without RUNTIME_URL on AWS. It
uses a separate virtual environment, because sagemaker-core needs an older rich than the project.
"""

from __future__ import annotations

import argparse
import json
import os
import sys


def main() -> int:
    """Ask one question; prints the answer's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint-name", required=True)
    parser.add_argument("--runtime-url", help="URL of the local stand-in (default: AWS)")
    parser.add_argument("--query", default="Qual a capital do Brasil?")
    args = parser.parse_args()
    if args.runtime_url:
        os.environ["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] = args.runtime_url
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "local"),
            ("AWS_SECRET_ACCESS_KEY", "local"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            os.environ.setdefault(name, value)
    from sagemaker.core.resources import Endpoint  # noqa: PLC0415 - it reads the environment when it is imported

    endpoint = Endpoint(endpoint_name=args.endpoint_name)
    result = endpoint.invoke(body=json.dumps({"query": args.query}), content_type="application/json")
    print(json.load(result.body)["text"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
