//! HTTP/2: RFC 9113, frame by frame.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::strict::Strict;
use crate::harness::{World, daemon};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Encodes fields without index or compression (RFC 7541 §6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Encodes an integer with a prefix of seven bits (RFC 7541 §5.1).
fn integer(block: &mut Vec<u8>, value: usize) {
    if value < 127 {
        block.push(u8::try_from(value).unwrap());
        return;
    }
    block.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128 + 128).unwrap());
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

pub(crate) fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &block(fields))
}

/// The allowed outcomes of the frames.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// The daemon forwards nothing: it refuses, resets the stream, or ends the connection.
    Nothing,
    Forwarded(&'static str, &'static str),
    Either(&'static str, &'static str),
}
use Expect::{Either, Forwarded, Nothing};

const OK: Expect = Forwarded("/x", "");

type Case = (&'static str, Vec<u8>, Expect);

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const AUTHORITY: (&str, &str) = (":authority", "localhost");
const PATH: (&str, &str) = (":path", "/x");
const USUAL: [(&str, &str); 4] = [METHOD, SCHEME, AUTHORITY, PATH];

/// A request with exactly these fields.
fn fields(name: &'static str, fields: &[(&str, &str)], expect: Expect) -> Case {
    (name, headers(1, END_STREAM, fields), expect)
}

/// A valid request with one more field.
fn field(name: &'static str, field: (&str, &str), expect: Expect) -> Case {
    fields(name, &[&USUAL[..], &[field]].concat(), expect)
}

/// A valid request with another path.
fn path(name: &'static str, path: &str, expect: Expect) -> Case {
    fields(name, &[METHOD, SCHEME, AUTHORITY, (":path", path)], expect)
}

/// A valid request with another authority.
fn authority(name: &'static str, authority: &str, expect: Expect) -> Case {
    fields(name, &[METHOD, SCHEME, (":authority", authority), PATH], expect)
}

fn post(more: &[(&str, &str)]) -> Vec<u8> {
    headers(1, 0, &[&[(":method", "POST"), SCHEME, AUTHORITY, PATH], more].concat())
}

fn frames(name: &'static str, frames: &[Vec<u8>], expect: Expect) -> Case {
    (name, frames.concat(), expect)
}

fn heads() -> Vec<Case> {
    let long = "y".repeat(100_000);
    vec![
        fields("usual", &USUAL, OK),
        fields("the pseudo-fields in another order", &[PATH, AUTHORITY, METHOD, SCHEME], OK),
        fields("no method", &[SCHEME, AUTHORITY, PATH], Nothing),
        fields("no scheme", &[METHOD, AUTHORITY, PATH], Nothing),
        fields("no path", &[METHOD, SCHEME, AUTHORITY], Nothing),
        fields("no authority", &[METHOD, SCHEME, PATH], OK),
        fields("a health check of HAProxy", &[(":method", "OPTIONS"), SCHEME, PATH], OK),
        fields("Host in the place of the authority", &[METHOD, SCHEME, PATH, ("host", "localhost")], OK),
        fields("another Host in its place", &[METHOD, SCHEME, PATH, ("host", "evil.test")], Nothing),
        fields(
            "Host twice in its place",
            &[METHOD, SCHEME, PATH, ("host", "localhost"), ("host", "localhost")],
            Nothing,
        ),
        field("two methods", (":method", "POST"), Nothing),
        field("two paths", (":path", "/y"), Nothing),
        field("two authorities", (":authority", "evil.test"), Nothing),
        field("two schemes", (":scheme", "https"), Nothing),
        field("a pseudo-field that is none", (":x", "y"), Nothing),
        field("one of an answer", (":status", "200"), Nothing),
        fields("a pseudo-field behind a field", &[METHOD, SCHEME, AUTHORITY, ("a", "b"), PATH], Nothing),
        field("a Host that says the same", ("host", "localhost"), OK),
        field("a Host that says another", ("host", "evil.test"), Nothing),
        fields(
            "Host twice",
            &[&USUAL[..], &[("host", "localhost"), ("host", "localhost")]].concat(),
            Nothing,
        ),
        field("a name in capitals", ("X-Mine", "y"), Nothing),
        field("a name with a space", ("x mine", "y"), Nothing),
        field("a name with a colon", ("x:mine", "y"), Nothing),
        field("a name with a line end", ("x\r\nevil", "y"), Nothing),
        field("no name", ("", "y"), Nothing),
        field("a value with a line end", ("x", "y\r\nevil: z"), Nothing),
        field("a value with a CR", ("x", "y\rz"), Nothing),
        field("a value with a NUL", ("x", "y\0z"), Nothing),
        field("a value that is not ASCII", ("x", "\u{fc}"), OK),
        field("a value with spaces around", ("x", " y "), Either("/x", "")),
        field("Connection", ("connection", "close"), Nothing),
        field("Connection with our token", ("connection", "authorization"), Nothing),
        field("Keep-Alive", ("keep-alive", "timeout=5"), Nothing),
        field("Proxy-Connection", ("proxy-connection", "keep-alive"), Nothing),
        field("Transfer-Encoding", ("transfer-encoding", "chunked"), Nothing),
        field("Upgrade", ("upgrade", "websocket"), Nothing),
        field("TE: trailers", ("te", "trailers"), OK),
        field("TE: gzip", ("te", "gzip"), Nothing),
        field("an expectation", ("expect", "100-continue"), OK),
        field("another expectation", ("expect", "miracles"), Nothing),
        field("a token of the caller's", ("authorization", "Bearer evil"), OK),
        field("who it says it is", ("x-forwarded-for", "1.2.3.4"), OK),
        field("another method", ("x-http-method-override", "DELETE"), Nothing),
        field("a dressed length", ("content_length", "5"), Nothing),
        field("a page of another site", ("origin", "http://evil.test"), Nothing),
        field("a field without end", ("x", &long), Nothing),
        fields("cookies in crumbs", &[&USUAL[..], &[("cookie", "a=b"), ("cookie", "c=d")]].concat(), OK),
        fields(
            "CONNECT",
            &[(":method", "CONNECT"), ("te", "trailers"), (":authority", "localhost:80")],
            Nothing,
        ),
        fields("CONNECT to a host", &[(":method", "CONNECT"), (":authority", "evil.test:443")], Nothing),
        fields(
            "CONNECT to a protocol",
            &[(":method", "CONNECT"), (":protocol", "websocket"), SCHEME, AUTHORITY, PATH],
            Nothing,
        ),
        fields("TRACE", &[(":method", "TRACE"), SCHEME, AUTHORITY, PATH], Nothing),
        fields("a method that is no token", &[(":method", "G T"), SCHEME, AUTHORITY, PATH], Nothing),
        fields(
            "a method with a line end",
            &[(":method", "GET /y HTTP/1.1\r\nx: y"), SCHEME, AUTHORITY, PATH],
            Nothing,
        ),
        fields("https over clear text", &[METHOD, (":scheme", "https"), AUTHORITY, PATH], OK),
        fields("another scheme", &[METHOD, (":scheme", "ftp"), AUTHORITY, PATH], Nothing),
        fields("an empty scheme", &[METHOD, (":scheme", ""), AUTHORITY, PATH], Nothing),
    ]
}

fn places() -> Vec<Case> {
    vec![
        authority("another", "evil.test", Nothing),
        authority("a user", "user@localhost", Nothing),
        authority("ours as a user", "localhost@evil.test", Nothing),
        authority("a path", "localhost/y", Nothing),
        authority("an empty authority", "", Nothing),
        authority("a port that is none", "localhost:http", Nothing),
        authority("two authorities in one", "localhost, evil.test", Nothing),
        authority("a line end", "localhost\r\nx: y", Nothing),
        authority("capitals", "LOCALHOST", OK),
        path("an empty path", "", Nothing),
        path("an asterisk", "*", Nothing),
        path("no slash", "x", Nothing),
        path("an address", "http://evil.test/x", Nothing),
        path("two slashes and a host", "//evil.test/x", Either("//evil.test/x", "")),
        path("a space", "/x y", Nothing),
        path("a request line", "/x HTTP/1.1\r\nhost: evil.test\r\n\r\n", Nothing),
        path("a line feed", "/x\ny", Nothing),
        path("a NUL", "/x\0", Nothing),
        path("a fragment", "/x#y", Either("/x", "")),
        path("two dots", "/a/../x", Nothing),
        path("two dots, escaped", "/a/%2e%2e/x", Nothing),
        path("a backslash", "/a\\x", Nothing),
        path("a line end, escaped", "/x%0d%0a", Nothing),
        path("a token in the query", "/x?access_token=evil", Nothing),
        path("a slash, escaped", "/a%2fx", Forwarded("/a%2fx", "")),
        path("letters that are not ASCII", "/\u{fc}", Either("/\u{fc}", "")),
    ]
}

fn bodies() -> Vec<Case> {
    let hello = |flags| frame(DATA, flags, 1, b"hello");
    let length = |length| post(&[("content-length", length)]);
    let whole = Forwarded("/x", "hello");
    vec![
        frames("a body", &[post(&[]), hello(END_STREAM)], whole),
        frames("a body of a length", &[length("5"), hello(END_STREAM)], whole),
        frames("a length too small", &[length("4"), hello(END_STREAM)], Nothing),
        frames("a length too large", &[length("6"), hello(END_STREAM)], Nothing),
        frames(
            "a length and nothing",
            &[headers(1, END_STREAM, &[&USUAL[..], &[("content-length", "5")]].concat())],
            Nothing,
        ),
        frames(
            "two lengths",
            &[post(&[("content-length", "5"), ("content-length", "6")]), hello(END_STREAM)],
            Nothing,
        ),
        frames("a length that is none", &[length("+5"), hello(END_STREAM)], Nothing),
        frames(
            "a body in padding",
            &[post(&[]), frame(DATA, END_STREAM | PADDED, 1, b"\x03hello\0\0\0")],
            whole,
        ),
        frames(
            "more padding than there is",
            &[post(&[]), frame(DATA, END_STREAM | PADDED, 1, b"\x09hello")],
            Nothing,
        ),
        frames("an end of its own", &[post(&[]), hello(0), frame(DATA, END_STREAM, 1, b"")], whole),
        frames("trailers", &[post(&[]), hello(0), headers(1, END_STREAM, &[("x", "y")])], whole),
        frames(
            "a token in trailers",
            &[post(&[]), hello(0), headers(1, END_STREAM, &[("authorization", "Bearer evil")])],
            whole,
        ),
        frames(
            "a pseudo-field in trailers",
            &[post(&[]), hello(0), headers(1, END_STREAM, &[(":path", "/y")])],
            Either("/x", "hello"),
        ),
        frames(
            "trailers that are not the end",
            &[post(&[]), hello(0), headers(1, 0, &[("x", "y")]), hello(END_STREAM)],
            Nothing,
        ),
        frames("more after the end", &[headers(1, END_STREAM, &USUAL), hello(END_STREAM)], Either("/x", "")),
        frames(
            "a body that is taken back",
            &[post(&[]), hello(0), frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())],
            Nothing,
        ),
    ]
}

