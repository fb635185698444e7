"""The proxies, each configured as an expert would: one worker, keep-alive, verified TLS."""

import contextlib
import dataclasses
import functools
import http.client
import json
import ssl
import sys
import time

from . import machine


@dataclasses.dataclass(frozen=True)
class Variant:
    """A proxy and its settings in a case."""

    peer: str
    label: str = ""
    #: The protocol of the callers.
    tls: bool = False
    http2: bool = False
    access_log: bool = False
    #: Each worker has a core; the second core is shared with the load.
    workers: int = 1
    #: Whether the upstream's tokens can be revoked.
    revocable: bool = False
    #: Settings of bearerd only.
    upstream_http2: bool = False
    replay: bool = True
    routes: int = 1
    credentials: int = 1
    #: The life of a token, in seconds.
    token_life: int = 3600
    #: Whether the API allows a number of requests, which is never reached.
    quota: bool = False

    @property
    def name(self):
        return self.label or self.peer

    def at(self, world):
        """The upstream's port."""
        if self.revocable:
            return world.ports["revocable"]
        return world.ports["upstream_http2" if self.upstream_http2 else "upstream"]


NGINX = """
daemon off; worker_processes {workers}; error_log {folder}/{name}.log error; pid {folder}/{name}.pid;
events {{ worker_connections 32768; }}
http {{
  access_log {access_log}; keepalive_requests 100000000; keepalive_timeout 3600; client_max_body_size 0;
  client_body_temp_path {folder}/p1; proxy_temp_path {folder}/p2; fastcgi_temp_path {folder}/p3;
  uwsgi_temp_path {folder}/p4; scgi_temp_path {folder}/p5;
  upstream api {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} {protocol};
    ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;
    location / {{
      proxy_pass https://api; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host localhost; proxy_set_header Authorization "Bearer benchmark";
      proxy_ssl_verify on; proxy_ssl_trusted_certificate {folder}/ca.pem; proxy_ssl_name localhost;
      proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;
      proxy_request_buffering off; proxy_max_temp_file_size 0;
    }}
  }}
}}
"""


def nginx(world, variant, port, _):
    protocol = " ".join(word for word, wanted in (("ssl", variant.tls), ("http2", variant.http2)) if wanted)
    path = world.folder / f"{variant.name}.conf"
    path.write_text(NGINX.format(
        folder=world.folder, name=variant.name, port=port, protocol=protocol, upstream=variant.at(world),
        workers=variant.workers,
        access_log=world.folder / f"{variant.name}.access" if variant.access_log else "off",
    ))
    return [machine.tool("nginx"), "-p", world.folder, "-c", path]


HAPROXY = """
global
  nbthread 1
  maxconn 4096
  tune.pool-low-fd-ratio 90
  tune.pool-high-fd-ratio 95
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 3600s
  timeout server 60s
frontend callers
  bind 127.0.0.1:{port} {protocol}
  http-request set-header Authorization "Bearer benchmark"
  http-request set-header Host localhost
  default_backend api
backend api
  server api 127.0.0.1:{upstream} ssl verify required ca-file {folder}/ca.pem sni str(localhost) verifyhost localhost
"""


def haproxy(world, variant, port, _):
    protocol = f"ssl crt {world.folder}/both.pem alpn http/1.1" if variant.tls else "proto h2" if variant.http2 else ""
    path = world.folder / f"{variant.name}.cfg"
    path.write_text(HAPROXY.format(folder=world.folder, port=port, protocol=protocol, upstream=variant.at(world)))
    return [machine.tool("haproxy"), "-db", "-f", path]


