//! Webhooks, with receivers that do what a test says.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use rustix::process::Signal;
use serde_json::Value;
use standardwebhooks::Webhook;
use testkit::authorization_server::Answer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{PROMPT, World, daemon, eventually, remains};

/// What the receiver does with a message; further messages get 204.
#[derive(Clone, Debug)]
enum Does {
    Answers(&'static str),
    AnswersHugely,
    Hangs,
}

#[derive(Clone, Debug)]
struct Received {
    path: String,
    headers: HeaderMap,
    body: String,
    at: Instant,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap_or_default().to_owned()
    }
}

#[derive(Clone, Debug)]
struct Receiver {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    async fn start(script: &[Does]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let script = Arc::new(Mutex::new(script.iter().cloned().collect::<VecDeque<_>>()));
        let kept = Arc::clone(&received);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (kept, script) = (Arc::clone(&kept), Arc::clone(&script));
                tokio::spawn(async move { answer(stream, &kept, &script).await });
            }
        });
        Self { address, received }
    }

    fn all(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    async fn has(&self, count: usize) -> Vec<Received> {
        eventually("messages", async || self.all().len() >= count).await;
        self.all()
    }
}

async fn answer(
    mut stream: TcpStream,
    kept: &Mutex<Vec<Received>>,
    script: &Mutex<VecDeque<Does>>,
) -> Option<()> {
    let mut bytes = Vec::new();
    let received = loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        if let Some(received) = parse(&bytes) {
            break received;
        }
    };
    kept.lock().unwrap().push(received);
    let does = script.lock().unwrap().pop_front().unwrap_or(Does::Answers("204 No Content"));
    match does {
        Does::Answers(status) => {
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.ok()
        }
        Does::AnswersHugely => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await.ok()?;
            let chunk = vec![b'x'; 1 << 20];
            while stream.write_all(&chunk).await.is_ok() {}
            Some(())
        }
        Does::Hangs => {
            tokio::time::sleep(Duration::from_hours(1)).await;
            Some(())
        }
    }
}

/// A whole request.
fn parse(bytes: &[u8]) -> Option<Received> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes).unwrap() else { return None };
    assert_eq!(head.method, Some("POST"));
    let path = head.path.unwrap().to_owned();
    let mut headers = HeaderMap::new();
    for field in head.headers {
        let name = http::HeaderName::from_bytes(field.name.as_bytes()).unwrap();
        headers.append(name, http::HeaderValue::from_bytes(field.value).unwrap());
    }
    let body_length: usize = headers["content-length"].to_str().unwrap().parse().unwrap();
    let body = bytes.get(length..length + body_length)?;
    Some(Received { path, headers, body: String::from_utf8(body.to_vec()).unwrap(), at: Instant::now() })
}

/// A secret of 24 equal bytes.
fn secret(byte: u8) -> String {
    format!("whsec_{}", STANDARD.encode([byte; 24]))
}

/// A daemon with a webhook of this receiver; further lines are keys of the webhook.
async fn world(receiver: &Receiver, lines: &str) -> World {
    let webhook =
        format!("[[webhooks]]\nurl = \"http://{}/hooks/T0K3N?x=S3CR3T\"\n{lines}", receiver.address);
    daemon().quiet().environment("WEBHOOK_SECRET", &secret(7)).route(&webhook).start().await
}

async fn refresh(world: &World) {
    assert_eq!(world.admin_post("/credentials/api/refresh").await.0, 200);
}

/// The log never has the URL beyond its origin, nor a secret.
async fn finish(world: World) {
    let output = world.process.output();
    for hidden in ["T0K3N", "S3CR3T", &secret(7)[6..]] {
        assert!(!output.contains(hidden), "{hidden} in {output}");
    }
    world.finish().await;
}

#[tokio::test]
async fn messages_are_signed_by_every_secret_and_keep_their_identifier() {
    let receiver = Receiver::start(&[Does::Answers("500 Internal Server Error")]).await;
    let webhook = format!(
        "[[webhooks]]\nurl = \"http://{}/hooks/T0K3N?x=S3CR3T\"\nevents = [\"daemon.*\"]\nname = \"soc\"\n\
         secret = [{{ env = \"WEBHOOK_SECRET\" }}, {{ file = \"next\" }}]",
        receiver.address
    );
    let mut world = daemon()
        .quiet()
        .environment("WEBHOOK_SECRET", &secret(7))
        .file("next", &secret(8))
        .route(&webhook)
        .start()
        .await;
    let all = receiver.has(2).await;
    assert_eq!(all[0].path, "/hooks/T0K3N?x=S3CR3T");
    assert_eq!(all[0].header("webhook-id"), all[1].header("webhook-id"), "the same at every attempt");
    assert!(all[1].at - all[0].at >= Duration::from_secs(5), "{:?}", all[1].at - all[0].at);
    assert_eq!(all[0].body, all[1].body);
    for received in &all {
        for byte in [7, 8] {
            Webhook::new(&secret(byte)).unwrap().verify(received.body.as_bytes(), &received.headers).unwrap();
        }
        assert!(
            Webhook::new(&secret(9)).unwrap().verify(received.body.as_bytes(), &received.headers).is_err()
        );
    }
    let message = all[0].json();
    assert_eq!(
        (all[0].kind().as_str(), &message["data"]["event"]),
        ("daemon.started", &"daemon.started".into())
    );
    assert_eq!(all[0].header("content-type"), "application/json");
    assert_eq!(world.process.event("webhook not delivered").await["error"], "status 500");
    world.process.event("webhook delivered again").await;

    world.process.signal(Signal::TERM);
    let all = receiver.has(3).await;
    assert_eq!(all[2].kind(), "daemon.stopped", "delivered at the stop");
    assert_eq!(world.process.ended().await.code(), Some(0));
    world.check();
}

