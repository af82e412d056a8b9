"""Takes secrets out of other people's words: logs print connection strings, tokens and whole environments.

It masks too much rather than too little. Every repetition is bounded, so that no text makes it slow.
"""

from __future__ import annotations

import re
from typing import Final

from dbtrun.text import clean, plain

MASK: Final = "***"
WINDOW: Final = 16_000
"""Characters before the end of a log that are looked at: more than is kept, so that no secret is met in its middle."""

PHRASE: Final = r"pass(?:word|wd|phrase|code)|pwd|secret|credentials?"
KEYWORD: Final = (
    rf"{PHRASE}|token|api[-_ ]?key|(?:access|private|account|shared|encryption|signing|secret|auth)[-_ ]?key"
    r"|client[-_]?key|sas|sig(?:nature)?|session[-_]?id|nonce|keyfile[-_]?json"
)
NAME_END: Final = r"[\w.-]{0,60}[\"'\\\]]{0,6}"
"""What may follow the keyword in the name: `DBT_ENV_SECRET_GIT`, `"password"`, `os.environ['TOKEN']`."""
SEPARATOR: Final = r"\s{0,20}(?:=>|:=|==?|:|%3[ADad])\s{0,40}(?:[|>][-+]?\s{1,40})?"
QUOTED: Final = (
    r"(?P<quote>\\{0,3}\"(?:\"\")?|\\{0,3}'(?:'')?|`)"
    r"(?:(?!(?P=quote))(?:\\.|[\s\S])){0,4000}(?:(?P=quote)|$)"
)

MIXED: Final = r"(?=[A-Z0-9]{0,80}[a-z])(?=[a-z0-9]{0,80}[A-Z])(?=[A-Za-z]{0,80}\d)"
"""Ahead is a word with small letters, capital letters and digits."""

RULES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # A PEM block, also one whose begin or end was cut off.
    (re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?:(?!-----END)[\s\S])*(?:-----END[^\n]{0,80})?"), MASK),
    (re.compile(r"\A(?:(?!-----)[\s\S])*-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----"), MASK),
    # Headers: the whole line.
    (re.compile(rf"(?i)(\b(?:proxy-)?authorization|\b(?:set-)?cookie)({NAME_END}{SEPARATOR})[^\n]+"), rf"\1\2{MASK}"),
    (re.compile(r"(?i)\b(bearer)\s{1,5}(?=[^\s]*[A-Z0-9_.-])[\w.~+/=-]{6,}"), rf"\1 {MASK}"),
    (re.compile(r"\b([Bb]asic|BASIC|[Tt]oken|TOKEN)\s{1,5}(?=\S{0,200}[A-Z0-9_=])[\w.~+/=-]{8,}"), rf"\1 {MASK}"),
    # Users and passwords in addresses: up to the last @, as people leave their slashes and @s unescaped.
    (re.compile(r"(://)(?=[^\s/?#]{0,2000}[:@])\S{0,2000}@"), rf"\1{MASK}@"),
    # `password = "…"`, `"token": "…"`, `secret=…`; the rest of the line where a password may have spaces.
    (re.compile(rf"(?i)((?:{KEYWORD}){NAME_END}{SEPARATOR})[bBrRuUfF]?{QUOTED}"), rf"\1{MASK}"),
    (re.compile(rf"(?i)((?:{PHRASE}){NAME_END}{SEPARATOR})(?!\*\*\*)[^\n]+"), rf"\1{MASK}"),
    (re.compile(rf"(?i)((?:{KEYWORD}){NAME_END}{SEPARATOR})(?!\*\*\*)\S+"), rf"\1{MASK}"),
    # `--password …`, `PASSWORD '…'`, `IDENTIFIED BY …`
    (re.compile(rf"(?i)(--?[\w-]{{0,40}}(?:{KEYWORD})[\w-]{{0,40}}\s{{1,5}})(?:{QUOTED}|\S+)"), rf"\1{MASK}"),
    (re.compile(rf"(?i)(\b(?:{PHRASE}|identified\s{{1,5}}by)\s{{1,5}}){QUOTED}"), rf"\1{MASK}"),
    (re.compile(r"(?i)(\bidentified\s{1,5}by\s{1,5})\S+"), rf"\1{MASK}"),
    # Tokens that are known by their form.
    (re.compile(r"\bdbt[a-z]{1,2}_[\w-]{16,}"), MASK),
    (re.compile(r"\b(?:gh[a-z]_|github_pat_|gl[a-z]{2,6}-|xox[a-z]-|npm_|pypi-|SG\.|AT[AC]TT)[\w.=-]{12,}"), MASK),
    (re.compile(r"\b(?:[rsp]k[-_](?:live|test|ant|proj)[-_]|sk-|ya29\.|AIza|dapi|pat-|hv[sb]\.)[\w.-]{16,}"), MASK),
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA|ABIA|ACCA)[A-Z0-9]{12,}"), MASK),
    (re.compile(r"\beyJ[\w-]{8,4000}(?:\.[\w-]{0,4000}){0,4}"), MASK),
    # Whatever is long and looks drawn by lot: no name and no path does.
    (re.compile(rf"(?<![A-Za-z0-9]){MIXED}[A-Za-z0-9+/]{{36,}}={{0,2}}"), MASK),
)  # fmt: skip


def scrub(text: str, secret: str = "") -> str:
    """The text without secrets: those that are known by their name, place or form, and `secret` itself.

    Args:
        text: plain, as `plain` and `clean` leave it: a control character would hide a secret from the rules.
        secret: the connection's own token.
    """
    if not text:  # what dbt Cloud says of a run that is well, thousands of times a minute
        return text
    if secret:
        text = text.replace(secret, MASK)
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    return text


def told(text: str, limit: int, secret: str = "") -> str:
    """Words of dbt Cloud as a person may see them: plain, without secrets, at most `limit` characters."""
    # Scrubbed before it is cut: half of a secret is not known by its form any more.
    return clean(scrub(clean(text, 4 * limit), secret), limit)


def log_tail(log: str, limit: int, secret: str = "") -> str:
    """The end of a log, the same way: from the beginning of a line, where one fits."""
    text = plain(log[-4 * WINDOW :])
    if len(log) > 4 * WINDOW or len(text) > WINDOW:
        # What is left of the first line may be the second half of a secret.
        text = text[-WINDOW:].partition("\n")[2]
    safe = scrub(text, secret)
    if len(safe) <= limit:
        return safe
    cut = safe[-(limit - 2) :]
    head, newline, rest = cut.partition("\n")
    return f"…\n{rest if newline and len(head) < len(cut) // 2 else cut}"
