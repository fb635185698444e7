//! The callers of the soak.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::Soak;
use super::samples::Samples;
use crate::callers::{Connection, Version, connect, new_id};
use crate::report::Report;
use crate::world::{CHAT, LATE, PERSON, World};

/// Requests for each connection, and streams at once.
const REQUESTS: usize = 60;
pub(crate) const STREAMS: usize = 4;
const BIG: usize = 3_000_000;

/// Sends requests of every kind, and judges every answer.
pub(crate) async fn asking(soak: Rc<Soak>, version: Version, index: usize) {
    // The callers start at different times.
    tokio::time::sleep(Duration::from_millis(7 * index as u64)).await;
    while !soak.is_over() {
        let mut connection = match Connection::open(&soak.world, version).await {
            Ok(connection) => connection,
            Err(error) => {
                soak.tally.wrong(format!("no connection: {error}"));
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        for _ in 0..REQUESTS {
            if soak.is_over() || !connection.is_ready().await {
                break;
            }
            match version {
                Version::Http1 => ask(&soak, &mut connection).await,
                Version::Http2 => {
                    let mut streams: Vec<Connection> =
                        (0..STREAMS).map(|_| connection.share().expect("it is HTTP/2")).collect();
                    join_all(streams.iter_mut().map(|stream| ask(&soak, stream))).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(10..50))).await;
        }
    }
}

async fn ask(soak: &Soak, connection: &mut Connection) {
    let id = new_id();
    let whose = if fastrand::u8(..4) == 0 { PERSON } else { "" };
    let (path, body, expected) = match fastrand::u8(..20) {
        0 => (format!("{whose}/big/{BIG}"), None, Bytes::from(vec![b'x'; BIG])),
        1..=4 => {
            let body: Bytes =
                std::iter::repeat_with(|| fastrand::u8(..)).take(fastrand::usize(2..300_000)).collect();
            (format!("{whose}/echo"), Some(body.clone()), body)
        }
        5..=6 => (format!("{whose}/slow/{}/id", fastrand::u16(..1000)), None, Bytes::from(id.clone())),
        _ => (format!("{whose}/id"), None, Bytes::from(id.clone())),
    };
    let answer = connection.ask(&id, &path, body).await;
    soak.tally.note(&soak.world.api, &id, (&expected, path.contains("slow")), answer);
}

fn head(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nx-test-id: {}\r\n{more}\r\n", new_id())
}

/// Reads an answer in small pieces with pauses; half of the callers leave before its end.
pub(crate) async fn reading_slowly(soak: Rc<Soak>) {
    while !soak.is_over() {
        let Ok(mut socket) = connect(&soak.world, Version::Http1, true).await else { continue };
        let request = head(&format!("/big/{BIG}"), "connection: close\r\n");
        let _ = socket.write_all(request.as_bytes()).await;
        let (mut received, leaves_after) = (Vec::new(), fastrand::usize(..2 * BIG));
        let is_broken = loop {
            match socket.read_buf(&mut received).await {
                Ok(0) => break false,
                Err(_) => break true,
                Ok(_) if received.len() > leaves_after || soak.is_over() => break true,
                Ok(_) => tokio::time::sleep(Duration::from_millis(fastrand::u64(..8))).await,
            }
        };
        let start =
            received.windows(4).position(|end| end == b"\r\n\r\n").map_or(received.len(), |at| at + 4);
        if received.starts_with(b"HTTP/1.1 200") && received[start..].iter().any(|byte| *byte != b'x') {
            soak.tally.wrong("a slow reader's answer is not its own".to_owned());
        }
        let is_whole = received.len() - start == BIG;
        soak.tally.count(match (is_whole, is_broken) {
            (true, _) => "slow readers that got all",
            (false, true) => "slow readers that left, or whose answer broke off",
            // The answer had a length, or TLS tells the end.
            (false, false) => "slow readers whose answer was short or a failure",
        });
    }
}

/// Reads nothing of an answer until the daemon closes the connection.
pub(crate) async fn reading_nothing(soak: Rc<Soak>) {
    while !soak.is_over() {
        let Ok(mut socket) = connect(&soak.world, Version::Http1, true).await else { continue };
        let _ = socket.write_all(head(&format!("/big/{BIG}"), "").as_bytes()).await;
        let began = Instant::now();
        // A write shows the connection's end; the bytes are a head that never ends.
        let end = loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            if socket.write_all(b"x").await.is_err() {
                break Some(began.elapsed());
            }
            if began.elapsed() > Duration::from_secs(15) {
                break None;
            }
        };
        match end {
            Some(time) => soak.tally.stuck(time),
            None => soak.tally.wrong("a caller that reads nothing was not cut off".to_owned()),
        }
        let mut received = Vec::new();
        let _ = socket.read_to_end(&mut received).await;
        if received.len() >= BIG {
            soak.tally.wrong("a caller that was cut off got all".to_owned());
        }
        soak.tally.count("readers of nothing");
    }
}

/// Leaves in the middle of a head, of a body, of the wait for an answer, or of an answer.
pub(crate) async fn leaving(soak: Rc<Soak>) {
    while !soak.is_over() {
        let pause = Duration::from_millis(fastrand::u64(20..200));
        let way = fastrand::u8(..5);
        if way == 4 {
            if let Ok(mut connection) = Connection::open(&soak.world, Version::Http2).await {
                // The stream is reset, then the connection ends.
                let id = new_id();
                let _ = tokio::time::timeout(pause, connection.ask(&id, "/slow/5000", None)).await;
            }
        } else if let Ok(mut socket) = connect(&soak.world, Version::Http1, false).await {
            let text = match way {
                0 => head("/words", "").trim_end().to_owned(),
                1 => head("/echo", "content-length: 100000\r\n").replace("GET", "POST") + &"x".repeat(50_000),
                2 => head("/slow/5000", ""),
                _ => head(&format!("/big/{BIG}"), ""),
            };
            let _ = socket.write_all(text.as_bytes()).await;
            if way == 3 {
                let _ = socket.read(&mut [0; 1000]).await;
            }
            tokio::time::sleep(pause).await;
        }
        soak.tally.count("callers that left");
    }
}

/// Resets every second stream of a connection; the others are answered.
pub(crate) async fn resetting(soak: Rc<Soak>) {
    while !soak.is_over() {
        let Ok(mut connection) = Connection::open(&soak.world, Version::Http2).await else { continue };
        for _ in 0..REQUESTS {
            if soak.is_over() || !connection.is_ready().await {
                break;
            }
            let mut streams = [(); 2].map(|()| connection.share().expect("it is HTTP/2"));
            let [given_up, asked] = &mut streams;
            let pause = Duration::from_millis(fastrand::u64(1..100));
            let path = if fastrand::bool() { "/slow/5000".to_owned() } else { format!("/big/{BIG}") };
            let id = new_id();
            let _ =
                tokio::join!(tokio::time::timeout(pause, given_up.ask(&id, &path, None)), ask(&soak, asked));
            soak.tally.count("HTTP/2 streams that were given up");
        }
    }
}

/// Asks an API that learns late of new tokens. These are never revoked, so that no caller may hear of it.
pub(crate) async fn asking_late(soak: Rc<Soak>) {
    while !soak.is_over() {
        let Ok(mut connection) = Connection::open(&soak.world, Version::Http1).await else { continue };
        for _ in 0..REQUESTS {
            if soak.is_over() || !connection.is_ready().await {
                break;
            }
            let id = new_id();
            let answer = connection.ask(&id, &format!("{LATE}/id"), None).await;
            soak.world.late.1.settle(&id);
            match answer {
                Ok(answer) if answer.status == 200 && answer.body == id => {
                    soak.tally.count("200 of the API that learns late of tokens");
                }
                other => soak.tally.wrong(format!("{id}, of the late API: {other:?}")),
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(10..50))).await;
        }
    }
}

