"""python -m tests.airflow build | lock"""

from __future__ import annotations

import click

from tests.airflow import environments


@click.group(help=__doc__)
def main() -> None: ...


@main.command()
def build() -> None:
    """Make the environment of every Airflow release that is tested, and print where they are."""
    try:
        for version in environments.tested():
            click.echo(f"{version}\t{environments.ensure(environments.RELEASES[version]).python}")
    except environments.NotReady as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("versions", nargs=-1)
def lock(versions: tuple[str, ...]) -> None:
    """Renew the constraints files, of all releases or of VERSIONS."""
    environments.lock(versions)


if __name__ == "__main__":
    main(prog_name="python -m tests.airflow")
