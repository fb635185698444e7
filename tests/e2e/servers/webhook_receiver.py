"""A receiver of webhooks that verifies each message with the package standardwebhooks.

usage: webhook_receiver.py SECRET_FILE
"""

import http.server
import json
import pathlib
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

webhook = Webhook(pathlib.Path(sys.argv[1]).read_text().strip())


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            webhook.verify(body, dict(self.headers.items()))
            print("verified", json.loads(body)["type"], flush=True)
            self.send_response(204)
        except WebhookVerificationError as error:
            print("refused", error, flush=True)
            self.send_response(400)
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(f"webhook_url http://127.0.0.1:{server.server_port}/hooks", flush=True)
server.serve_forever()
