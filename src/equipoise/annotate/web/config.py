"""Settings of `annotate serve`. Those of a project are in `annotate.config`: they live in its database."""

from typing import Self

from pydantic import Field, HttpUrl, model_validator

from equipoise.config import Config


class RedteamPolicy(Config):
    """The policy that the red-team page talks to, and what scores its answers."""

    url: HttpUrl = Field(description="OpenAI-compatible endpoint of the policy, up to and with /v1.")
    model: str = Field(min_length=1, description="Model name to ask for.")
    token_variable: str | None = Field(
        None, description="Environment variable that holds the endpoint's bearer token; unset: it needs none."
    )
    reward: HttpUrl | None = Field(None, description="Scoring endpoint of the reward model; unset: none shown.")
    cost: HttpUrl | None = Field(None, description="Scoring endpoint of the cost model; cost > 0 is unsafe.")
    max_tokens: int = Field(512, ge=1, description="Longest answer, in tokens.")
    timeout: float = Field(60.0, gt=0, description="Seconds to wait for one answer.")


class ServeConfig(Config):
    """How a project is served; loopback only unless told otherwise."""

    host: str = Field("127.0.0.1", description="Address to listen on; the default is this machine only.")
    port: int = Field(8642, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    behind_proxy: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]+$",
        description="Request header in which a sign-in proxy names the person; unset: no header is believed.",
    )
    proxy_address: str = Field("127.0.0.1", description="The one address whose `behind_proxy` header is believed.")
    posts_per_minute: int = Field(1200, ge=1, description="Most changes that one account may send in a minute.")
    policy: RedteamPolicy | None = Field(None, description="Turns the red-team page on.")

    @model_validator(mode="after")
    def _proxy_has_an_address(self) -> Self:
        if self.behind_proxy and not self.proxy_address:
            raise ValueError("behind_proxy needs proxy_address: whose header is believed")
        return self
