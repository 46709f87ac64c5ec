"""What must not be shown or written down: credentials inside addresses, tokens by their form, secrets by their name.

Comes in: any text. Goes out: the same text without them. Knows no library and no setting.
"""

import re

HIDDEN = "***"
_LOGIN = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*)://(?P<user>[^/\s@:]*)(?P<password>:[^/\s]*)?@")
_QUERY = re.compile(r"(?<=[?&;])(?P<name>[\w.%-]+)=(?P<value>[^&;\s]*[^&;\s:,.)'\"`])")
_SECRET_NAME = re.compile(
    r"token|secret|passw|pwd|signature|credential|auth|(access|api|account)[_.-]?key|^key$|^sig$", re.IGNORECASE
)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[opsu]_[A-Za-z0-9]{16,}")
"""Of Hugging Face, AWS and GitHub, as long as theirs are: shorter ones are names, as of a folder hf_checkpoints."""
_BEARER = re.compile(r"(?P<word>\bbearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_VARIABLE = re.compile(r"\b(?P<name>[A-Z][A-Z0-9_]*(?:TOKEN|SECRET|PASSWORD|KEY))=(?P<quote>['\"]?)[^\s'\"]+")
"""As a shell sets them."""


def hide_secrets(text: str) -> str:
    """Return a text in which no address holds a password, and no query of an address a token, key or signature.

    Tokens of well-known form, what follows `Bearer`, and variables whose names end in TOKEN, SECRET, PASSWORD or KEY
    are hidden too. What stands before `@` without a password is hidden for http and https only: elsewhere it may be a
    container.

    Example:
        hide_secrets("ftp://me:pw@host/x") -> "ftp://***@host/x"
        hide_secrets("https://host/x?sig=abc&v=2") -> "https://host/x?sig=***&v=2"
        hide_secrets("abfs://container@account/x") -> "abfs://container@account/x"
        hide_secrets("HF_TOKEN=abc Authorization: Bearer eyJhbGciOi") -> "HF_TOKEN=*** Authorization: Bearer ***"
    """
    text = _QUERY.sub(_without_value, _LOGIN.sub(_without_login, text))
    text = _VARIABLE.sub(rf"\g<name>=\g<quote>{HIDDEN}", _BEARER.sub(rf"\g<word>{HIDDEN}", text))
    return _TOKEN.sub(HIDDEN, text)


def _without_login(found: re.Match[str]) -> str:
    is_secret = found["password"] is not None or found["scheme"].lower() in ("http", "https")
    return f"{found['scheme']}://{HIDDEN}@" if is_secret else found[0]


def _without_value(found: re.Match[str]) -> str:
    return f"{found['name']}={HIDDEN}" if _SECRET_NAME.search(found["name"]) else found[0]
