//! HTTP/1.1: RFC 9110, RFC 9112.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::strict::Strict;
use crate::harness::{World, daemon};

/// The allowed outcomes of a request.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// The daemon refuses with this status and forwards nothing.
    Refused(u16),
    /// The daemon forwards nothing, whatever it answers.
    Nothing,
    /// The daemon forwards the request with this target and body.
    Forwarded(&'static str, &'static str),
    /// Servers differ: one of the two.
    Either(&'static str, &'static str),
}
use Expect::{Either, Forwarded, Nothing, Refused};

/// A request as bytes; the daemon's address takes the place of `{H}`.
type Case = (&'static str, String, Expect);

/// The request that follows every request on its connection: no byte of either may become part of the
/// other.
const MARKER: &str = "GET /marker HTTP/1.1\r\nhost: {H}\r\n\r\n";

fn get(name: &'static str, target: &str, expect: Expect) -> Case {
    (name, format!("GET {target} HTTP/1.1\r\nhost: {{H}}\r\n\r\n"), expect)
}

fn line(name: &'static str, line: &str, expect: Expect) -> Case {
    (name, format!("{line}\r\nhost: {{H}}\r\n\r\n"), expect)
}

fn field(name: &'static str, field: &str, expect: Expect) -> Case {
    (name, format!("GET /x HTTP/1.1\r\nhost: {{H}}\r\n{field}\r\n\r\n"), expect)
}

fn host(name: &'static str, field: &str, expect: Expect) -> Case {
    (name, format!("GET /x HTTP/1.1\r\n{field}\r\n\r\n"), expect)
}

fn body(name: &'static str, fields: &str, body: &str, expect: Expect) -> Case {
    (name, format!("POST /x HTTP/1.1\r\nhost: {{H}}\r\n{fields}\r\n\r\n{body}"), expect)
}

fn chunked(name: &'static str, content: &str, expect: Expect) -> Case {
    body(name, "transfer-encoding: chunked", content, expect)
}

const OK: Expect = Forwarded("/x", "");
const HELLO: Expect = Forwarded("/x", "hello");

fn request_lines() -> Vec<Case> {
    vec![
        line("plain", "GET /x HTTP/1.1", OK),
        line("a method in lower case", "get /x HTTP/1.1", OK),
        line("a method of one's own", "PROPFIND /x HTTP/1.1", OK),
        line("a method that is no token", "G@T /x HTTP/1.1", Refused(400)),
        line("a method with a control", "G\u{1}T /x HTTP/1.1", Refused(400)),
        line("no method", " /x HTTP/1.1", Refused(400)),
        line("two spaces", "GET  /x HTTP/1.1", Refused(400)),
        line("a tab for a space", "GET\t/x HTTP/1.1", Refused(400)),
        line("a tab before the version", "GET /x\tHTTP/1.1", Refused(400)),
        line("a space at the start", " GET /x HTTP/1.1", Refused(400)),
        line("a space at the end", "GET /x HTTP/1.1 ", Refused(400)),
        line("an empty line before", "\r\nGET /x HTTP/1.1", OK),
        line("a bare LF before", "\nGET /x HTTP/1.1", Either("/x", "")),
        line("a space in the target", "GET /x y HTTP/1.1", Refused(400)),
        line("nothing for a target", "GET HTTP/1.1", Refused(400)),
        line("an empty target", "GET  HTTP/1.1", Refused(400)),
        line("HTTP/0.9", "GET /x", Refused(400)),
        line("HTTP/1.0", "GET /x HTTP/1.0", OK),
        line("HTTP/1.2", "GET /x HTTP/1.2", Either("/x", "")),
        line("HTTP/2.0", "GET /x HTTP/2.0", Refused(400)),
        line("HTTP/3.7", "GET /x HTTP/3.7", Refused(400)),
        line("HTTP/1.10", "GET /x HTTP/1.10", Refused(400)),
        line("a version in lower case", "GET /x http/1.1", Refused(400)),
        line("another protocol", "GET /x ICY/1.1", Refused(400)),
        line("a NUL in the target", "GET /x\0y HTTP/1.1", Refused(400)),
        line("a CR in the target", "GET /x\ry HTTP/1.1", Refused(400)),
        line("a CR for a CRLF", "GET /x HTTP/1.1\rfoo: bar", Refused(400)),
        line("a DEL in the target", "GET /x\u{7f} HTTP/1.1", Refused(400)),
        line("quotes in the target", "GET /x\"y HTTP/1.1", Either("/x\"y", "")),
        line("angle brackets in the target", "GET /<x> HTTP/1.1", Either("/<x>", "")),
        line("letters that are not ASCII", "GET /\u{fc} HTTP/1.1", Either("/\u{fc}", "")),
        line("TRACE", "TRACE /x HTTP/1.1", Refused(405)),
        line("TRACE in small letters", "trace /x HTTP/1.1", Refused(405)),
        line("TRACK", "TRACK /x HTTP/1.1", Refused(405)),
        line("TRACK in small letters", "track /x HTTP/1.1", Refused(405)),
        line("CONNECT in small letters", "connect {H} HTTP/1.1", Nothing),
        line("a long method", &format!("{} /x HTTP/1.1", "M".repeat(33)), Refused(400)),
        line("CONNECT to us", "CONNECT {H} HTTP/1.1", Refused(405)),
        line("CONNECT to another", "CONNECT evil.test:443 HTTP/1.1", Nothing),
        line("the preface of HTTP/2 and no more", "PRI * HTTP/2.0\r\n\r\nSM", Nothing),
        line("a PROXY line", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET /x HTTP/1.1", Nothing),
        line("a TLS hello", "\u{16}\u{3}\u{1}\u{2}", Nothing),
        ("line feeds alone", "GET /x HTTP/1.1\nhost: {H}\n\n".to_owned(), Either("/x", "")),
        (
            "a line feed alone before the end",
            "GET /x HTTP/1.1\r\nhost: {H}\r\nx: y\n\r\n".to_owned(),
            Either("/x", ""),
        ),
        (
            "a target without end",
            format!("GET /{} HTTP/1.1\r\nhost: {{H}}\r\n\r\n", "x".repeat(200_000)),
            Refused(431),
        ),
        ("HTTP/1.0 without Host", "GET /x HTTP/1.0\r\n\r\n".to_owned(), OK),
        ("a health check of HAProxy", "OPTIONS /x HTTP/1.0\r\n\r\n".to_owned(), OK),
        ("HTTP/1.0, absolute, without Host", "GET http://{H}/x HTTP/1.0\r\n\r\n".to_owned(), Refused(400)),
        ("HTTP/1.0 with an empty Host", "GET /x HTTP/1.0\r\nhost:\r\n\r\n".to_owned(), Refused(400)),
    ]
}

fn targets() -> Vec<Case> {
    vec![
        get("absolute, to us", "http://{H}/x", OK),
        get("absolute, to us, https", "https://{H}/x", OK),
        get("absolute without a path", "http://{H}", Forwarded("/", "")),
        get("absolute without a path, with a query", "http://{H}?q=1", Forwarded("/?q=1", "")),
        get("absolute, to another", "http://evil.test/x", Refused(400)),
        get("absolute, another behind our name", "http://{H}@evil.test/x", Refused(400)),
        get("absolute, with a user", "http://user:pass@{H}/x", Refused(400)),
        get("absolute, another scheme", "ftp://{H}/x", Refused(400)),
        get("absolute, another port", "http://127.0.0.1:1/x", Refused(400)),
        get("a file", "file:///etc/passwd", Refused(400)),
        get("an authority", "evil.test", Refused(400)),
        get("an authority with a port", "evil.test:80", Refused(400)),
        get("an authority with a user", "user@evil.test", Refused(400)),
        get("a relative path", "foo/bar", Refused(400)),
        get("a port alone", ":80", Refused(400)),
        get("an at sign", "@evil.test/x", Refused(400)),
        get("two slashes and a host", "//evil.test/x", Either("//evil.test/x", "")),
        get("three slashes", "///evil.test/x", Either("///evil.test/x", "")),
        get("a backslash and a host", "/\\evil.test/x", Refused(400)),
        get("an asterisk", "*", Refused(400)),
        line("an asterisk for OPTIONS", "OPTIONS * HTTP/1.1", Refused(400)),
        get("a query alone", "?q=1", Refused(400)),
        get("a fragment", "/x#y", Either("/x", "")),
        get("a fragment with a path", "/x#/../admin", Either("/x", "")),
        get("two dots", "/a/../x", Refused(400)),
        get("two dots at the end", "/a/..", Refused(400)),
        get("one dot", "/./x", Refused(400)),
        get("two dots, both escaped", "/a/%2e%2e/x", Refused(400)),
        get("two dots, one escaped", "/a/.%2E/x", Refused(400)),
        get("a dot, escaped, in a word", "/a%2ejson", Refused(400)),
        get("two dots and a parameter", "/a/..;/x", Refused(400)),
        get("a backslash", "/a\\..\\x", Refused(400)),
        get("a backslash, escaped", "/a%5c..%5cx", Refused(400)),
        get("a slash, escaped", "/a%2fx", Forwarded("/a%2fx", "")),
        get("two dots behind an escaped slash", "/a%2f..%2fx", Refused(400)),
        get("two dots, escaped twice", "/a/%252e%252e/x", Refused(400)),
        get("a percent sign, escaped", "/a%25x", Forwarded("/a%25x", "")),
        get("a NUL, escaped", "/x%00", Refused(400)),
        get("a line end, escaped", "/x%0d%0ay:%20z", Refused(400)),
        get("a DEL, escaped", "/x%7f", Refused(400)),
        get("a slash too long for UTF-8", "/a%c0%afx", Refused(400)),
        get("dots too long for UTF-8", "/a/%c0%ae%c0%ae/x", Refused(400)),
        get("the same, lead byte c1", "/a%c1%9cx", Refused(400)),
        get("a slash in three bytes", "/a%e0%80%afx", Refused(400)),
        get("a slash in four bytes", "/a%f0%80%80%afx", Refused(400)),
        get("a slash in five bytes", "/a%f8%80%80%80%afx", Refused(400)),
        get("dots in three bytes", "/a/%e0%80%ae%e0%80%ae/x", Refused(400)),
        get("a slash in three bytes, escaped twice", "/a%25e0%2580%25afx", Refused(400)),
        get("a letter of Latin-1, escaped", "/%fcber", Forwarded("/%fcber", "")),
        get("a letter in three bytes", "/%e0%a4%85", Forwarded("/%e0%a4%85", "")),
        get("an escape that is none", "/a%zz", Refused(400)),
        get("half an escape", "/a%2", Refused(400)),
        get("a percent sign alone", "/a%", Refused(400)),
        get("an escape of JavaScript's", "/a%u002e", Refused(400)),
        get("an escape with a sign", "/a%+2", Refused(400)),
        get("two slashes", "/a//x", Forwarded("/a//x", "")),
        get("a parameter", "/a;b=c/x", Forwarded("/a;b=c/x", "")),
        get("a space, escaped", "/a%20x", Forwarded("/a%20x", "")),
        get("a letter, escaped", "/%78", Forwarded("/%78", "")),
        get("UTF-8, escaped", "/%C3%BC", Forwarded("/%C3%BC", "")),
        get("a token in the query", "/x?access_token=evil", Refused(400)),
        get("a token further on", "/x?a=b&access_token=evil", Refused(400)),
        get("a token behind a semicolon", "/x?a=b;access_token=evil", Refused(400)),
        get("a token, escaped", "/x?access%5Ftoken=evil", Refused(400)),
        get("a token in capitals", "/x?ACCESS_TOKEN=evil", Refused(400)),
        get("a token without a value", "/x?access_token", Refused(400)),
        get("another token", "/x?my_access_token=fine", Forwarded("/x?my_access_token=fine", "")),
        get("braces in a query", "/x?q={\u{7c}^}`", Forwarded("/x?q={\u{7c}^}`", "")),
        get("quotes and angle brackets in a query", "/x?q=\"<>", Either("/x?q=\"<>", "")),
        get("Latin-1 in a query", "/x?q=\u{fc}", Either("/x?q=\u{fc}", "")),
        get("a query with anything", "/x?q=/../%2e%00//;@:", Forwarded("/x?q=/../%2e%00//;@:", "")),
    ]
}

fn hosts() -> Vec<Case> {
    vec![
        host("no Host", "x: y", Refused(400)),
        host("Host twice", "host: {H}\r\nhost: {H}", Refused(400)),
        host("Host twice, once another", "host: {H}\r\nhost: evil.test", Refused(400)),
        host("two in one Host", "host: {H}, {H}", Refused(400)),
        host("two in one Host, once another", "host: {H}, evil.test", Refused(400)),
        host("an empty Host", "host:", Refused(400)),
        host("another", "host: evil.test", Refused(421)),
        host("ours as a part of another's", "host: {H}.evil.test", Refused(400)),
        host("our name as a part of another's", "host: localhost.evil.test", Refused(421)),
        host("a user", "host: user@{H}", Refused(400)),
        host("ours as a user", "host: {H}@evil.test", Refused(400)),
        host("a path", "host: {H}/x", Refused(400)),
        host("a query", "host: {H}?x", Refused(400)),
        host("a fragment", "host: {H}#x", Refused(400)),
        host("a scheme", "host: http://{H}", Refused(400)),
        host("a port too large", "host: localhost:999999", Refused(400)),
        host("a port below zero", "host: localhost:-1", Refused(400)),
        host("a port of letters", "host: localhost:http", Refused(400)),
        host("two ports", "host: localhost:1:2", Refused(400)),
        host("no port behind the colon", "host: localhost:", Either("/x", "")),
        host("capitals", "host: LOCALHOST", OK),
        host("a dot at the end", "host: localhost.", OK),
        host("a dot at the end and a port", "host: localhost.:8080", OK),
        host("two dots at the end", "host: localhost..", Refused(421)),
        host("another port", "host: localhost:1", OK),
        host("IPv6", "host: [::1]", OK),
        host("IPv6 with a port", "host: [::1]:8080", OK),
        host("IPv6 without brackets", "host: ::1", Refused(400)),
        host("half a bracket", "host: [::1", Refused(400)),
        host("IPv6 with a zone", "host: [fe80::1%25eth0]", Nothing),
        host("loopback as a number", "host: 2130706433", Refused(421)),
        host("loopback in hexadecimal", "host: 0x7f000001", Refused(421)),
        host("loopback in short", "host: 127.1", Refused(421)),
        host("spaces around it", "host: \t {H} \t ", OK),
        host("a space in it", "host: local host", Refused(400)),
        host("a space before the colon", "host : {H}", Refused(400)),
        host("folded", "host:\r\n {H}", Refused(400)),
        host("not ASCII", "host: l\u{f6}calhost", Refused(400)),
        host("a backslash", "host: localhost\\evil.test", Refused(400)),
        (
            "absolute, with another Host",
            "GET http://{H}/x HTTP/1.1\r\nhost: evil.test\r\n\r\n".to_owned(),
            Refused(421),
        ),
    ]
}

fn fields() -> Vec<Case> {
    let many = (0..150).map(|n| format!("x-{n}: y")).collect::<Vec<_>>().join("\r\n");
    vec![
        field("no colon", "nonsense", Refused(400)),
        field("no name", ": y", Refused(400)),
        field("a space in the name", "x y: z", Refused(400)),
        field("a space before the colon", "x : y", Refused(400)),
        field("a tab before the colon", "x\t: y", Refused(400)),
        field("folded", "x: y\r\n z", Refused(400)),
        field("folded with a tab", "x: y\r\n\tz", Refused(400)),
        field("a bracket in the name", "x(y): z", Refused(400)),
        field("a name that is not ASCII", "x\u{fc}: z", Refused(400)),
        field("a NUL in the value", "x: y\0z", Refused(400)),
        field("a CR in the value", "x: y\rz", Refused(400)),
        field("a control in the value", "x: y\u{1}z", Refused(400)),
        field("a value that is not ASCII", "x: \u{fc}", OK),
        field("an empty value", "x:", OK),
        field("more fields than any request has", &many, Refused(431)),
        field("a field without end", &format!("x: {}", "y".repeat(200_000)), Refused(431)),
        field("a dressed Content-Length", "content_length: 5", Refused(400)),
        field("a dressed Transfer-Encoding", "transfer_encoding: chunked", Refused(400)),
        field("a dressed Host", "x-forwarded_host: evil.test", Refused(400)),
        field("a dressed Cookie", "cookie: a\r\nx_forwarded_for: b", Refused(400)),
        field("an underscore that APIs want", "client_id: x", OK),
        field("a token of the caller's", "authorization: Bearer evil", OK),
        field(
            "two tokens of the caller's",
            "authorization: Bearer evil\r\nAuthorization: Basic ZXZpbA==",
            OK,
        ),
        field("a token for a proxy", "proxy-authorization: Basic ZXZpbA==", OK),
        field(
            "who it says it is",
            "x-forwarded-for: 1.2.3.4\r\nx-forwarded-host: evil.test\r\nforwarded: for=1.2.3.4",
            OK,
        ),
        field("another method", "x-http-method-override: DELETE", Refused(400)),
        field("another method in capitals", "X-HTTP-METHOD: DELETE", Refused(400)),
        field("another method, dressed", "x_method_override: DELETE", Refused(400)),
        field("another path", "x-original-url: /y", OK),
        field(
            "a connection's fields",
            "keep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nte: trailers",
            OK,
        ),
        field("a field for the connection", "connection: keep-alive, x-mine\r\nx-mine: y", OK),
        field("our token for the connection", "connection: authorization", Refused(400)),
        field("Host for the connection", "connection: close, host", Refused(400)),
        field("the length for the connection", "connection: content-length", Refused(400)),
        field("cookies for the connection", "connection: keep-alive\r\nconnection: cookie", Refused(400)),
        field("Via for the connection", "connection: via", Refused(400)),
        field("CDN-Loop for the connection", "connection: cdn-loop", Refused(400)),
        field("CDN-Loop, dressed", "cdn_loop: x", Refused(400)),
        field(
            "an upgrade to a WebSocket",
            "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
            OK,
        ),
        field(
            "an upgrade to HTTP/2",
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__",
            OK,
        ),
        field("an upgrade without a connection's word", "upgrade: h2c", OK),
        field("an expectation", "expect: 100-continue", OK),
        field("an empty expectation", "expect:", OK),
        field("another expectation", "expect: miracles", Refused(417)),
        field("two expectations", "expect: 100-continue, miracles", Refused(417)),
        field("a page of another site", "origin: http://evil.test", Refused(403)),
        field("no site at all", "origin: null", Refused(403)),
        field("a fetch across sites", "sec-fetch-site: cross-site", Refused(403)),
        field("a range of ranges", &format!("range: bytes={}", "0-1,".repeat(1000)), OK),
        field("cookies", "cookie: a=b\r\ncookie: c=d", OK),
    ]
}

fn lengths() -> Vec<Case> {
    let hello = "5\r\nhello\r\n0\r\n\r\n";
    vec![
        body("a length", "content-length: 5", "hello", HELLO),
        body("a length with spaces", "content-length: \t5 ", "hello", HELLO),
        body("a length with zeros", "content-length: 0005", "hello", Either("/x", "hello")),
        body("no length", "x: y", "", OK),
        body("a length of nothing", "content-length: 0", "", OK),
        body("a length with a sign", "content-length: +5", "hello", Refused(400)),
        body("a length below zero", "content-length: -5", "hello", Refused(400)),
        body("a length in hexadecimal", "content-length: 0x5", "hello", Refused(400)),
        body("a length with a point", "content-length: 5.0", "hello", Refused(400)),
        body("an empty length", "content-length:", "hello", Refused(400)),
        body("a length of letters", "content-length: five", "hello", Refused(400)),
        body("a length with a space in it", "content-length: 5 5", "hello", Refused(400)),
        body("a length too large", "content-length: 18446744073709551621", "hello", Refused(400)),
        body("two lengths", "content-length: 5\r\ncontent-length: 6", "hello", Refused(400)),
        body("two lengths in one", "content-length: 5, 6", "hello", Refused(400)),
        body("a length twice", "content-length: 5\r\ncontent-length: 5", "hello", Either("/x", "hello")),
        body("a length twice in one", "content-length: 5, 5", "hello", Either("/x", "hello")),
        body("chunked", "transfer-encoding: chunked", hello, HELLO),
        body("chunked in capitals", "transfer-encoding: CHUNKED", hello, HELLO),
        body("chunked with spaces", "transfer-encoding: \t chunked \t", hello, HELLO),
        body("chunked twice", "transfer-encoding: chunked, chunked", hello, Refused(400)),
        body(
            "chunked on two lines",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            hello,
            Refused(400),
        ),
        body("gzip and chunked", "transfer-encoding: gzip, chunked", hello, Refused(400)),
        body("chunked and gzip", "transfer-encoding: chunked, gzip", hello, Refused(400)),
        body("chunked and nothing", "transfer-encoding: chunked,", hello, Refused(400)),
        body("nothing and chunked", "transfer-encoding: , chunked", hello, Refused(400)),
        body("identity", "transfer-encoding: identity", "hello", Refused(400)),
        body("identity and chunked", "transfer-encoding: identity, chunked", hello, Refused(400)),
        body(
            "identity and a length",
            "transfer-encoding: identity\r\ncontent-length: 5",
            "hello",
            Refused(400),
        ),
        body("nearly chunked", "transfer-encoding: xchunked", hello, Refused(400)),
        body("chunked with a parameter", "transfer-encoding: chunked;q=1", hello, Refused(400)),
        body("chunked in quotes", "transfer-encoding: \"chunked\"", hello, Refused(400)),
        body("chunked behind a vertical tab", "transfer-encoding: \u{b}chunked", hello, Refused(400)),
        body("chunked, folded", "transfer-encoding:\r\n chunked", hello, Refused(400)),
        body("chunked before a space and a colon", "transfer-encoding : chunked", hello, Refused(400)),
        body("an empty coding", "transfer-encoding:", hello, Refused(400)),
        body(
            "chunked and a length",
            "transfer-encoding: chunked\r\ncontent-length: 5",
            hello,
            Either("/x", "hello"),
        ),
        body(
            "a length and chunked",
            "content-length: 5\r\ntransfer-encoding: chunked",
            hello,
            Either("/x", "hello"),
        ),
        body(
            "a length that hides a request",
            "content-length: 49\r\ntransfer-encoding: chunked",
            "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: {H}\r\n\r\n",
            Either("/x", ""),
        ),
        body(
            "a length of the other kind",
            "content-length: 4\r\ntransfer-encoding: xchunked",
            "5c\r\n",
            Refused(400),
        ),
        (
            "chunked in HTTP/1.0",
            format!("POST /x HTTP/1.0\r\nhost: {{H}}\r\ntransfer-encoding: chunked\r\n\r\n{hello}"),
            Refused(400),
        ),
        (
            "a body for GET",
            "GET /x HTTP/1.1\r\nhost: {H}\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
            HELLO,
        ),
        (
            "chunks for GET",
            format!("GET /x HTTP/1.1\r\nhost: {{H}}\r\ntransfer-encoding: chunked\r\n\r\n{hello}"),
            HELLO,
        ),
    ]
}

fn chunks() -> Vec<Case> {
    let long = "x".repeat(100_000);
    let trailers = "x: y\r\n".repeat(2_000);
    vec![
        chunked("two chunks", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", HELLO),
        chunked("zeros before the size", "00005\r\nhello\r\n000\r\n\r\n", HELLO),
        chunked("an extension", "5;a=b\r\nhello\r\n0;c\r\n\r\n", HELLO),
        chunked("an extension in quotes", "5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", HELLO),
        chunked("an extension with a line end", "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n", Nothing),
        chunked("an extension without end", &format!("5;{long}\r\nhello\r\n0\r\n\r\n"), Nothing),
        chunked("a space behind the size", "5 \r\nhello\r\n0\r\n\r\n", Either("/x", "hello")),
        chunked("a space before the size", " 5\r\nhello\r\n0\r\n\r\n", Nothing),
        chunked("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n", Nothing),
        chunked("a size below zero", "-5\r\nhello\r\n0\r\n\r\n", Nothing),
        chunked("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n", Nothing),
        chunked("a size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n", Nothing),
        chunked("no size", "\r\nhello\r\n0\r\n\r\n", Nothing),
        chunked("a size that is none", "zz\r\nhello\r\n0\r\n\r\n", Nothing),
        chunked("a size too large", "10000000000000005\r\nhello\r\n0\r\n\r\n", Nothing),
        chunked("a chunk too long", "4\r\nhello\r\n0\r\n\r\n", Nothing),
        chunked("a chunk without its end", "5\r\nhello0\r\n\r\n", Nothing),
        chunked("a chunk with another end", "5\r\nhelloXX0\r\n\r\n", Nothing),
        chunked("line feeds alone", "5\nhello\n0\n\n", Nothing),
        chunked("a CR alone behind the size", "5\rhello\r\n0\r\n\r\n", Nothing),
        chunked("a trailer", "5\r\nhello\r\n0\r\nx: y\r\n\r\n", HELLO),
        chunked("a token in a trailer", "5\r\nhello\r\n0\r\nauthorization: Bearer evil\r\n\r\n", HELLO),
        chunked("a length in a trailer", "5\r\nhello\r\n0\r\ncontent-length: 50\r\n\r\n", HELLO),
        chunked("a trailer that is none", "5\r\nhello\r\n0\r\nnonsense\r\n\r\n", Either("/x", "hello")),
        chunked("trailers without end", &format!("5\r\nhello\r\n0\r\n{trailers}\r\n"), Nothing),
    ]
}

async fn exchange(world: &World, bytes: &str) -> String {
    let host = world.address.to_string();
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let sent = format!("{bytes}{MARKER}").replace("{H}", &host);
    // An early refusal may reset the connection while the request is still being sent.
    let _ = stream.write_all(sent.as_bytes()).await;
    let mut read = Vec::new();
    let until_end = async {
        while stream.read_buf(&mut read).await.unwrap_or(0) > 0 {
            if String::from_utf8_lossy(&read).contains("/marker|0") {
                break;
            }
        }
    };
    // Half a request waits for the rest until the time-out below.
    let _ = tokio::time::timeout(Duration::from_secs(3), until_end).await;
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn no_http_1_request_is_forwarded_as_another_request() {
    let strict = Strict::start().await;
    let world = daemon()
        .quiet()
        .upstream(format!("http://{}", strict.address()))
        .limits("header_timeout = \"1s\"\nbody_timeout = \"1s\"")
        .start()
        .await;
    let cases: Vec<Case> =
        [request_lines(), targets(), hosts(), fields(), lengths(), chunks()].into_iter().flatten().collect();
    let mut wrong = Vec::new();
    for (name, bytes, expect) in &cases {
        let answer = exchange(&world, bytes).await;
        let status: u16 = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let notes = strict.take(&world.authorization.issued());
        let mut say = |text: String| wrong.push(format!("{name}: {text}\n  {answer:.200}"));
        for violation in &notes.violations {
            say(violation.clone());
        }
        let expected = |target: &str, body: &str| {
            notes
                .messages
                .first()
                .is_some_and(|first| first.target == target.as_bytes() && first.body == body.as_bytes())
        };
        let is_well = match *expect {
            Refused(expected) => status == expected && notes.messages.is_empty(),
            Nothing => notes.messages.is_empty() && status != 200,
            Forwarded(target, body) => status == 200 && expected(target, body),
            Either(target, body) => {
                (notes.messages.is_empty() && (400..500).contains(&status))
                    || (status == 200 && expected(target, body))
            }
        };
        if !is_well {
            say(format!("expected {expect:?}, got {status} and {:?}", notes.messages));
        }
        // The marker follows, whole, or no request does.
        let behind: Vec<&[u8]> =
            notes.messages.iter().skip(1).map(|message| message.target.as_slice()).collect();
        if !matches!(behind.as_slice(), [] | [b"/marker"]) {
            say(format!("behind it came {behind:?}"));
        }
        if (400..500).contains(&status) && !answer.to_ascii_lowercase().contains("connection: close") {
            say("a refusal that keeps the connection".to_owned());
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 200, "{}", cases.len());
    world.finish().await;
}
