"""What one of several processes does of a run, and where it may do so."""

from collections.abc import Sequence
from dataclasses import dataclass

from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.loading.sources import Source
from streamer.manifest import MANIFEST
from streamer.records import InputRange
from streamer.writing.commit import writers
from streamer.writing.names import SHARDS, is_shard, part_of
from streamer.writing.storage.base import Storage


@dataclass(frozen=True, slots=True)
class Shard:
    """What one of several processes, each with a device of its own, does of a run.

    It reads a range of the input, names its parts so that those of all shards are in order, and has
    its lock, log, status and manifest in a folder of its own, `RUN/shards/NAME`.

    :raises UsageError: a shard cannot have that name.
    """

    name: str
    """Small letters and digits, as `s0001`. The names of all shards sort as their ranges do, and
    are equally long."""
    range: InputRange

    def __post_init__(self) -> None:
        if not is_shard(self.name):
            raise UsageError(
                f"a shard cannot be called {self.name!r}: its name is a small letter, and then "
                f"small letters and digits, as s0001"
            )


def check_shard(config: RunConfig) -> None:
    """Return if one of several processes can do a part of this run.

    :raises UsageError: it cannot.
    """
    if config.out is None:
        raise UsageError("a shard writes into the run directory of others: give its path as out")
    if config.follow:
        raise UsageError("what is followed has no end, so it cannot be cut into shards")
    if config.kind == "auto":
        raise UsageError("shards must agree on the kind of the records: give it as kind")


def check_range(part: InputRange, sources: Sequence[Source]) -> None:
    """Return if the bounds of `part` are in `sources`.

    :raises UsageError: they are not.
    """
    names = [source.name for source in sources]
    for bound in (part.begin, part.end):
        if bound is not None and bound.source not in names:
            raise UsageError(
                f"a shard begins or ends in {bound.source}, which is not among its inputs: "
                f"{', '.join(names[:3])}{', …' * (len(names) > 3)}. Name it as the inputs do."
            )


def refuse_whole_run(storage: Storage, leads: str) -> None:
    """Return if no whole run is or was in `storage`, whose rows a shard would write once more.

    :raises UsageError: there is one.
    """
    where = storage.location
    whole = (file for file, shard in _parts(storage, leads).items() if not shard)
    if found := MANIFEST if MANIFEST in _files(storage) else next(whole, None):
        raise UsageError(
            f"{where} holds a run that is not cut into shards ({where}/{found}), and a shard would "
            f"write rows that it has. Give all shards another directory as out."
        )


def refuse_orphans(storage: Storage, leads: str, shard: str) -> None:
    """Return if the new `shard` has no parts in `storage`, whose rows it would write once more.

    :raises UsageError: it has, from before its folder was removed.
    """
    where = storage.location
    found = next((file for file, of in _parts(storage, leads).items() if of == shard), None)
    if found:
        raise UsageError(
            f"{where}/{found} is a part of the shard {shard}, of which {where}/{SHARDS}/{shard} "
            f"lacks the manifest. Put that back to resume it, or remove the shard's parts of all "
            f"tables."
        )


def _parts(storage: Storage, leads: str) -> dict[str, str]:
    """The parts of the leading table, and the shard that each is of."""
    parts = {file: part_of(file.rpartition("/")[2]) for file in _files(storage, leads)}
    return {file: part.shard for file, part in parts.items() if part}


def _files(storage: Storage, folder: str = "") -> Sequence[str]:
    """Those directly in `folder`.

    :raises UsageError: it cannot be read.
    """
    try:
        return storage.list(folder)
    except OSError as error:
        raise UsageError(f"cannot read {storage.location}: {error}. Make it readable.") from None


def refuse_shards(storage: Storage) -> None:
    """Return if there are no shards in `storage`, whose rows a whole run would write once more.

    :raises UsageError: there are.
    """
    try:
        found = [names.shard for names in writers(storage) if names.shard]
    except OSError:  # `check_free` says what it is
        return
    if found:
        raise UsageError(
            f"{storage.location} holds shards of a run ({', '.join(found[:3])}"
            f"{', …' * (len(found) > 3)}), and a whole run would write rows that they have. Choose "
            f"another directory with --out, or go on with the shards."
        )
