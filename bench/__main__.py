"""Every benchmark, one after another, each in a process of its own.

python -m bench [--records PATH] [--tokenizer DIRECTORY] [--shape cpu|gpu] [--device NAME]
                [--bf16]
"""

import argparse
import subprocess
import sys
import time

from bench.options import add_data_options

DATA = ("--records", "--tokenizer", "--shape")
RUN = (*DATA, "--device", "--bf16")
SUITE: dict[str, tuple[str, ...]] = {
    "methods": DATA,
    "efficiency": RUN,
    "batch_sizes": RUN,
    "overlap": RUN,
    "sharing": RUN,
    "row_length": RUN,
    "forward": RUN,
    "precision": RUN,
    "geometry": ("--device",),
    "analysis": ("--device",),
    "noise": ("--device",),
    "draws": RUN,
    "teams": RUN,
    "host": RUN,
    "scale": ("--device",),
}
"""Which of our options each benchmark has."""
FULL: dict[str, tuple[str, ...]] = {
    "methods": ("--sample", "64", "--streamer-records", "0"),
    "efficiency": ("--sample", "20000"),
    "batch_sizes": ("--sample", "1024"),
    "sharing": ("--sample", "4096"),
    "row_length": ("--sample", "4096"),
    "forward": ("--sample", "512"),
    "precision": ("--sample", "4096"),
    "draws": ("--sample", "4096"),
    "scale": ("--sizes", "1000,10000,100000,1000000"),
}
"""What is asked of a GPU beyond the defaults, which two cores can do."""
ONCE = ("--repeats", "1")
SHORT: dict[str, tuple[str, ...]] = {
    "methods": ONCE,
    "efficiency": ("--repeats", "4", "--sample", "128"),
    "batch_sizes": (*ONCE, "--sample", "32"),
    "overlap": ("--repeats", "2"),
    "sharing": ONCE,
    "row_length": ONCE,
    "forward": (*ONCE, "--sample", "16"),
    "precision": (*ONCE, "--sample", "24"),
    "draws": ("--repeats", "3"),
    "teams": (*ONCE, "--sample", "52"),
    "scale": ONCE,
}
"""What is asked of two cores, so that all take less than a quarter of an hour."""


def main() -> None:
    """Run all and say how long each took; stops at the first that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument("--shape", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    given = {f"--{name}": value for name, value in vars(options).items() if value}
    begin = time.monotonic()
    for name, known in SUITE.items():
        command = [sys.executable, "-m", f"bench.{name}"]
        for option in known:
            if option in given:
                command += [option] if given[option] is True else [option, str(given[option])]
        command += (FULL if options.shape == "gpu" else SHORT).get(name, ())
        started = time.monotonic()
        if code := subprocess.run(command, check=False).returncode:
            raise SystemExit(code)
        print(f"{name} took {time.monotonic() - started:.0f} s\n", flush=True)
    print(f"all took {(time.monotonic() - begin) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
