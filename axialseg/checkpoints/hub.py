"""Uploads a model's folder to the Hugging Face hub, for those who ask for it."""

from importlib.util import find_spec
from pathlib import Path

from axialseg.errors import UserError


def check_hub(repository: str) -> None:
    """Refuses, before any work is done, what could not be uploaded.

    Args:
        repository: `<user>/<name>`.

    Raises:
        UserError: the name is wrong, or huggingface_hub is not installed.
    """
    user, _, name = repository.partition("/")
    if not user or not name or "/" in name:
        raise UserError(f"push={repository} must be <user>/<name>")
    if find_spec("huggingface_hub") is None:
        raise UserError("push= needs huggingface_hub: pip install 'axialseg[hub]'")


def upload(folder: Path, repository: str) -> str:
    """Uploads; a repository that is not there is made, and only its owner sees it.

    Args:
        folder: of the model.
        repository: see `check_hub`.

    Returns:
        The address of the model.

    Raises:
        UserError: the hub refuses it or cannot be reached; the folder stays.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = str(api.create_repo(repository, private=True, exist_ok=True))
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model and card")
    except Exception as error:  # of the hub, of its token, of the network: no common class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{folder} is written, but {repository} did not take it ({reason}); log in by "
            f"`hf auth login`, then `hf upload {repository} {folder}`"
        ) from error
    return address
