"""Calls the gRPC server through bearerd, without a credential: grpc_client.py PROXY_ADDRESS SERVICE CALL

An error of any kind ends this with a traceback and a status that is not 0.
"""

import os
import queue
import sys
import time

import grpc

proxy, service, name = sys.argv[1:]
channel = grpc.insecure_channel(proxy, options=[("grpc.enable_http_proxy", 0)])
DEADLINE = 15  # seconds


def method(kind, name):
    return getattr(channel, kind)(f"/{service}/{name}")


def check_end(call, code=grpc.StatusCode.OK, details=""):
    assert call.code() == code, (call.code(), call.details())
    assert call.details() == details, call.details()


def check_metadata(call):
    assert ("x-first", "initial") in call.initial_metadata(), call.initial_metadata()
    assert ("x-last", "trailing") in call.trailing_metadata(), call.trailing_metadata()


def unary():
    for size in [0, 5, 300_000]:
        message = os.urandom(size)
        answer, call = method("unary_unary", "Echo").with_call(message, timeout=DEADLINE)
        assert answer == message, (size, len(answer))
        check_end(call)
        check_metadata(call)


def pause():
    """The first message arrives before the pause, and the second after it."""
    begun = time.monotonic()
    call = method("unary_stream", "Count")(b"message", timeout=DEADLINE)
    arrivals = [(message, time.monotonic() - begun) for message in call]
    assert [message for message, _ in arrivals] == [b"message 1", b"message 2"], arrivals
    (_, first), (_, second) = arrivals
    assert first < 3 and second - first > 5, arrivals
    check_end(call)
    check_metadata(call)


def conversation():
    """Each message is sent after the answer to the one before."""
    messages = queue.SimpleQueue()
    call = method("stream_stream", "Converse")(iter(messages.get, None), timeout=DEADLINE)
    for message in [b"abc", b"", b"xyz" * 50_000]:
        messages.put(message)
        assert next(call) == message[::-1], len(message)
    messages.put(None)
    assert list(call) == []
    check_end(call)
    check_metadata(call)


def statuses():
    """A status without a message, a status after one, and the server's own for a method that is not there."""
    try:
        method("unary_unary", "Refuse")(b"", timeout=DEADLINE)
        raise AssertionError("no status")
    except grpc.RpcError as error:
        check_end(error, grpc.StatusCode.UNAUTHENTICATED, "not the token's fault: 100 % é")

    call = method("unary_stream", "BreakOff")(b"message", timeout=DEADLINE)
    assert next(call) == b"message"
    try:
        next(call)
        raise AssertionError("no status")
    except grpc.RpcError as error:
        check_end(error, grpc.StatusCode.RESOURCE_EXHAUSTED, "one is enough")
        check_metadata(call)

    try:
        method("unary_unary", "Missing")(b"", timeout=DEADLINE)
        raise AssertionError("no status")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


{"unary": unary, "pause": pause, "conversation": conversation, "statuses": statuses}[name]()
