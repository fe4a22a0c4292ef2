"""Samples per second of PPO-Lag here, in the original's structure, and of TRL's trainers, as ratios.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/peers.py --sizes 1m 10m --micro-batch 8 --out peers.json

Each peer is a process of its own with its own copy of the models; they take steps in turn, one waiting while
another works, so that all of them see the same machine. Medians over `--rounds` steps after one that warms up.
TRL's peers are left out where `trl` is not installed.
"""

import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from common import RANK, Case, arguments, cases, facts, median, print_table, spread, write_result
from ours import run_ours

OURS, SHARED = "equipoise", "equipoise-lora"
Turn = Callable[[float], None]


class PeerError(RuntimeError):
    """A peer died."""


class Peer:
    """A process that takes one step whenever it is asked to."""

    def __init__(self, name: str, case: Case, logs: Path) -> None:
        self.name, self.log = name, logs / f"{name}.log"
        self.seconds: list[float] = []
        self.lengths: list[float] = []
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ours", "original"])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(name, case, theirs, self.log), daemon=True)
        self.process.start()
        theirs.close()

    def wait_until_loaded(self) -> None:
        self._answer()

    def step(self, counts: bool) -> None:
        self.pipe.send("step")
        seconds, length = self._answer()
        if counts:
            self.seconds.append(seconds)
            self.lengths.append(length)

    def stop(self) -> None:
        self.process.kill()  # training stages finish their step when they are only terminated
        self.process.join()

    def _answer(self) -> tuple[float, float]:
        try:
            answer: tuple[float, float] = self.pipe.recv()
            return answer
        except EOFError:
            last = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
            raise PeerError(f"{self.name} stopped:\n" + "\n".join(last)) from None


def work(name: str, case: Case, pipe: Connection, log: Path) -> None:
    """The life of a peer: wait, step, report."""
    began = 0.0

    def turn(length: float) -> None:
        nonlocal began
        pipe.send((case.now() - began, length))
        pipe.recv()
        began = case.now()

    torch.set_num_threads(case.threads)
    with log.open("w", encoding="utf-8") as file:
        for stream in (1, 2):  # for good, so that the end of a peer that fails is there too
            os.dup2(file.fileno(), stream)
        run(name, case, turn)


def run(name: str, case: Case, turn: Turn) -> None:
    if name in (OURS, SHARED):
        case = replace(case, rank=RANK if name == SHARED else None)
        with tempfile.TemporaryDirectory() as folder:
            run_ours(case, Path(folder) / "run", lambda step: turn(statistics.fmean(step.responses or [0])))
    elif name == "original":
        from original import run_original

        run_original(case, turn)
    else:
        import trl_peers

        {
            "trl-ppo": trl_peers.run_trl_ppo,
            "trl-grpo": trl_peers.run_trl_grpo,
            "trl-rloo": trl_peers.run_trl_rloo,
        }[name](case, turn)


PEERS = (OURS, SHARED, "original", "trl-ppo", "trl-grpo", "trl-rloo")


def compare(case: Case, names: list[str], rounds: int) -> list[Peer]:
    """Let peers take steps in turn; the order is reversed every round."""
    peers: list[Peer] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            peers += [Peer(name, case, Path(folder)) for name in names]
            for peer in peers:
                peer.wait_until_loaded()
            for number in range(rounds + 1):
                for peer in peers if number % 2 else reversed(peers):
                    peer.step(counts=number > 0)
        finally:
            for peer in peers:
                peer.stop()
    return peers


def main() -> None:
    parser = arguments(__doc__, sizes=("1m", "10m"))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    args = parser.parse_args()
    names = [OURS, *(name for name in args.peers if name != OURS)]
    if find_spec("trl") is None:
        print("trl is not installed: its PPO, GRPO and RLOO are left out (see benchmarks/README.md).")
        names = [name for name in names if not name.startswith("trl")]
    rows, results = [], []
    for case in cases(args):
        peers = compare(case, names, args.rounds)
        ours = median(peers[0].seconds)
        for peer in peers:
            step, length = median(peer.seconds), statistics.fmean(peer.lengths)
            ratio = median([a / b for a, b in zip(peer.seconds, peers[0].seconds, strict=True)])
            rows.append(
                [
                    case.size,
                    case.lengths,
                    peer.name,
                    f"{length:.0f}" if length else "",
                    f"{step:.3f} ± {spread(peer.seconds):.0%}",
                    f"{case.batch / step:.2f}",
                    "" if peer.name == OURS else f"{ratio:.2f}",
                ]
            )
            results.append(
                {
                    **facts(case),
                    "peer": peer.name,
                    "seconds": peer.seconds,
                    "mean_lengths": peer.lengths,
                    "samples_per_second": case.batch / step,
                    "ours_is_faster_by": step / ours,
                    "median_of_ratios": ratio,
                }
            )
        medians = ", ".join(f"{peer.name} {median(peer.seconds):.3f} s" for peer in peers)
        print(f"{case.size} {case.lengths}: {medians}", flush=True)
        write_result(args.out, results)
    head = ["model", "lengths", "peer", "mean", "step (s)", "samples/s", "ours is faster by"]
    print_table(f"{args.threads} threads, {args.device} {args.precision}, batch {args.batch}", head, rows)


if __name__ == "__main__":
    main()
