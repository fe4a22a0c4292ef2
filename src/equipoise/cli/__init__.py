"""The `equipoise` command: one subcommand per stage; it maps recipes and flags to configs, and nothing else."""
