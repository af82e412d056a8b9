"""`python -m watcher.simulator`: the simulator without the rest."""

from watcher.simulator.command import simulate

if __name__ == "__main__":
    simulate(prog_name="python -m watcher.simulator")
