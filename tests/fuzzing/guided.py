"""One target under atheris: what covers more code is kept, what raises is written to a file (see `hack/fuzz`).

python -m fuzzing.guided MODULE TARGET FOLDER [OPTIONS OF LIBFUZZER]
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

# In an environment of its own (build/fuzz-env), never in that of the tests.
import atheris  # type: ignore[import-not-found]


def main() -> None:
    module, name, folder, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["hortator"]):
        targets = importlib.import_module(module).TARGETS
    target = {one.name: one for one in targets}[name]
    corpus = Path(folder) / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = Path(folder) / "seeds"
    seeds.mkdir(exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (seeds / f"{number:03}").write_bytes(seed)

    def run(data: bytes) -> Any:
        target.run(data)

    atheris.Setup([sys.argv[0], *options, str(corpus), str(seeds)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
