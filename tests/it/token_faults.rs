//! Faults of the connection to the token endpoint: no partial token is used, and waits have their time-outs.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bearerd::config::{Config, Environment, parse};
use bearerd::tls::client::Trust;
use bearerd::token::error::{Malformed, TokenError};
use bearerd::token::{TokenClient, TokenEndpoint};
use rustix::process::Signal;
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::harness::{PROMPT, Request, daemon, eventually};
use testkit::harness::raw::{BlackHole, RawPeer, reset};

const FAILED: &str = "token refresh failed";

/// The bytes that the token endpoint sends next, and whether it resets the connection afterwards.
type Script = Arc<Mutex<(Vec<u8>, bool)>>;

async fn endpoint(script: &Script) -> RawPeer {
    let script = Arc::clone(script);
    RawPeer::tcp(move |mut stream| {
        let script = Arc::clone(&script);
        async move {
            let mut request = Vec::new();
            // With unread bytes the system would reset the connection by itself.
            while !request.ends_with(b"grant_type=client_credentials") {
                if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let (said, is_reset) = script.lock().unwrap().clone();
            let _ = stream.write_all(&said).await;
            if is_reset {
                // Time for the daemon to read the bytes first.
                tokio::time::sleep(Duration::from_millis(1)).await;
                reset(&stream);
            }
        }
    })
    .await
}

/// A configuration whose credential asks this peer.
fn config(peer: &RawPeer) -> Config {
    let text = format!(
        "[credentials.api]\ntoken_url = \"http://{}/token\"\nclient_id = \"x\"\n\
         client_secret = {{ env = \"S\" }}\n\
         [[routes]]\nupstream = \"http://127.0.0.1:9\"\ncredential = \"api\"\n",
        peer.address
    );
    let environment = Environment::from([("S", "x")]);
    parse(Path::new("proxy.toml"), text, &environment).unwrap().config
}

/// FLT-NET-03.
#[tokio::test]
async fn a_truncated_answer_is_never_a_partial_token() {
    let script = Script::default();
    let peer = endpoint(&script).await;
    let config = config(&peer);
    let credential = &config.credentials[0];
    let client = TokenClient::new(credential, &Trust::default()).unwrap();
    let identity = credential.identity.initial();

    let body = r#"{"access_token":"tok_0123456789","token_type":"Bearer","expires_in":3600}"#;
    let fields = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let with_length = format!("{fields}content-length: {}\r\n\r\n{body}", body.len());
    let (one, two) = body.split_at(30);
    let (long, longer) = (one.len(), two.len());
    let in_chunks = format!(
        "{fields}transfer-encoding: chunked\r\n\r\n{long:x}\r\n{one}\r\n{longer:x}\r\n{two}\r\n0\r\n\r\n"
    );
    let until_the_end = format!("{fields}connection: close\r\n\r\n{body}");
    for answer in [with_length, in_chunks, until_the_end] {
        for is_reset in [false, true] {
            for cut in 0..=answer.len() {
                *script.lock().unwrap() = (answer.as_bytes()[..cut].to_vec(), is_reset);
                let outcome = client.request(credential, &identity, None).await;
                match &outcome {
                    Ok(grant) => {
                        assert_eq!(cut, answer.len(), "{:?}", &answer[..cut]);
                        assert!(grant.flaw.is_none() && *grant.access_token == "tok_0123456789");
                    }
                    Err(TokenError::Network(_) | TokenError::Malformed(_)) => {
                        assert!(cut < answer.len() || is_reset, "a whole answer: {outcome:?}");
                    }
                    Err(other) => panic!("{other:?} of {:?}", &answer[..cut]),
                }
            }
        }
    }
}

/// FLT-NET-01.
/// The message announces a byte that does not come, but the JSON object is whole.
#[tokio::test]
async fn a_new_refresh_token_is_kept_where_the_message_lacks_its_last_byte() {
    let script = Script::default();
    let peer = endpoint(&script).await;
    let config = config(&peer);
    let credential = &config.credentials[0];
    let client = TokenClient::new(credential, &Trust::default()).unwrap();
    let body = r#"{"access_token":"tok_0123456789","refresh_token":"new","expires_in":3600}"#;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len() + 1);

    *script.lock().unwrap() = (format!("{head}{body}").into_bytes(), false);
    let grant = client.request(credential, &credential.identity.initial(), None).await.unwrap();

    assert_eq!(grant.refresh_token.as_ref().unwrap().expose_secret(), "new");
    assert_eq!((grant.access_token.as_str(), grant.flaw), ("", Some(Malformed::Incomplete)));
    *script.lock().unwrap() = (format!("{head}{}", &body[..body.len() - 1]).into_bytes(), false);
    let error = client.request(credential, &credential.identity.initial(), None).await.unwrap_err();
    assert_eq!(error, TokenError::Malformed(Malformed::Incomplete));
}

#[tokio::test]
async fn connecting_to_an_unreachable_token_endpoint_times_out_and_is_retried() {
    let nowhere = BlackHole::start();
    let world = daemon()
        .quiet()
        .without_token()
        .token_url(format!("http://{}/token", nowhere.address))
        .credential("connect_timeout = \"300ms\"")
        .limits("token_wait = \"1s\"")
        .start()
        .await;
    let began = Instant::now();

    let reply = world.get("/x").await;

    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("token_endpoint_unavailable")));
    assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
    let told = world.process.event(FAILED).await;
    assert!(told["error"].as_str().unwrap().contains("no connection in time"), "{told}");
    // The next attempt follows after the backoff.
    eventually("another", async || world.process.events(FAILED).len() >= 2).await;
    world.finish().await;
}

/// FLT-CLK-04: the API checks that no token arrives after its end.
#[tokio::test]
async fn a_daemon_that_was_stopped_past_its_tokens_end_does_not_use_it() {
    let world = daemon().quiet().lifetime(3).start().await;
    let mut kept = world.caller().await;
    assert_eq!(kept.send(&Request::get("/x")).await.status, 200);

    world.process.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let caller = world.caller();
    world.process.signal(Signal::CONT);

    let mut fresh = caller.await;
    let (one, other) = (Request::get("/x"), Request::get("/y"));
    let (one, other) = tokio::join!(kept.send(&one), fresh.send(&other));
    assert_eq!((one.status, other.status), (200, 200));
    assert_eq!(world.upstream.rejected(), 0, "an old token was sent");
    world.finish().await;
}
