"""Which store, and where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from ...values import Duration, Secret, Settings


class MemoryStoreSettings(Settings):
    """Sessions live in this process and end with it. For one worker, and for trying things out."""

    type: Literal["memory"] = Field("memory", description="memory: sessions live in this process and end with it.")


class StoreTlsSettings(Settings):
    """TLS towards the store, and the Sentinels, for `rediss://` addresses."""

    ca_file: Path | None = Field(
        None, description="Certificates that the server's must descend from; the system's unless given."
    )
    cert_file: Path | None = Field(None, description="Client certificate.")
    key_file: Path | None = Field(None, description="Private key of the client certificate.")


class StoreTimeouts(Settings):
    """How long the store may take."""

    connect: Duration = Field(Duration(2), description="Longest wait for a connection.")
    command: Duration = Field(Duration(2), description="Longest wait for an answer.")


class SentinelSettings(Settings):
    """Redis behind Sentinels, which say who the master is."""

    master: str = Field(min_length=1, description="Name of the master that the Sentinels watch.", examples=["mymaster"])
    addresses: tuple[str, ...] = Field(
        min_length=1,
        description="Addresses of the Sentinels.",
        examples=[["sentinel-0:26379", "sentinel-1:26379", "sentinel-2:26379"]],
    )
    username: str | None = Field(None, description="ACL user at the Sentinels.")
    password: Secret | None = Field(None, description="Password at the Sentinels.")
    password_file: Path | None = Field(None, description="File that holds `password`.")


class RedisStoreSettings(Settings):
    """Sessions live in Redis 6.2 or newer, or Valkey, and are shared by all workers and replicas."""

    type: Literal["redis"] = Field(description="redis: sessions live in Redis or Valkey, shared by all replicas.")
    url: str = Field(
        description="Address of the server. With `sentinel`, its host is not used; with `cluster`, it is any node.",
        pattern=r"^(rediss?://|unix://).+",
        examples=["redis://redis:6379/0", "rediss://redis.example.com:6380/0"],
    )
    sentinel: SentinelSettings | None = Field(None, description="Sentinels to ask for the master.")
    cluster: bool = Field(False, description="Whether the server is a node of a Redis Cluster.")
    username: str | None = Field(None, description="ACL user.")
    password: Secret | None = Field(None, description="Password of the user.")
    password_file: Path | None = Field(None, description="File that holds `password`.")
    key_prefix: str = Field(
        "oidc_proxy:", description="What every key starts with, so that an ACL can limit the user to it."
    )
    tls: StoreTlsSettings = Field(StoreTlsSettings(), description="TLS towards the server.")
    timeouts: StoreTimeouts = Field(StoreTimeouts(), description="How long the server may take.")
    outage_grace: Duration = Field(
        Duration(60),
        description="How long sessions that a worker has in memory go on while the store cannot be reached; 0 for not "
        "at all. A session that was ended elsewhere meanwhile goes on as long.",
    )

    @model_validator(mode="after")
    def _one_topology(self) -> Self:
        if self.cluster and self.sentinel is not None:
            raise ValueError("takes either `sentinel` or `cluster`, not both")
        if self.url.startswith("unix://") and (self.cluster or self.sentinel is not None):
            raise ValueError("a unix:// address is that of one server: it goes with neither `sentinel` nor `cluster`")
        if self.cluster and urlsplit(self.url).path.strip("/") not in {"", "0"}:
            raise ValueError("a Redis Cluster has no database but 0: leave it out of `url`")
        return self


StoreSettings = Annotated[MemoryStoreSettings | RedisStoreSettings, Field(discriminator="type")]
