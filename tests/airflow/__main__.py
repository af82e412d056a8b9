"""python -m tests.airflow build | lock"""

from __future__ import annotations

import click

from tests.airflow import environments


@click.group(help=__doc__)
def main() -> None: ...


@main.command()
def build() -> None:
    """Make the environment of every Airflow release that is missing, and print where they are."""
    try:
        for version, release in environments.RELEASES.items():
            click.echo(f"{version}\t{environments.ensure(release).python}")
    except environments.NotReady as error:
        raise click.ClickException(str(error)) from None


@main.command()
def lock() -> None:
    """Renew the constraints files."""
    environments.lock()


if __name__ == "__main__":
    main(prog_name="python -m tests.airflow")
