"""Secrets, and the lines in which people's logs show them."""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable
from typing import Final

ALNUM: Final = string.ascii_letters + string.digits
ODD: Final = ALNUM + "!#$%^&*+=_.~-:;?,/@"
WORDS: Final = (
    "Running with dbt=1.8.7", "Found 12 models, 31 tests, 4 sources", "Concurrency: 4 threads (target='default')",
    "1 of 12 START sql table model analytics.orders .......... [RUN]", "Encountered an error:", "Runtime Error",
    "  Could not find profile named 'shop'", "fatal: could not read from remote repository", "Done. PASS=3 ERROR=1",
    "\x1b[31mDatabase Error in model orders (models/marts/orders.sql)\x1b[0m", "  compiled code at target/run/a.sql",
)  # fmt: skip


class Planter:
    """Makes secrets and the lines that people's logs show them in."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - no cryptography

    def letters(self, alphabet: str, low: int, high: int) -> str:
        return "".join(self.random.choices(alphabet, k=self.random.randint(low, high)))

    def secret(self) -> str:
        return self.letters(ALNUM, 12, 40)

    def odd(self) -> str:
        """A password as managers make them: no space and no quote."""
        return self.letters(ALNUM, 4, 8) + self.letters(ODD, 8, 20) + self.letters(ALNUM, 4, 8)

    def name(self) -> str:
        stem = self.random.choice(
            ["password", "PASSWORD", "passwd", "Pwd", "passphrase", "secret", "client_secret", "token", "access_token",
             "api_key", "apikey", "API-KEY", "private_key", "aws_secret_access_key", "AccountKey", "credentials",
             "sig", "X-Amz-Signature", "private_key_passphrase", "refresh_token", "accessKey", "DBT_ENV_SECRET"]
        )  # fmt: skip
        return (
            self.random.choice(["", "", "SNOWFLAKE_", "db.", "my-"]) + stem + self.random.choice(["", "", "_2", "_GIT"])
        )

    def assignment(self) -> tuple[str, str]:
        secret, name = self.odd(), self.name()
        quote = self.random.choice(['"', "'", "", '\\"'])
        separator = self.random.choice(["=", ": ", " = ", ":", "=>", " := "])
        named = f"{quote}{name}{quote}" if self.random.random() < 0.5 else name
        return secret, f"{named}{separator}{quote}{secret}{quote}"

    def phrase(self) -> tuple[str, str]:
        secret = " ".join(self.letters(ALNUM, 6, 9) for _ in range(3))
        return secret, f"{self.random.choice(['password', 'passphrase'])}: {self.random.choice(['', chr(34)])}{secret}"

    def address(self) -> tuple[str, str]:
        secret = self.odd()
        scheme = self.random.choice(["https", "postgres", "snowflake", "postgresql+psycopg2", "mongodb+srv"])
        user = self.random.choice(["loader", "x-access-token", "oauth2", ""])
        return secret, f"fatal: unable to access '{scheme}://{user}:{secret}@db.example.com:5432/shop?sslmode=on'"

    def query(self) -> tuple[str, str]:
        secret = self.secret()
        key = self.random.choice(["sig", "token", "access_token", "X-Amz-Signature", "api_key"])
        return secret, f"GET https://acct.blob.core.windows.net/c/f.csv?sv=2024&{key}={secret}&x=1 403"

    def header(self) -> tuple[str, str]:
        secret = self.random.choice([self.secret(), base64.b64encode(self.secret().encode()).decode()])
        kind = self.random.choice(["Bearer ", "Basic ", "Token ", "token ", ""])
        quote = self.random.choice(["", "'", '"'])
        return secret, f"> {quote}Authorization{quote}: {quote}{kind}{secret}{quote}"

    def flag(self) -> tuple[str, str]:
        secret = self.odd()
        return secret, f"+ snowsql --user x {self.random.choice(['--password', '--token', '--api-key'])} {secret} -q 1"

    def sql(self) -> tuple[str, str]:
        secret = self.odd()
        return secret, self.random.choice(["CREATE USER a PASSWORD '{}'", "alter user a identified by '{}' x"]).format(
            secret
        )

    def form(self) -> tuple[str, str]:
        """A token that is known by its form alone."""
        choice, letters = self.random.choice, self.letters
        forms: list[Callable[[], str]] = [
            lambda: f"dbt{choice('csu')}_{letters(ALNUM + '_-', 30, 44)}",
            lambda: choice(["ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "npm_"]) + letters(ALNUM, 20, 40),
            lambda: f"xoxb-{letters(string.digits, 11, 13)}-{letters(ALNUM, 24, 24)}",
            lambda: "AKIA" + letters(string.ascii_uppercase + string.digits, 16, 16),
            lambda: "AIza" + letters(ALNUM + "_-", 35, 35),
            lambda: "dapi" + letters("0123456789abcdef", 32, 32),
            lambda: "eyJ" + ".".join(letters(ALNUM + "_-", 20, 90) for _ in range(3)),
            lambda: "a1B" + letters(ALNUM, 40, 64),
        ]
        secret = choice(forms)()
        return secret, f"{choice(['export X=', 'using ', '(', 'key '])}{secret}{choice(['', ')', ' now'])}"

    def pem(self) -> tuple[str, str]:
        lines = [self.letters(ALNUM + "+/", 64, 64) for _ in range(self.random.randint(2, 20))]
        kind = self.random.choice(["RSA PRIVATE KEY", "PRIVATE KEY", "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY"])
        end = f"\n-----END {kind}-----" if self.random.random() < 0.7 else ""
        return self.random.choice(lines), f"-----BEGIN {kind}-----\n" + "\n".join(lines) + end

    def yaml_block(self) -> tuple[str, str]:
        secret = self.odd()
        return secret, f"      {self.random.choice(['password', 'token', 'private_key'])}: |\n        {secret}"

    def coloured(self) -> tuple[str, str]:
        secret = self.odd()
        half = len(secret) // 2
        return secret, f"password=\x1b[31m{secret[:half]}\x1b[0m{secret[half:]}\x1b[0m"

    def log(self) -> tuple[list[str], str]:
        """A log, and the secrets in it."""
        kinds: list[Callable[[], tuple[str, str]]] = [
            self.assignment, self.assignment, self.phrase, self.address, self.query, self.header, self.flag, self.sql,
            self.form, self.form, self.pem, self.yaml_block, self.coloured,
        ]  # fmt: skip
        lines: list[str] = []
        secrets: list[str] = []
        for _ in range(self.random.randint(1, 6)):
            lines += self.random.choices(WORDS, k=self.random.choice([0, 1, 3, 30]))
            secret, line = self.random.choice(kinds)()
            secrets.append(secret)
            stamp = self.random.choice(["", "20:41:07  ", "2026-11-26T05:24:14Z [error] "])
            lines.append(stamp + line + self.random.choice(["", "\r", " \x1b[0m"]))
        lines += self.random.choices(WORDS, k=self.random.choice([0, 2, 60]))
        return secrets, "\n".join(lines)


def shown_parts(secret: str, text: str) -> bool:
    """Whether any 8 characters in a row of the secret are in the text."""
    return any(secret[at : at + 8] in text for at in range(len(secret) - 7))
