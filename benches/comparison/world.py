"""The peers: an upstream that speaks TLS, and a token endpoint that counts requests."""

import collections
import http.server
import json
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time

from . import machine

KIB = 1024
LARGE = 1024 * KIB
#: The sizes of responses for which there is a file `sized/SIZE`.
SIZES = (KIB, 16 * KIB, 256 * KIB, LARGE)

# Requests without a token are refused, so that every proxy must add one. A file revokes a token. nginx reads an upload
# before its answer only if it passes the request on.
UPSTREAM = """
daemon off; worker_processes 1; error_log {folder}/upstream.log error; pid {folder}/upstream.pid;
events {{ worker_connections 32768; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 3600; client_max_body_size 0;
  client_body_temp_path {folder}/u1; proxy_temp_path {folder}/u2; fastcgi_temp_path {folder}/u3;
  uwsgi_temp_path {folder}/u4; scgi_temp_path {folder}/u5; types {{ }} default_type application/json;
  ssl_protocols TLSv1.3; ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;
  server {{
    listen 127.0.0.1:{upstream} ssl; listen 127.0.0.1:{upstream_http2} ssl http2; server_name localhost;
    if ($http_authorization = "") {{ return 401; }}
    location / {{ return 200 "{body}"; }}
    location = /large {{ root {folder}; }}
    location /sized/ {{ root {folder}; }}
    location = /upload {{
      client_body_buffer_size 1m; proxy_pass http://behind/; proxy_pass_request_body off;
      proxy_set_header Content-Length ""; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
  upstream behind {{ server 127.0.0.1:{behind}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{behind};
    location / {{ return 200 "{body}"; }}
    location = /token {{ return 200 '{token}'; }}
  }}
  server {{
    listen 127.0.0.1:{revocable} ssl; server_name localhost;
    if ($http_authorization = "") {{ return 401; }}
    if (-f "{folder}/revoked/$http_authorization") {{ return 401; }}
    location / {{ return 200 "{body}"; }}
  }}
}}
"""


def token_response(token, life):
    """The response of a token endpoint (RFC 6749 §5.1)."""
    return json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": life})


class TokenEndpoint:
    """Issues the tokens `NAME-1`, `NAME-2` and so on for requests of `/NAME`."""

    def __init__(self):
        self.issued = collections.Counter()
        #: The life of each name's tokens, in seconds.
        self.life = collections.defaultdict(lambda: 3600)
        #: The duration of each name's latest answer, in seconds.
        self.took = {}
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                begun = time.monotonic()
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                name = self.path.strip("/")
                endpoint.issued[name] += 1
                token = f"{name}-{endpoint.issued[name]}"
                body = token_response(token, endpoint.life[name]).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                endpoint.took[name] = time.monotonic() - begun

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class World:
    """The peers, and a folder for files."""

    def __init__(self, binary):
        self.binary = binary
        self.tokens = TokenEndpoint()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="bearerd-bench-"))
        # The workers of nginx may run as another user.
        self.folder.chmod(0o755)
        self.upstream = None
        self.ports = {name: machine.free_port() for name in ("upstream", "upstream_http2", "revocable", "behind")}

    def __enter__(self):
        nginx, _ = machine.tool("nginx"), machine.tool("openssl")
        subprocess.run([machine.ROOT / "certs/make", self.folder], check=True, capture_output=True)
        pem = (self.folder / "server.pem").read_text() + (self.folder / "server.key").read_text()
        (self.folder / "both.pem").write_text(pem)
        (self.folder / "revoked").mkdir()
        (self.folder / "sized").mkdir()
        for path, size in [("large", LARGE), *((f"sized/{size}", size) for size in SIZES)]:
            (self.folder / path).write_bytes(b"x" * size)
            (self.folder / path).chmod(0o644)
        token = token_response("benchmark", 3600)
        text = UPSTREAM.format(folder=self.folder, body="x" * KIB, token=token, **self.ports)
        (self.folder / "upstream.conf").write_text(text)
        command = [nginx, "-p", self.folder, "-c", self.folder / "upstream.conf"]
        self.upstream = machine.start({machine.LOAD_CORE}, command)
        return self

    def __exit__(self, *_):
        if self.upstream:
            machine.stop(self.upstream)
        self.tokens.server.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def revoke(self, name):
        """Revokes the latest token of this name."""
        (self.folder / "revoked" / f"Bearer {name}-{self.tokens.issued[name]}").touch()
