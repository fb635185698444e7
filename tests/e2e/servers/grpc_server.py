"""A gRPC server on a free loopback port, which it prints. Messages are bytes, so that no code is generated.

Every call must have one Bearer token. The service is there twice: `e2e.Direct` is called without a gateway,
`e2e.Guarded` behind one.
"""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

PAUSE = 6  # seconds


def authorize(context):
    tokens = [value for name, value in context.invocation_metadata() if name == "authorization"]
    if len(tokens) != 1 or not re.fullmatch(r"Bearer [\w.~+/-]+=*", tokens[0]):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{len(tokens)} credentials")
    context.send_initial_metadata([("x-first", "initial")])
    context.set_trailing_metadata([("x-last", "trailing")])


def echo(message, context):
    authorize(context)
    return message


def count(message, context):
    """Two messages with a pause between them."""
    authorize(context)
    yield message + b" 1"
    time.sleep(PAUSE)
    yield message + b" 2"


def converse(messages, context):
    """An answer for each message, when it arrives."""
    authorize(context)
    for message in messages:
        yield message[::-1]


def refuse(message, context):
    """A status in the place of an answer."""
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "not the token's fault: 100 % é")


def break_off(message, context):
    """A status after an answer."""
    authorize(context)
    yield message
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "one is enough")


METHODS = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Converse": grpc.stream_stream_rpc_method_handler(converse),
    "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    "BreakOff": grpc.unary_stream_rpc_method_handler(break_off),
}

server = grpc.server(ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0)])
for service in ["e2e.Direct", "e2e.Guarded"]:
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, METHODS)])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"grpc_url http://127.0.0.1:{port}", flush=True)
server.wait_for_termination()
