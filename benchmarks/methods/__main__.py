"""The constrained methods beside each other on the playground: finished studies of several seeds → one page.

    equipoise study playground methods --seed 0 --out runs/methods/seed-0    # once per seed
    python benchmarks/methods runs/methods/seed-* --out runs/methods         # methods.html, numbers.json

`make methods` does both for three seeds. `--markdown` prints what docs/algorithms.md has of it.
"""

import argparse
import sys
from pathlib import Path

from equipoise.artefact import write_json, write_text
from equipoise.errors import EquipoiseError

sys.path.append(str(Path(__file__).parents[1]))  # where `studies` is

from page import expectations, markdown, render
from studies.read import check_same, read_seed
from tally import numbers_of, policies_in


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, help="directories of finished studies, one per seed")
    parser.add_argument("--out", type=Path, required=True, help="where methods.html and numbers.json go")
    parser.add_argument("--markdown", action="store_true", help="print the table for docs/algorithms.md")
    arguments = parser.parse_args()
    try:
        policies = policies_in(arguments.studies[0])
        seeds = sorted((read_seed(path, policies) for path in arguments.studies), key=lambda seed: seed.seed)
        check_same(seeds, policies)
        numbers = numbers_of(seeds)
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out / "numbers.json", numbers)
        write_text(arguments.out / "methods.html", render(numbers, seeds))
    except EquipoiseError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if arguments.markdown:
        print(markdown(numbers))
        print(expectations(numbers))
    for one in numbers["expectations"]:
        print(f"{one['outcome']:>14}  {one['claim']}")
    print(arguments.out / "methods.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