def envoy(world, variant, port, _):
    kind = "type.googleapis.com/envoy.extensions."

    def cluster(name, port, **more):
        address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
        enough = {name: 16384 for name in ("max_connections", "max_pending_requests", "max_requests")}
        return {
            "name": name, "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name, "endpoints": endpoints},
            "circuit_breakers": {"thresholds": [enough]}, **more,
        }

    oauth2 = {
        "@type": kind + "http.injected_credentials.oauth2.v3.OAuth2",
        "token_endpoint": {
            "cluster": "token", "uri": f"http://127.0.0.1:{world.tokens.port}/{variant.name}", "timeout": "5s",
        },
        "client_credentials": {"client_id": "benchmark", "client_secret": {"name": "secret"}},
    }
    injector = {
        "@type": kind + "filters.http.credential_injector.v3.CredentialInjector",
        "overwrite": True,
        "credential": {"name": "envoy.http.injected_credentials.oauth2", "typed_config": oauth2},
    }
    router = {"@type": kind + "filters.http.router.v3.Router"}
    manager = {
        "@type": kind + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "callers", "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{
            "name": "api", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "api", "host_rewrite_literal": "localhost"}}],
        }]},
        "http_filters": [
            {"name": "envoy.filters.http.credential_injector", "typed_config": injector},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    if variant.access_log:
        log = {"@type": kind + "access_loggers.file.v3.FileAccessLog", "path": str(world.folder / "envoy.access")}
        manager["access_log"] = [{"name": "envoy.access_loggers.file", "typed_config": log}]
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if variant.tls:
        files = {"certificate_chain": {"filename": str(world.folder / "server.pem")},
                 "private_key": {"filename": str(world.folder / "server.key")}}
        chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": kind + "transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificates": [files]},
        }}
    trust = {"@type": kind + "transport_sockets.tls.v3.UpstreamTlsContext", "sni": "localhost", "common_tls_context": {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "validation_context": {
            "trusted_ca": {"filename": str(world.folder / "ca.pem")},
            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "localhost"}}],
        },
    }}
    api = cluster("api", variant.at(world),
                  transport_socket={"name": "envoy.transport_sockets.tls", "typed_config": trust})
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    configuration = {"static_resources": {
        "listeners": [{"name": "callers", "address": address, "filter_chains": [chain]}],
        "clusters": [api, cluster("token", world.tokens.port)],
        "secrets": [{"name": "secret", "generic_secret": {"secret": {"inline_string": "benchmark"}}}],
    }}
    path = world.folder / f"{variant.name}.json"
    path.write_text(json.dumps(configuration))
    return [machine.tool("envoy"), "-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "error"]


def bearerd_toml(world, variant, port, admin):
    """bearerd's configuration."""
    limits = "connections = 16384\n" + ("" if variant.replay else 'replay_body = "0"\n')
    tls = '[server.tls]\ncertificate = "server.pem"\nprivate_key = "server.key"\n' if variant.tls else ""
    route = f'[[routes]]\nupstream = "https://localhost:{variant.at(world)}"\nca_file = "ca.pem"\n'
    # A file with 10,000 routes has room for no more.
    if variant.routes == 1:
        # nginx opens as many as are needed, keeps 1024 of them, as bearerd does, and keeps these for a minute. As many
        # requests of bearerd as connections, and a thousand more, may wait for a connection, for as long as nginx waits.
        route += 'connections = 9000\nidle_timeout = "60s"\nconnect_timeout = "60s"\n'
        route += f'http_version = "{"2" if variant.upstream_http2 else "1.1"}"\n'
    quota = 'api_quota = { requests = 1000000000, per = "60s" }\n' if variant.quota else ""
    world.tokens.life[variant.name] = variant.token_life
    # Python's server would take longer for a thousand requests than bearerd.
    tokens = f"{world.tokens.port}/{variant.name}" if variant.credentials == 1 else f"{world.ports['behind']}/token"
    paths = ["/"] if variant.routes == 1 else [f"/{number}" for number in range(variant.routes)]
    return (
        f'[server]\nlisten = "127.0.0.1:{port}"\nworkers = {variant.workers}\n[server.limits]\n{limits}{tls}'
        f'[admin]\nlisten = "127.0.0.1:{admin}"\n'
        f"[log]\naccess = {json.dumps(variant.access_log)}\n"
        + "".join(
            f'[credentials.api{number}]\ntoken_url = "http://127.0.0.1:{tokens}"\n'
            f'client_id = "benchmark"\nclient_secret = {{ env = "BENCHMARK_SECRET" }}\n{quota}'
            for number in range(variant.credentials)
        )
        + "".join(
            f'{route}path = "{path}"\ncredential = "api{number % variant.credentials}"\n'
            for number, path in enumerate(paths)
        )
    )


SECRET = {"BENCHMARK_SECRET": "benchmark", "RUST_LOG": "bearerd::access=info,warn"}


def bearerd(world, variant, port, admin):
    path = world.folder / f"{variant.name}.toml"
    path.write_text(bearerd_toml(world, variant, port, admin))
    return [world.binary, "run", "-c", path]


PEERS = {"nginx": nginx, "haproxy": haproxy, "envoy": envoy, "bearerd": bearerd}


class Proxy:
    """A running proxy; raises an error if the proxy cannot start."""

    def __init__(self, world, variant):
        self.world, self.variant, self.name = world, variant, variant.name
        self.port, self.admin = machine.free_port(), machine.free_port()
        # With many routes the path of one in the middle.
        path = "/" if variant.routes == 1 else f"/{variant.routes // 2}/"
        self.path = path
        self.url = f"{'https' if variant.tls else 'http'}://127.0.0.1:{self.port}{path}"
        self.command = PEERS[variant.peer](world, variant, self.port, self.admin)
        self.process = None

    def __enter__(self):
        self.start()
        self.await_answer(time.monotonic() + 20)
        return self

    def start(self):
        log = open(self.world.folder / f"{self.name}.stderr", "ab")
        cores = {machine.PROXY_CORE} if self.variant.workers == 1 else set(machine.CORES)
        self.process = machine.start(cores, self.command, env=SECRET, stdout=log, stderr=log)
        log.close()

    def __exit__(self, *_):
        machine.stop(self.process)

    @property
    def pid(self):
        return self.process.pid

    def connect(self):
        """A caller's connection to the proxy."""
        if self.variant.tls:
            context = ssl.create_default_context(cafile=self.world.folder / "ca.pem")
            return http.client.HTTPSConnection("localhost", self.port, timeout=5, context=context)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)

    @functools.cached_property
    def _may_be_asked(self):
        # http.client does not speak HTTP/2; nginx and HAProxy speak only HTTP/2 on such an address.
        return not self.variant.http2

    def await_tokens(self, deadline):
        """Waits until every credential of bearerd has had its token."""
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=5)
            with contextlib.suppress(OSError), contextlib.closing(connection):
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.001)
        sys.exit(f"benches/compare: {self.name} has not got all tokens")

    def await_answer(self, deadline, pause=0.01):
        """Waits for the first request that is answered with 200."""
        why = "no connection"
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                why = "it has ended"
                break
            try:
                connection = self.connect()
                connection.connect()
                if not self._may_be_asked:
                    # The port is open, and the proxy may still wait for a token.
                    time.sleep(0.5)
                    return
                connection.request("GET", self.path)
                response = connection.getresponse()
                body = response.read()
                if response.status == 200 and len(body) == 1024:
                    return
                why = f"{response.status}: {body[:200]!r}"
            except OSError as error:
                why = str(error)
            finally:
                connection.close()
            time.sleep(pause)
        said = (self.world.folder / f"{self.name}.stderr").read_text(errors="replace")[-2000:]
        sys.exit(f"benches/compare: {self.name} does not answer ({why})\n{said}")
