"""One frozen tree of settings, read once: environment (`GATEWAY_…`) over a TOML file over defaults.

Units stand in the names. Secrets are given by file path, never by value.
"""

import re
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from gateway.app.context import Limits
from gateway.app.providers import FIRST_PROVIDER
from gateway.core.rota import RotaRules

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_OURS = frozenset({  # what an authorization request is made of; nobody may replace it
    "client_id", "response_type", "response_mode", "redirect_uri", "scope", "state", "nonce", "code_challenge",
    "code_challenge_method", "request", "request_uri",
})  # fmt: skip
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PROVIDER = re.compile(r"[a-z][a-z0-9-]{0,31}")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Api(_Part):
    """Where people's browsers, the CLI and pipelines reach the HTTP API."""

    host: str = "127.0.0.1"
    port: int = 8420
    public_url: str = ""  # what clients type; default http(s)://host:port
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    behind_tls_proxy: bool = False  # a proxy on this machine terminates TLS; needed to listen beyond loopback without

    @field_validator("public_url")
    @classmethod
    def _as_browsers_say_it(cls, url: str) -> str:
        """Proofs and forms are held against it, letter by letter (RFC 6454 §6.2)."""
        if not url:
            return url
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if (
            parts.scheme not in _DEFAULT_PORTS
            or not host
            or not url.isascii()
            or parts.query
            or parts.fragment
            or "@" in url
        ):
            raise ValueError("is an address such as https://gw.example.org, a name in other letters as xn--…")
        named = f"[{host}]" if ":" in host else host
        place = named if port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{named}:{port}"
        return f"{parts.scheme}://{place}{parts.path.rstrip('/')}"


class Ssh(_Part):
    """The SSH door."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 8422
    public_host: str = ""  # default host
    post_quantum_only: bool = False  # no key exchange but ML-KEM with X25519: shuts out older clients


class Postgres(_Part):
    """The PostgreSQL door. Without a certificate of your own, one is made and the CLI pins its CA."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 8432
    public_host: str = ""
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_ca_file: Path | None = None
    authentication: Literal["scram", "password"] = "password"  # how clients show their ticket
    client_certificates: bool = False  # whether people may come with one of gw connect --certificate
    examine_targets: bool = True  # every day, and whenever their entry in the catalogue changes


class Oidc(_Part):
    """An identity provider. `issuer` "" is none."""

    issuer: str = ""
    label: str = ""  # what people are shown where they choose; default its name
    client_id: str = "gw"
    client_secret_file: Path | None = None
    scopes: str = "openid profile email"
    groups_claim: str = "groups"
    name_claim: str = "preferred_username"
    parameters: dict[str, str] = Field(default_factory=dict)  # added to the authorization request
    scim: Literal["off", "people", "groups"] = "off"  # who may come at all; and in which groups
    scim_external_id_claim: str = "sub"
    name_suffix: str | None = None  # of its people's names here; default "" for [oidc], ".NAME" for [providers.NAME]
    group_prefix: str | None = None  # of their groups here; default "" for [oidc], "NAME/" for [providers.NAME]


class Rota(_Part):
    """Where shifts come from, and how they are judged."""

    files: tuple[Path, ...] = ()
    ical_feeds: tuple[str, ...] = ()  # SERVICE=URL or SERVICE=PATH, each
    ical_people: dict[str, str] = Field(default_factory=dict)  # attendee or summary -> user name
    refresh_seconds: int = 60
    grace_before_minutes: int = 15
    grace_after_minutes: int = 30
    max_escalation_level: int = 2

    def rules(self) -> RotaRules:
        """The same, as the core knows them."""
        return RotaRules(
            grace_before=timedelta(minutes=self.grace_before_minutes),
            grace_after=timedelta(minutes=self.grace_after_minutes),
            max_level=self.max_escalation_level,
        )


class Recordings(_Part):
    """Recordings are encrypted; the index that makes statements searchable is not (0600, in state_dir)."""

    index: bool = True


class Notify(_Part):
    """Loud things go here. A webhook file holds one https URL (a secret)."""

    webhook_url_files: dict[str, Path] = Field(default_factory=dict)  # channel -> file; `default` catches the rest
    timeout_seconds: float = 5.0


class Bounds(_Part):
    """The gateway's own limits; policy can only be stricter."""

    longest_grant_hours: float = 12
    ticket_minutes: float = 60
    cli_credential_hours: float = 12
    ssh_certificate_minutes: float = 60
    web_session_hours: float = 8
    device_code_minutes: float = 10
    api_token_days: int = Field(default=90, ge=1, le=366)
    emergency_minutes: float = 30  # a sign-in by passkey while the provider is down
    emergency_groups_days: float = 7  # how old the provider's last word about somebody may be then
    log_wait_seconds: float = 5
    gateway_silent_seconds: float = 30

    def limits(self) -> Limits:
        """The same, as the use cases know them."""
        return Limits(
            longest_grant=timedelta(hours=self.longest_grant_hours),
            ticket_lifetime=timedelta(minutes=self.ticket_minutes),
            cli_credential_lifetime=timedelta(hours=self.cli_credential_hours),
            ssh_certificate_lifetime=timedelta(minutes=self.ssh_certificate_minutes),
            web_session_lifetime=timedelta(hours=self.web_session_hours),
            device_code_lifetime=timedelta(minutes=self.device_code_minutes),
            api_token_lifetime=timedelta(days=self.api_token_days),
            emergency_lifetime=timedelta(minutes=self.emergency_minutes),
            emergency_groups_age=timedelta(days=self.emergency_groups_days),
            log_wait=timedelta(seconds=self.log_wait_seconds),
            gateway_silent_after=timedelta(seconds=self.gateway_silent_seconds),
        )