/// Sends bytes over a WebSocket, which come back; half of the callers leave without an end of TLS.
pub(crate) async fn chatting(soak: Rc<Soak>) {
    const HANDSHAKE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    while !soak.is_over() {
        let Ok(mut socket) = connect(&soak.world, Version::Http1, false).await else { continue };
        let _ = socket.write_all(head(CHAT, HANDSHAKE).as_bytes()).await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n")
            && matches!(socket.read_u8().await.map(|byte| answer.push(byte)), Ok(()))
        {}
        if !answer.starts_with(b"HTTP/1.1 101") {
            // As other requests, it may wait for a token in vain.
            soak.tally.count("WebSockets that were refused");
            if !answer.starts_with(b"HTTP/1.1 503") {
                soak.tally.wrong(format!("a WebSocket: {}", String::from_utf8_lossy(&answer)));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        }
        for _ in 0..fastrand::usize(1..40) {
            let sent: Vec<u8> =
                std::iter::repeat_with(|| fastrand::u8(..)).take(fastrand::usize(1..20_000)).collect();
            let mut received = vec![0; sent.len()];
            let is_sent = socket.write_all(&sent).await.is_ok();
            if !is_sent || socket.read_exact(&mut received).await.is_err() || received != sent {
                soak.tally.wrong("the bytes of a WebSocket did not come back".to_owned());
                break;
            }
            if soak.is_over() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..200))).await;
        }
        if fastrand::bool() {
            let _ = socket.shutdown().await;
        }
        soak.tally.count("WebSockets");
    }
}

/// How long threads may take to end: the runtime keeps a thread that has nothing to do for 10 s.
const THREADS_END: Duration = Duration::from_secs(30);
/// The threads that block and may be there at any time: every two seconds the configuration, the files of certificates and
/// those of secrets are read, and states are written, some of it at the same moment.
const WATCHES: u64 = 6;

/// Checks that the daemon has as many descriptors and threads as before the load, and its connections to the API.
pub(crate) async fn all_gone(world: &World, samples: &Samples, report: &mut Report) {
    let (began, before) = (Instant::now(), samples.threads_before());
    let are_left =
        || (world.lasting_threads(), world.lookups()) != (before, 0) || world.blocking_threads() > WATCHES;
    while are_left() && began.elapsed() < THREADS_END {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let took = format!(
        "{} of {before}, {} that look up names, {} that block, after {:.0} s",
        world.lasting_threads(),
        world.lookups(),
        world.blocking_threads(),
        began.elapsed().as_secs_f64()
    );
    report.check("no thread is left when all callers have gone", !are_left(), &took);
    let Some(before) = samples.descriptors_before() else {
        return report.note("descriptors are shown to root alone");
    };
    let began = Instant::now();
    let left = loop {
        let left = world.descriptors().unwrap().saturating_sub(world.api_connections());
        if left <= before || began.elapsed() > Duration::from_secs(10) {
            break left;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    report.check(
        "no descriptor is left when all callers have gone",
        left <= before,
        &format!("{before} before; {left}, and {} connections to the API", world.api_connections()),
    );
}
