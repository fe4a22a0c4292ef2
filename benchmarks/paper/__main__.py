"""The paper's figures and claims on the playground: finished studies of several seeds → one page.

    equipoise study playground paper --seed 0 --out runs/paper/seed-0        # once per seed
    python benchmarks/paper runs/paper/seed-* --out runs/paper               # paper.html, numbers.json

`make paper` does both for three seeds.
"""

import argparse
import sys
from pathlib import Path

from equipoise.artefact import write_json, write_text
from equipoise.errors import EquipoiseError

sys.path.append(str(Path(__file__).parents[1]))  # where `studies` is

from page import render
from seeds import POLICIES
from studies.read import check_same, read_seed
from summary import numbers_of


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, help="directories of finished studies, one per seed")
    parser.add_argument("--out", type=Path, required=True, help="where paper.html and numbers.json go")
    arguments = parser.parse_args()
    try:
        seeds = sorted((read_seed(path, POLICIES) for path in arguments.studies), key=lambda seed: seed.seed)
        check_same(seeds, POLICIES)
        numbers = numbers_of(seeds)
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out / "numbers.json", numbers)
        write_text(arguments.out / "paper.html", render(numbers, seeds))
    except EquipoiseError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    for claim in numbers["claims"]:
        print(f"{claim['outcome']:>14}  {claim['claim']}")
    print(arguments.out / "paper.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