class Settings(BaseSettings):
    """Everything `gw serve` can be told. `state_dir` holds keys, recordings and, by default, the database."""

    model_config = SettingsConfigDict(
        env_prefix="GATEWAY_", env_nested_delimiter="__", frozen=True, extra="forbid", toml_file=None
    )

    state_dir: Path = Path("~/.local/state/gw")
    name: str = ""  # of this process in events; kept in state_dir when empty
    database_url: str = ""  # default: SQLite in state_dir
    database_url_file: Path | None = None  # the same from a file, where the URL holds a password
    log_origin: str = "gw.local/audit"
    catalogue_file: Path = Path("catalogue.yaml")
    policy_dir: Path = Path("policies")
    incidents_file: Path | None = None
    role_groups: dict[str, list[str]] = Field(  # group from claims -> roles in policy
        default_factory=lambda: {"engineers": ["engineer"], "leads": ["lead"], "auditors": ["auditor"]}
    )
    api: Api = Api()
    ssh: Ssh = Ssh()
    postgres: Postgres = Postgres()
    oidc: Oidc = Oidc()
    providers: dict[str, Oidc] = Field(default_factory=dict)  # more identity providers, by name
    rota: Rota = Rota()
    recordings: Recordings = Recordings()
    notify: Notify = Notify()
    limits: Bounds = Bounds()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over environment over file."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @model_validator(mode="after")
    def _plaintext_stays_on_loopback(self) -> "Settings":
        exposed = self.api.host not in LOOPBACK
        if exposed and not (self.api.tls_cert_file or self.api.behind_tls_proxy):
            raise ValueError(
                f"api.host {self.api.host} is reachable from outside: set api.tls_cert_file and api.tls_key_file, "
                "or api.behind_tls_proxy if a proxy on this machine does TLS"
            )
        return self

    @model_validator(mode="after")
    def _providers_are_told_apart(self) -> "Settings":
        for name, provider in self.providers.items():
            if not _PROVIDER.fullmatch(name) or name == FIRST_PROVIDER or not provider.issuer:
                raise ValueError(f"providers.{name[:40]}: needs an issuer and a name of a-z, 0-9, - that is not oidc")
        providers = self.identity_providers()
        taken = {name for of in providers.values() for name in of.parameters if name in _OURS}
        if taken:
            raise ValueError(f"parameters of an identity provider may not set {', '.join(sorted(taken))}")
        if len({provider.issuer for provider in providers.values()}) < len(providers):
            raise ValueError("two identity providers have the same issuer: whose people are they?")
        suffixes = list(self.name_suffixes().items())
        for name, suffix in suffixes:
            for other, longer in suffixes:
                if name != other and (suffix or not longer) and longer.endswith(suffix):
                    raise ValueError(f"names from {name} and from {other} could be the same: set name_suffix of one")
        return self

    def identity_providers(self) -> dict[str, Oidc]:
        """Each by its name; `[oidc]` is called oidc."""
        first = {FIRST_PROVIDER: self.oidc} if self.oidc.issuer else {}
        return {**first, **self.providers}

    def name_suffixes(self) -> dict[str, str]:
        """What the names of each provider's people end in."""
        return {
            name: of.name_suffix if of.name_suffix is not None else ("" if of is self.oidc else f".{name}")
            for name, of in self.identity_providers().items()
        }

    def group_prefix(self, name: str) -> str:
        """What the groups of one provider's people begin with."""
        of = self.identity_providers()[name]
        return of.group_prefix if of.group_prefix is not None else ("" if of is self.oidc else f"{name}/")

    def api_url(self) -> str:
        """What clients type."""
        scheme = "https" if self.api.tls_cert_file else "http"
        return self.api.public_url.rstrip("/") or f"{scheme}://{self.api.host}:{self.api.port}"

    def digest(self) -> str:
        """SHA-256 in hex, to tell that something was changed. Without the one setting that may hold a secret."""
        return sha256(self.model_dump_json(exclude={"database_url"}).encode()).hexdigest()

    def store_url(self) -> str:
        """The database's SQLAlchemy URL."""
        if self.database_url_file is not None:
            return self.database_url_file.read_text().strip()
        return self.database_url or f"sqlite:///{self.state_dir.expanduser() / 'gateway.db'}"


def load_settings(config_file: Path | None) -> Settings:
    """Read once. pydantic's ValidationError names each wrong key."""

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config_file)

    return FromFile()
