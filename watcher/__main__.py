"""`python -m watcher`: the same commands as `dbtrun`."""

from dbtrun.cli.main import main

if __name__ == "__main__":
    main(prog_name="python -m watcher")