/// FLT-WH-01.
#[tokio::test]
async fn a_receiver_that_hangs_or_answers_hugely_delays_no_refresh() {
    for does in [Does::Hangs, Does::AnswersHugely] {
        let receiver = Receiver::start(&vec![does; 100]).await;
        let world = world(&receiver, "events = [\"*\"]\ntimeout = \"1s\"").await;
        receiver.has(1).await;
        let began = Instant::now();
        for _ in 0..3 {
            refresh(&world).await;
            assert_eq!(world.get("/x").await.status, 200);
        }
        assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
        finish(world).await;
    }
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_a_gone_receiver_is_off_until_a_reload() {
    let other = Receiver::start(&[]).await;
    let location: &'static str = format!("307 X\r\nlocation: http://{}/", other.address).leak();
    let receiver = Receiver::start(&[Does::Answers(location), Does::Answers("410 Gone")]).await;
    let world = world(&receiver, "events = [\"operator.*\"]").await;
    refresh(&world).await;
    let event = world.process.event("webhook not delivered").await;
    assert_eq!(event["error"], "status 307");
    refresh(&world).await;
    world.process.event("webhook switched off until the next reload: the receiver answered 410").await;
    refresh(&world).await;
    remains("off", Duration::from_millis(300), async || receiver.all().len() == 2).await;
    world.reload().await;
    refresh(&world).await;
    receiver.has(3).await;
    assert!(other.all().is_empty(), "no redirect is followed");
    finish(world).await;
}

#[tokio::test]
async fn a_receiver_that_asks_to_wait_is_obeyed() {
    let receiver = Receiver::start(&[Does::Answers("429 Too Many Requests\r\nretry-after: 7")]).await;
    let world = world(&receiver, "events = [\"operator.*\"]").await;
    refresh(&world).await;
    receiver.has(1).await;
    refresh(&world).await;
    remains("waiting", Duration::from_millis(300), async || receiver.all().len() == 1).await;
    let all = receiver.has(3).await;
    assert!(all[1].at - all[0].at >= Duration::from_secs(7), "{:?}", all[1].at - all[0].at);
    finish(world).await;
}

#[tokio::test]
async fn by_default_failures_and_recoveries_are_sent_and_no_refresh() {
    let receiver = Receiver::start(&[]).await;
    let world = world(&receiver, "").await;
    refresh(&world).await;
    world.authorization.answer_next(Answer::status(503, ""));
    world.admin_post("/credentials/api/refresh").await;
    let all = receiver.has(1).await;
    assert_eq!(all[0].kind(), "token.refresh_failed");
    assert!(all[0].headers.get("webhook-signature").is_none(), "without a secret");
    eventually("a refresh", async || world.admin_post("/credentials/api/refresh").await.0 == 200).await;
    eventually("the recovery", async || {
        receiver.all().iter().any(|one| one.kind() == "credential.recovered")
    })
    .await;
    let kinds: Vec<String> = receiver.all().iter().map(Received::kind).collect();
    assert_eq!(kinds, ["token.refresh_failed", "credential.recovered"]);
    finish(world).await;
}

#[tokio::test]
async fn the_other_formats_have_their_shapes() {
    let (seed, cloud) = (Receiver::start(&[]).await, Receiver::start(&[]).await);
    let webhooks = format!(
        "[[webhooks]]\nurl = \"http://{}/\"\nformat = \"seed\"\nevents = [\"token.refreshed\"]\ntenant = \"t-1\"\n\
         [[webhooks]]\nurl = \"http://{}/\"\nformat = \"cloudevents\"\nevents = [\"token.refreshed\"]",
        seed.address, cloud.address
    );
    let world = daemon().quiet().route(&webhooks).start().await;
    eventually("the counts", async || {
        let status: Value = serde_json::from_str(&world.admin_get("/status").await.1).unwrap();
        let webhook = &status["webhooks"][0];
        webhook["origin"] == format!("http://{}", seed.address)
            && webhook["delivered"] == 1
            && webhook["queued"] == 0
    })
    .await;
    let message = seed.has(1).await[0].json();
    let members: Vec<&String> = message.as_object().unwrap().keys().collect();
    assert_eq!(members.len(), 6, "{message}");
    assert_eq!((&message["event"], &message["status"]), (&"token_refreshed".into(), &"success".into()));
    assert_eq!((&message["tenant"], &message["rotation"]), (&"t-1".into(), &0.into()));
    assert!(message["latency"].is_u64() && message["timestamp"].is_string(), "{message}");
    let received = &cloud.has(1).await[0];
    assert_eq!(received.header("content-type"), "application/cloudevents+json; charset=utf-8");
    let message = received.json();
    assert_eq!((&message["specversion"], &message["type"]), (&"1.0".into(), &"token.refreshed".into()));
    assert_eq!(message["id"], received.header("webhook-id"));
    world.finish().await;
}

#[tokio::test]
async fn a_private_address_is_not_connected_to() {
    let webhook =
        "[[webhooks]]\nurl = \"https://169.254.169.254/latest\"\nallow_private = true\nevents = [\"*\"]";
    let world = daemon().quiet().route(webhook).start().await;
    let event = world.process.event("webhook not delivered").await;
    assert!(event["error"].as_str().unwrap().contains("169.254.169.254"), "{event}");
    world.finish().await;
}
