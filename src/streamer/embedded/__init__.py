"""The model, SAEs and records that ship with the package, so that everything runs offline.

`MODEL` is a Hugging Face directory, `SAES` the template of three SAELens directories, `RECORDS` a
directory of contrast records. `MODEL_CARD.md` beside this file says how they were made and
measured; `python -m training.build` makes them again.
"""

from pathlib import Path

_HERE = Path(__file__).resolve().parent

NAME = "streamer-embedded"
"""What the SAEs' metadata call the model."""
MODEL: Path = _HERE / "model"
SAES: str = str(_HERE / "saes" / "layer_{layer}")
RECORDS: Path = _HERE / "records"
LAYERS: tuple[int, ...] = (1, 3, 5)
