"""What `test_engine` runs in each of two processes: python two_engines.py WORLD OUT URL."""

import sys
from pathlib import Path

from train_models import ppo

from equipoise.train.ppo_lag import train_ppo_lag

if __name__ == "__main__":
    world, out, url = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    quick = {"lr": 1e-2, "schedule": "constant", "warmup": 0.0}
    sampler = {"type": "vllm_server", "url": url}
    train_ppo_lag(ppo(out, world, steps=2, actor_optimizer=quick, lora={"r": 4, "alpha": 8}, sampler=sampler))