fn connections() -> Vec<Case> {
    let usual = || headers(1, END_STREAM, &USUAL);
    let pieces = block(&USUAL);
    let (first, rest) = pieces.split_at(20);
    let begun = || frame(HEADERS, END_STREAM, 1, first);
    vec![
        frames("a head in two frames", &[begun(), frame(CONTINUATION, END_HEADERS, 1, rest)], OK),
        frames(
            "another frame within a head",
            &[begun(), frame(PING, 0, 0, &[0; 8]), frame(CONTINUATION, END_HEADERS, 1, rest)],
            Nothing,
        ),
        frames(
            "another stream's rest of a head",
            &[begun(), frame(CONTINUATION, END_HEADERS, 3, rest)],
            Nothing,
        ),
        frames("a rest of no head", &[frame(CONTINUATION, END_HEADERS, 1, rest)], Nothing),
        frames("a head without end", &[begun(), frame(CONTINUATION, 0, 1, b"").repeat(20_000)], Nothing),
        frames("a head of no stream", &[headers(0, END_STREAM, &USUAL)], Nothing),
        frames("a stream of the server's", &[headers(2, END_STREAM, &USUAL)], Nothing),
        frames("a body of no stream", &[frame(DATA, END_STREAM, 0, b"hello")], Nothing),
        frames("a body of a stream that is not open", &[frame(DATA, END_STREAM, 5, b"hello")], Nothing),
        frames(
            "a stream that was passed over",
            &[headers(5, END_STREAM, &USUAL), headers(3, END_STREAM, &USUAL)],
            Either("/x", ""),
        ),
        frames(
            "a stream that waits for itself",
            &[frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 16]), usual()],
            Either("/x", ""),
        ),
        frames(
            "a push",
            &[frame(PUSH_PROMISE, END_HEADERS, 1, &[&2_u32.to_be_bytes()[..], &pieces].concat())],
            Nothing,
        ),
        frames("settings of a wrong length", &[frame(SETTINGS, 0, 0, b"12345"), usual()], Nothing),
        frames("settings of a stream", &[frame(SETTINGS, 0, 1, b""), usual()], Nothing),
        frames("a window too large", &[frame(SETTINGS, 0, 0, b"\0\x04\xff\xff\xff\xff"), usual()], Nothing),
        frames("a window that grows by nothing", &[frame(WINDOW_UPDATE, 0, 0, &[0; 4]), usual()], Nothing),
        frames(
            "a window that grows too far",
            &[frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()), usual()],
            Nothing,
        ),
        frames("a ping of a wrong length", &[frame(PING, 0, 0, b"1234"), usual()], Nothing),
        frames("a ping of a stream", &[frame(PING, 0, 1, &[0; 8]), usual()], Nothing),
        frames(
            "a frame too large",
            &[frame(HEADERS, END_STREAM | END_HEADERS, 1, &vec![0; 1 << 20])],
            Nothing,
        ),
        frames("a frame of no known kind", &[frame(0xbb, 0xff, 1, b"hello"), usual()], OK),
        frames(
            "a field that is in no table",
            &[frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0xff, 0x7f])],
            Nothing,
        ),
        frames(
            "half a field",
            &[frame(HEADERS, END_STREAM | END_HEADERS, 1, &pieces[..pieces.len() - 1])],
            Nothing,
        ),
        frames(
            "a table too large",
            &[frame(
                HEADERS,
                END_STREAM | END_HEADERS,
                1,
                &[&[0x3f, 0xff, 0xff, 0x7f], &pieces[..]].concat(),
            )],
            Nothing,
        ),
        frames("a reset of no stream", &[frame(RST_STREAM, 0, 1, &[0; 4]), usual()], Nothing),
        frames("goodbye, and then a request", &[frame(GOAWAY, 0, 0, &[0; 8]), usual()], Either("/x", "")),
    ]
}

