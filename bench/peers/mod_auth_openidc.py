"""Apache with mod_auth_openidc, as Debian has them, and sessions in Redis."""

from __future__ import annotations

import os
from pathlib import Path

from bench.ground import Ground
from bench.peers import Stand
from bench.process import Missing, find
from tests.real.parts import free_port

MODULES = Path("/usr/lib/apache2/modules")
NAMES = ("mpm_event", "authn_core", "authz_core", "authz_user", "proxy", "proxy_http", "auth_openidc")
CONFIG = """
ServerName 127.0.0.1
ServerRoot {folder}
DefaultRuntimeDir {folder}
PidFile {folder}/pid
ErrorLog {folder}/error.log
LogLevel error
Listen 127.0.0.1:{port}
ListenBackLog 4096
{modules}
{identity}
KeepAlive On
KeepAliveTimeout 75
MaxKeepAliveRequests 0
ProxyPreserveHost On
ProxyPass /oauth2/ !
ProxyPass / http://127.0.0.1:{backend}/ keepalive=On

OIDCProviderMetadataURL {issuer}/.well-known/openid-configuration
OIDCClientID {client_id}
OIDCClientSecret {client_secret}
OIDCRedirectURI {origin}/oauth2/callback
OIDCCryptoPassphrase {passphrase}
OIDCScope "openid profile email"
OIDCPKCEMethod S256
OIDCCacheType redis
OIDCRedisCacheServer 127.0.0.1:{redis}
OIDCRedisCacheDatabase {database}
OIDCSessionInactivityTimeout 28800
OIDCRemoteUserClaim sub
OIDCAuthNHeader X-Forwarded-User
OIDCPassClaimsAs headers
<Location />
  AuthType openid-connect
  Require valid-user
</Location>
"""


class ModAuthOpenidc:
    name = "mod_auth_openidc, Redis"
    setup = "Apache with its event model and default sizes; claims and access token as headers"
    check = False

    async def start(self, ground: Ground) -> Stand:
        apache = find("apache2", "apache2 libapache2-mod-auth-openidc")
        if not (MODULES / "mod_auth_openidc.so").exists():
            raise Missing("Apache has no mod_auth_openidc (Debian: `apt install libapache2-mod-auth-openidc`)")
        database, port, folder = ground.database(), free_port(), ground.folder / "apache.d"
        folder.mkdir()
        origin = f"http://127.0.0.1:{port}"
        client = ground.client("mod_auth_openidc", f"{origin}/oauth2/callback")
        path = folder / "httpd.conf"
        path.write_text(
            CONFIG.format(
                folder=folder,
                port=port,
                modules="\n".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in NAMES),
                identity="User www-data\nGroup www-data" if os.geteuid() == 0 else "",
                backend=ground.backend,
                issuer=ground.provider.issuer,
                client_id=client.client_id,
                client_secret=client.secret,
                origin=origin,
                passphrase=os.urandom(16).hex(),
                redis=ground.redis.port if ground.redis else 0,
                database=database,
            )
        )
        program = ground.start("apache", [apache, "-f", str(path), "-DFOREGROUND"])
        await program.ready(port)
        return Stand([program], origin)
