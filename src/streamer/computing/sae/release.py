"""SAELens' releases on the hub: at which revision they are read, and which files of them are."""

import importlib.util
from pathlib import PurePosixPath
from typing import Any

from huggingface_hub import hf_hub_download

from streamer.errors import UsageError

LOADERS = "sae_lens.loading.pretrained_sae_loaders"
PLAIN = {".safetensors", ".npz", ".json", ".yaml", ".yml"}
"""Kinds of file that hold numbers or text. What else a release has, SAELens unpickles."""


def loader_of(release: str, revision: str | None, *, trusted: bool) -> Any:
    """SAELens' loader of `release`, which is one of its directory or a repository: a `converter`
    for `SAE.from_pretrained`. It reads the files at `revision`, and pickles only if `trusted`.

    SAELens hands its loaders no revision, and cannot be told to leave pickles alone. But each of
    them downloads by the name `hf_hub_download` of its module. So they are taken from a copy of
    that module in which the name is ours; the module that others import stays as it is.
    """
    spec = importlib.util.find_spec(LOADERS)
    assert spec is not None
    assert spec.loader is not None
    copy: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)

    def download(repo_id: str, filename: str, **how: Any) -> str:
        if not trusted and PurePosixPath(filename).suffix not in PLAIN:
            raise UsageError(
                f"{filename} of the SAE repository {repo_id} is stored as a pickle, which can run "
                f"code when it is loaded. If you trust it, give --trust-remote-code."
            )
        path: str = hf_hub_download(repo_id, filename, **how | {"revision": revision})
        return path

    copy.hf_hub_download = download
    return copy.NAMED_PRETRAINED_SAE_LOADERS[copy.get_conversion_loader_name(release)]
