"""SAELens' releases on the hub: which revision is read, and which of its files."""

import importlib.util
from pathlib import PurePosixPath
from typing import Any

from huggingface_hub import hf_hub_download

from streamer.errors import UsageError

LOADERS = "sae_lens.loading.pretrained_sae_loaders"
PLAIN = {".safetensors", ".npz", ".json", ".yaml", ".yml"}
"""Kinds of file that hold numbers or text. SAELens unpickles any other."""


def loader_of(release: str, revision: str | None, *, trusted: bool) -> Any:
    """SAELens' loader of `release`, an entry of its directory or a repository: a `converter`
    for `SAE.from_pretrained`. It reads the files at `revision`, and pickles only if `trusted`.

    SAELens passes its loaders no revision, and has no option to refuse pickles. But they all
    download through the name `hf_hub_download` in their module. So they are taken from a copy of
    that module in which the name is replaced; the module that others import does not change.
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
