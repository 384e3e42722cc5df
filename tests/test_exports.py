"""The public face: which names there are, and that each explains itself."""

import inspect
import re

import pytest

import streamer
from streamer import errors
from streamer.errors import StreamerError

NAMES = [
    "RunConfig",
    "RunFault",
    "StreamerError",
    "UsageError",
    "__version__",
    "load_config",
    "open_run",
    "run",
]


def test_these_names_and_no_others_are_exported():
    assert sorted(streamer.__all__) == NAMES


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__version__"])
def test_every_exported_name_has_a_docstring_of_its_own(name):
    said = vars(getattr(streamer, name)).get("__doc__") or getattr(streamer, name).__doc__
    assert said
    assert len(said.split()) > 5


def test_the_version_is_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", streamer.__version__)


@pytest.mark.parametrize("name", ["open_run", "run"])
def test_a_call_says_what_it_raises(name):
    assert ":raises UsageError:" in inspect.getdoc(getattr(streamer, name))


def test_the_tree_of_errors_is_in_their_docstring():
    import streamer.running.shutdown  # noqa: F401

    def below(error: type[Exception]) -> list[type[Exception]]:
        return [one for child in error.__subclasses__() for one in (child, *below(child))]

    mine = [one for one in below(StreamerError) if one.__module__.startswith("streamer.")]
    assert len(mine) >= 3
    for error in mine:
        assert re.search(rf"[├└]── {error.__name__}\b", errors.__doc__), error
