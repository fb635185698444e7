"""HTTP servers, callers and a bearerd of a test, all on loopback."""

import asyncio
import os


async def serve(answer):
    """Serves HTTP/1.1 on a free port, which is returned: answer(headers, body) gives the whole response."""

    async def connection(reader, writer):
        try:
            while True:
                headers = fields(await reader.readuntil(b"\r\n\r\n"))
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                writer.write(answer(headers, body))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=1024)
    return server.sockets[0].getsockname()[1]


def fields(head):
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, value in pairs}


def response(status, body=b"ok", **more):
    """The bytes of a response; `retry_after=1` is the field retry-after: 1."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    return "\r\n".join([*lines, "\r\n"]).encode() + body


def token(text):
    body = b'{"access_token":"%s","token_type":"bearer","expires_in":86399}' % text.encode()
    return response("200 OK", body, content_type="application/json")


class Client:
    """Sends requests over connections that are kept."""

    def __init__(self, port, timeout):
        self.port, self.timeout = port, timeout
        self.idle = []

    async def request(self, head, body=b""):
        """The status of the response; 0 without one. `head` has no length and no blank line."""
        writer = None
        try:
            reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), self.timeout)
            headers = fields(answer)
            await reader.readexactly(int(headers["content-length"]))
            if headers.get("connection") != "close":
                self.idle.append((reader, writer))
                writer = None
            return int(answer[9:12])
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            return 0
        finally:
            if writer:
                writer.close()


class Bearerd:
    """A daemon with this configuration; the addresses are added."""

    def __init__(self, binary, folder, configuration):
        self.binary, self.path = binary, os.path.join(folder, "proxy.toml")
        os.makedirs(folder, exist_ok=True)
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(configuration)

    async def start(self):
        """Returns the port of callers, once there is one."""
        self.process = await asyncio.create_subprocess_exec(
            self.binary, "run", "-c", self.path, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
        )
        port = None
        while port is None:
            line = await self.process.stderr.readline()
            assert line, "bearerd did not start"
            if b'"message":"listening"' in line:
                port = int(line.split(b'"address":"')[1].split(b'"')[0].rsplit(b":", 1)[1])
        self.draining = asyncio.create_task(self.drain())
        return port

    async def drain(self):
        while await self.process.stderr.readline():
            pass

    async def stop(self):
        self.process.terminate()
        await self.process.wait()
        await self.draining