/// The frames that the daemon sends before the answer's end, or in 700 ms: kind, stream, payload.
async fn exchange(world: &World, sent: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, b""));
    bytes.extend(sent);
    let _ = stream.write_all(&bytes).await;
    let mut read = Vec::new();
    let mut frames = Vec::new();
    let until_answered = async {
        while stream.read_buf(&mut read).await.unwrap_or(0) > 0 {
            while read.len() >= 9 {
                let length = usize::from(read[0]) << 16 | usize::from(read[1]) << 8 | usize::from(read[2]);
                if read.len() < 9 + length {
                    break;
                }
                let whole: Vec<u8> = read.drain(..9 + length).collect();
                let id = u32::from_be_bytes(whole[5..9].try_into().unwrap());
                frames.push((whole[3], id, whole[9..].to_vec()));
                let is_end = (whole[3] <= HEADERS && whole[4] & END_STREAM != 0) || whole[3] == RST_STREAM;
                if is_end && id != 0 {
                    return;
                }
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(700), until_answered).await;
    frames
}

/// Whether an answer is a 200: the first field, after changes of the table's size (RFC 7541 §6.3, appendix A).
fn is_answered(frames: &[(u8, u32, Vec<u8>)]) -> bool {
    let first = |payload: &[u8]| payload.iter().copied().find(|byte| byte & 0xe0 != 0x20);
    frames.iter().any(|(kind, _, payload)| *kind == HEADERS && first(payload) == Some(0x88))
}

#[tokio::test]
async fn no_http_2_request_is_forwarded_as_another_request() {
    let strict = Strict::start().await;
    let world = daemon()
        .quiet()
        .upstream(format!("http://{}", strict.address()))
        .limits("header_timeout = \"1s\"\nbody_timeout = \"500ms\"")
        .start()
        .await;
    let cases: Vec<Case> = [heads(), places(), bodies(), connections()].into_iter().flatten().collect();
    let mut wrong = Vec::new();
    for (name, bytes, expect) in &cases {
        let answer = exchange(&world, bytes).await;
        let notes = strict.take(&world.authorization.issued());
        let is_forwarded = |target: &str, body: &str| match notes.messages.as_slice() {
            [only] => only.target == target.as_bytes() && only.body == body.as_bytes(),
            _ => false,
        };
        let is_well = match *expect {
            Nothing => notes.messages.is_empty() && !is_answered(&answer),
            Forwarded(target, body) => is_forwarded(target, body) && is_answered(&answer),
            Either(target, body) => notes.messages.is_empty() || is_forwarded(target, body),
        };
        if !is_well {
            wrong.push(format!("{name}: expected {expect:?}, got {answer:?} and {:?}", notes.messages));
        }
        wrong.extend(notes.violations.iter().map(|violation| format!("{name}: {violation}")));
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 100, "{}", cases.len());
    // The daemon still serves requests.
    assert_eq!(
        exchange(&world, &headers(1, END_STREAM, &USUAL))
            .await
            .iter()
            .filter(|frame| frame.0 == HEADERS)
            .count(),
        1
    );
    world.finish().await;
}
