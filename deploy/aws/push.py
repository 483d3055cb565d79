"""Push a local image to Amazon's registry (ECR) by the command in DOCKER."""

from __future__ import annotations

import base64
import shlex
import subprocess
from collections.abc import Callable

from deploy.account import Account, AwsCall
from deploy.errors import DeployError

Report = Callable[[str], object]


def split_image(image: str) -> tuple[str, str]:
    """(repository, tag) of an image's local name; "latest" where it has no tag."""
    repository, _, tag = image.partition(":")
    return repository, tag or "latest"


def push(account: Account, image: str, *, docker: str, report: Report) -> str:
    """Create the repository if missing, log in, tag, push; the image's URI with its digest. Raises DeployError."""
    repository, tag = split_image(image)
    address = _repository(account, repository)
    authorization = account.do(AwsCall("ecr", "get_authorization_token", {}))["authorizationData"][0]
    user, _, password = base64.b64decode(authorization["authorizationToken"]).decode().partition(":")
    registry = address.partition("/")[0]
    _run([*shlex.split(docker), "login", "--username", user, "--password-stdin", registry], password)
    _run([*shlex.split(docker), "tag", f"{repository}:{tag}", f"{address}:{tag}"])
    _run([*shlex.split(docker), "push", f"{address}:{tag}"])
    pushed = pushed_image(account, image)
    report(f"pushed {pushed}")
    return pushed


def pushed_image(account: Account, image: str) -> str:
    """The image's URI in the registry, by its digest, so that moving the tag does not change a running endpoint.

    A URI that already names a registry is returned unchanged. Raises DeployError where the image was not pushed.
    """
    if ".amazonaws.com" in image:
        return image
    repository, tag = split_image(image)
    found = account.find(
        AwsCall("ecr", "describe_images", {"repositoryName": repository, "imageIds": [{"imageTag": tag}]})
    )
    if not found or not found["imageDetails"]:
        raise DeployError(f"IMAGE_NAME: {repository}:{tag} is not in the registry", "Push it first: make build push.")
    return f"{_address(account, repository)}@{found['imageDetails'][0]['imageDigest']}"


def _address(account: Account, repository: str) -> str:
    found = account.do(AwsCall("ecr", "describe_repositories", {"repositoryNames": [repository]}))
    return str(found["repositories"][0]["repositoryUri"])


def _repository(account: Account, name: str) -> str:
    """The repository's URI; created where it does not exist."""
    found = account.find(AwsCall("ecr", "describe_repositories", {"repositoryNames": [name]}))
    if found is not None:
        return str(found["repositories"][0]["repositoryUri"])
    made = account.do(
        AwsCall(
            "ecr",
            "create_repository",
            {"repositoryName": name, "imageScanningConfiguration": {"scanOnPush": True}},
        )
    )
    return str(made["repository"]["repositoryUri"])


def _run(command: list[str], entered: str | None = None) -> None:
    """Run a command, its output on the terminal; `entered` (a password) goes to its stdin only. Raises DeployError."""
    try:
        done = subprocess.run(command, input=entered, text=True, check=False)
    except OSError as error:
        raise DeployError(f"{command[0]} can't be run: {error}", "Set DOCKER to the command.") from error
    if done.returncode:
        raise DeployError(f"`{shlex.join(command)}` ended with status {done.returncode}")
