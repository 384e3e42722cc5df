"""What every benchmark shares: the machine it ran on, its table, its file."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
WIDTH = 160
"""Of a table that goes to no terminal."""


def machine() -> dict[str, Any]:
    """What this machine is, without its name."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return {
        "cpu": cpu,
        "cores": len(psutil.Process().cpu_affinity() or []) or psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def report(name: str, rows: Sequence[Mapping[str, Any]], **settings: Any) -> None:
    """Print `rows` as a table and write them to bench/results/`name`.json."""
    table = Table(title=name, title_justify="left")
    for key in rows[0]:
        table.add_column(key.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{v:,.2f}" if isinstance(v, float) else str(v) for v in row.values()))
    console = Console()
    Console(width=console.width if console.is_terminal else WIDTH).print(table)
    RESULTS.mkdir(exist_ok=True)
    content = {"benchmark": name, "machine": machine(), "settings": settings, "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
