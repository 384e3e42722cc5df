"""Which model it is: by its name, by its files, and as whoever trained an SAE on it may call it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer_lens.supported_models import MODEL_ALIASES

from streamer import embedded
from streamer.computing.model.find import cached_revision
from streamer.computing.model.fingerprint import fingerprint
from streamer.config import EMBEDDED, RunConfig


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model it is, for messages, the manifest and the SAEs' metadata."""

    name: str
    """As configured: a hub name or a directory."""
    aliases: frozenset[str]
    """Lower-case names that it is known by, with the owner's before a slash where one is known."""
    claimed: str | None
    """The same of what its config.json says that it is; a fine-tune may say its base model."""
    revision: str | None
    """The hub's commit."""
    fingerprint: str | None
    """Of a local directory's files."""

    @property
    def in_words(self) -> str:
        """All its names, for a message."""
        return " or ".join(sorted({*self.aliases, *([self.claimed] if self.claimed else ())}))

    def is_called(self, name: str) -> bool:
        """Whether it goes by `name`, or one that TransformerLens has for the same model."""
        return _share(names_of(name), self.aliases)

    def claims_to_be(self, name: str) -> bool:
        """Whether its config.json says that it is the model of this `name`."""
        return self.claimed is not None and _share(names_of(name), [self.claimed])


def identity_of(bridge: Any, config: RunConfig, path: str) -> ModelIdentity:
    """That of the model at `path`, which TransformerLens' `bridge` was made of. A hub model is
    known by its name; a directory by its own, and by what its config.json says."""
    aliases = {embedded.NAME} if config.model == EMBEDDED else _names_at(Path(path))
    file, claimed = Path(path) / "config.json", None
    if file.is_file():
        claimed = _claimed(json.loads(file.read_text("utf-8")).get("_name_or_path"))
    revision = None
    if not Path(path).is_dir():  # Hugging Face knows the commit only of some models that it loads
        loaded = getattr(bridge.original_model.config, "_commit_hash", None)
        revision = cached_revision(path, config.revision) or loaded
    known = frozenset(alias.lower() for alias in aliases)
    return ModelIdentity(config.model, known, claimed, revision, fingerprint(path))


def names_of(name: str) -> set[str]:
    """All lower-case names of the model of that `name`, its owner's before each if one is known:
    `google/gemma-2-2b` of `gemma-2-2b`."""
    names = {name.lower()}
    for official, aliases in MODEL_ALIASES.items():
        if name in (official, Path(official).name, *aliases):
            owner = official.rpartition("/")[0]
            known = (Path(one).name for one in (official, *aliases))
            names |= {f"{owner}/{one}".lower().removeprefix("/") for one in known}
            names -= {Path(one).name for one in names} if owner else set()
    return names


def _share(names: Iterable[str], others: Iterable[str]) -> bool:
    """Whether two of them are one model's: the owners are compared where both are known."""
    return any(
        Path(one).name == Path(other).name and ("/" not in one or "/" not in other or one == other)
        for one in names
        for other in others
    )


def _names_at(path: Path) -> set[str]:
    """What a model in the directory `path`, or of that name on the hub, may be called."""
    if not path.is_dir():
        return {str(path)}
    names = set()
    for folder in (path, path.resolve()):
        # the hub's cache keeps google/gemma-2-2b in models--google--gemma-2-2b/snapshots/COMMIT
        kept = [part.split("--", 1)[1] for part in folder.parts if part.startswith("models--")]
        names |= {folder.name, *(name.replace("--", "/") for name in kept)}
    return names


def _claimed(origin: Any) -> str | None:
    """The name in `_name_or_path`; of a path, which says nothing of an owner, its last part."""
    if not isinstance(origin, str) or not Path(origin).name:
        return None
    is_path = Path(origin).is_absolute() or origin.startswith(".") or origin.count("/") != 1
    return (Path(origin).name if is_path else origin).lower()
