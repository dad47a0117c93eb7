"""To huggingface.co and back, only when somebody asks for it."""

import importlib
from pathlib import Path

from llamita.errors import UserError


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a folder as a model repository, made if it isn't there; gives its address.

    UserError without the package, a login or a way there.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError("--push needs huggingface_hub: pip install 'llamita[hub]'") from error
    api = hub.HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.repo_info(repository).private:
            raise UserError(f"--push {repository}: is there already, and public; give --public, or another name")
        api.upload_folder(repo_id=repository, folder_path=folder)
    except UserError:
        raise
    except Exception as error:  # of whichever library talks to the network there
        told = str(error).strip().splitlines()
        raise UserError(
            f"--push {repository}: {told[0] if told else type(error).__name__}; {folder} is written; "
            "log in with `hf auth login`, check the name, and upload it with `hf upload`"
        ) from error
    return str(address)
