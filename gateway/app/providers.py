"""The identity providers that this gateway is a relying party of, by name."""

from collections.abc import Iterable, Iterator

from gateway.app.identity import IdentityProvider
from gateway.core.errors import NotFound, Refusal, Unavailable

FIRST_PROVIDER = "oidc"  # the name of the one in [oidc]


class Providers:
    """In the order of the settings. None at all keeps sign-in closed."""

    def __init__(self, providers: Iterable[IdentityProvider] = ()) -> None:
        """ValueError when two share a name or an issuer: neither a callback nor an identity could be told apart."""
        self._by_name: dict[str, IdentityProvider] = {}
        issuers: set[str] = set()
        for provider in providers:
            if provider.name in self._by_name or provider.issuer in issuers:
                raise ValueError(f"two identity providers share the name or the issuer of {provider.name}")
            self._by_name[provider.name] = provider
            issuers.add(provider.issuer)

    def __iter__(self) -> Iterator[IdentityProvider]:
        """Each of them."""
        return iter(self._by_name.values())

    def named(self, name: str) -> IdentityProvider:
        """The one of that name; NotFound otherwise."""
        found = self._by_name.get(name)
        if found is None:
            raise NotFound(
                Refusal(
                    "unknown-provider",
                    f"There is no identity provider called {name[:60]!r}.",
                    next_steps=(f"There are: {', '.join(self._by_name) or 'none'}.",),
                )
            )
        return found

    def of_issuer(self, issuer: str) -> IdentityProvider | None:
        """The one that speaks for an issuer, None when it is not configured (any more)."""
        return next((provider for provider in self if provider.issuer == issuer), None)

    def chosen(self, name: str = "") -> IdentityProvider | None:
        """The one that was named, or the only one; None when a person must choose. Unavailable when there is none."""
        if not self._by_name:
            raise Unavailable(
                Refusal("no-provider", "No identity provider is configured, so nobody can sign in.", ("oidc.issuer",))
            )
        if name:
            return self.named(name)
        return next(iter(self)) if len(self._by_name) == 1 else None
