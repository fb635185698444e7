//! A scripted store that speaks RESP3: what `bearerd check --online` says about it, and what a write waits for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bearerd::token::replicas::redis::{Address, RedisStore};
use bearerd::token::replicas::store::{Copies, SharedStore, StoreError, Write, Written};
use testkit::authorization_server::AuthorizationServer;
use testkit::harness::setup::{CLIENT_ID, CLIENT_SECRET};
use testkit::harness::world::assert_absent;
use testkit::pki::Pki;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Upstream, spawn};

/// What the store answers to a command; nothing for never.
type Answers = HashMap<&'static str, &'static str>;

/// A store of which every answer is written down.
struct Store {
    port: u16,
    received: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Store {
    /// Answers as an empty Redis does to a user that has the documented rights, besides what is `scripted`.
    async fn start(scripted: &[(&'static str, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut answers = Answers::from([
            (
                "HELLO",
                "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.2.4\r\n$4\r\nrole\r\n$6\r\nmaster\r\n",
            ),
            ("TIME", "*2\r\n$10\r\n1700000000\r\n$1\r\n0\r\n"),
            ("ROLE", "*3\r\n$6\r\nmaster\r\n:1\r\n*0\r\n"),
            ("SUBSCRIBE", ">3\r\n$9\r\nsubscribe\r\n$15\r\nbearerd:changed\r\n:1\r\n"),
            ("GET", "_\r\n"),
            ("GET check", "-NOPERM No permissions to access a key\r\n"),
            ("INFO", "-NOPERM User bearerd has no permissions to run the 'info' command\r\n"),
            ("CONFIG", "-NOPERM User bearerd has no permissions to run the 'config|get' command\r\n"),
            ("ACL", "-NOPERM User bearerd has no permissions to run the 'acl|users' command\r\n"),
        ]);
        answers.extend(scripted.iter().copied());
        let received = Arc::<Mutex<Vec<Vec<String>>>>::default();
        let log = Arc::clone(&received);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, answers.clone(), Arc::clone(&log)));
            }
        });
        Self { port, received }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// How often a command was received.
    fn count(&self, name: &str) -> usize {
        self.received.lock().unwrap().iter().filter(|words| words[0].eq_ignore_ascii_case(name)).count()
    }
}

async fn serve(connection: TcpStream, answers: Answers, log: Arc<Mutex<Vec<Vec<String>>>>) -> Option<()> {
    let mut connection = BufReader::new(connection);
    loop {
        let words = command(&mut connection).await?;
        let name = words[0].to_ascii_uppercase();
        let is_beyond = words.get(1).is_some_and(|key| key.starts_with("check"));
        let special = answers.get(&*format!("{name} check")).filter(|_| is_beyond);
        let answer = special.or_else(|| answers.get(&*name)).copied().unwrap_or(":1\r\n");
        log.lock().unwrap().push(words);
        connection.write_all(answer.as_bytes()).await.ok()?;
    }
}

/// Reads a command: an array of bulk strings.
async fn command(connection: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let mut line = String::new();
    connection.read_line(&mut line).await.ok().filter(|bytes| *bytes > 0)?;
    let count = line.trim_end().strip_prefix('*')?.parse().ok()?;
    let mut words = Vec::new();
    for _ in 0..count {
        line.clear();
        connection.read_line(&mut line).await.ok()?;
        let length: usize = line.trim_end().strip_prefix('$')?.parse().ok()?;
        let mut word = vec![0; length + 2];
        connection.read_exact(&mut word).await.ok()?;
        words.push(String::from_utf8_lossy(&word[..length]).into_owned());
    }
    Some(words)
}

/// Runs `check --online` with this store; returns the exit code and the output.
async fn check(shared: &str, credential: &str) -> (i32, String) {
    let authorization = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
    let upstream = Upstream::start(None, authorization.introspection(), true).await;
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[shared]\nkey = {{ env = \"SHARED_KEY\" }}\n{shared}\n[credentials.api]\ntoken_url = \"{}\"\n\
         client_id = \"{CLIENT_ID}\"\nclient_secret = {{ env = \"API_SECRET\" }}\n{credential}\n\
         [[routes]]\nupstream = \"{}\"\ncredential = \"api\"\n",
        authorization.token_url(),
        upstream.url(),
    );
    std::fs::write(folder.path().join("proxy.toml"), config).unwrap();
    std::fs::write(folder.path().join("ca.pem"), Pki::new(&["localhost"]).unwrap().authority_pem()).unwrap();
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let environment =
        [("API_SECRET", CLIENT_SECRET), ("SHARED_KEY", key), ("REDIS_PASSWORD", "the-password")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut process = spawn(&["check", "--online"], &environment, folder.path());
    let code = process.ended().await.code().unwrap();
    let output = process.output();
    for secret in [key, CLIENT_SECRET, "the-password"] {
        assert_absent(&output, secret);
    }
    (code, output)
}

#[track_caller]
fn says(output: &str, texts: &[&str]) {
    for text in texts {
        assert!(output.contains(text), "no {text:?} in:\n{output}");
    }
}

#[tokio::test]
async fn a_store_with_the_documented_rights_is_ok_and_what_may_not_be_asked_is_said() {
    let store = Store::start(&[]).await;
    let (code, output) = check(&format!("url = \"{}\"", store.url()), "").await;

    assert_eq!(code, 0, "{output}");
    says(&output, &[&format!("shared store redis://127.0.0.1:{}/0: ok (", store.port)]);
    says(
        &output,
        &["server       redis 7.2.4, primary, 0 servers follow", "tls          none: on this machine"],
    );
    says(
        &output,
        &["persistence  not known: the user may run neither INFO nor CONFIG GET", "eviction     not"],
    );
    assert!(!output.contains("warning") && !output.contains("error"), "{output}");
    // Every command that the scripts run was tried, on keys of the check's own.
    for name in
        ["EVALSHA", "SCRIPT", "TIME", "TYPE", "GET", "SET", "DEL", "PEXPIRE", "PERSIST", "PTTL", "WAIT"]
    {
        assert!(store.count(name) >= 1, "{name}");
    }
    for words in store.received.lock().unwrap().iter() {
        let is_write = ["SET", "HSET", "HDEL", "PEXPIRE", "PERSIST", "DEL", "ZADD", "ZREMRANGEBYSCORE"];
        if is_write.contains(&words[0].as_str()) {
            assert!(words[1].starts_with("bearerd:{check-"), "{words:?}");
        }
    }
}

#[tokio::test]
async fn commands_that_the_acl_denies_are_named_with_the_rule_that_grants_them() {
    let store = Store::start(&[
        ("HSTRLEN", "-NOPERM User bearerd has no permissions to run the 'hstrlen' command\r\n"),
        // As Redis 6 says it.
        ("SCRIPT", "-NOPERM this user has no permissions to run the 'script' command or its subcommand\r\n"),
        ("EVALSHA", "-NOSCRIPT No matching script. Please use EVAL.\r\n"),
        ("WAIT", "-NOPERM User bearerd has no permissions to run the 'wait' command\r\n"),
    ])
    .await;
    let lines = format!(
        "url = \"{}\"\nusername = \"bearerd\"\npassword = {{ env = \"REDIS_PASSWORD\" }}",
        store.url()
    );
    let (code, output) = check(&lines, "").await;

    assert_eq!(code, 1, "{output}");
    says(
        &output,
        &[
            "error: the user may not run hstrlen, script|load\n    help: ACL SETUSER bearerd +hstrlen +script|load",
        ],
    );
    says(&output, &["see https://", "#shared_store_unavailable"]);
    says(&output, &["warning: the user may not run wait: a failover may lose", "ACL SETUSER bearerd +wait"]);
    says(&output, &["1 of 3 failed"]);

    let store =
        Store::start(&[("WAIT", "-NOPERM User default has no permissions to run the 'wait' command\r\n")])
            .await;
    let (code, output) = check(&format!("url = \"{}\"", store.url()), "").await;
    assert_eq!(code, 0, "without WAIT, the replicas share all the same: {output}");

    let denied = "-NOPERM No permissions to access a key\r\n";
    let store = Store::start(&[
        ("SET", denied),
        ("HSET", denied),
        ("PUBLISH", "-NOPERM No permissions to access a channel\r\n"),
    ])
    .await;
    let (code, output) = check(&format!("url = \"{}\"\nprefix = \"other:\"", store.url()), "").await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["may not use keys that begin with `other:`", "help: ACL SETUSER default ~other:*"]);
    says(&output, &["may not use the channel `other:changed`", "help: ACL SETUSER default &other:*"]);
}

#[tokio::test]
async fn a_store_that_loses_or_takes_no_records_is_reported_with_what_is_lost() {
    let settings = [
        ("INFO", "$36\r\naof_enabled:0\r\nmaxmemory:104857600\r\n\r\n"),
        (
            "CONFIG",
            "%3\r\n$4\r\nsave\r\n$0\r\n\r\n$10\r\nappendonly\r\n$2\r\nno\r\n$16\r\nmaxmemory-policy\r\n$11\r\nallkeys-lru\r\n",
        ),
    ];
    let store = Store::start(&settings).await;
    let (code, output) = check(&format!("url = \"{}\"", store.url()), "").await;
    assert_eq!(code, 0, "{output}");
    says(&output, &["persistence  none", "eviction     allkeys-lru, at 100 MiB"]);
    says(&output, &["keeps nothing on disk", "each credential makes a token request", "`appendonly yes`"]);
    says(&output, &["a full store drops the records of refresh tokens", "`maxmemory-policy noeviction`"]);

    let rotating = "grant = \"refresh_token\"\nrefresh_token = { env = \"API_SECRET\" }";
    let (_, output) = check(&format!("url = \"{}\"", store.url()), rotating).await;
    says(&output, &["the refresh tokens of `api` are lost, and a person must authorize the client again"]);

    let follower = Store::start(&[
        ("HELLO", "%3\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n$7\r\nversion\r\n$5\r\n8.1.0\r\n$4\r\nrole\r\n$7\r\nreplica\r\n"),
        ("SET", "-READONLY You can't write against a read only replica.\r\n"),
        ("GET check", "_\r\n"),
        ("ACL", "*1\r\n$7\r\ndefault\r\n"),
    ])
    .await;
    let (code, output) = check(&format!("url = \"{}\"", follower.url()), "").await;
    assert_eq!(code, 1, "{output}");
    says(
        &output,
        &["valkey 8.1.0, follows another server", "takes no writes", "set `shared.url` to the primary"],
    );
    says(&output, &["may use all keys, and administer users", "/deploy/replicas.md#the-store"]);

    let full =
        Store::start(&[("HSET", "-OOM command not allowed when used memory > 'maxmemory'.\r\n")]).await;
    let (code, output) = check(&format!("url = \"{}\"", full.url()), "").await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["HSET failed: ", "the store is full: raise `maxmemory`"]);
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_or_refuses_the_login_fails_with_the_remedy() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (code, output) = check(&format!("url = \"redis://{free}/0\""), "").await;
    assert_eq!(code, 1, "{output}");
    says(
        &output,
        &[
            &format!("shared store redis://{free}/0: FAILED ("),
            "refused",
            "check host and port in `shared.url`",
        ],
    );

    let wrong =
        Store::start(&[("HELLO", "-WRONGPASS invalid username-password pair or user is disabled.\r\n")])
            .await;
    let lines = format!("url = \"{}\"\npassword = {{ env = \"REDIS_PASSWORD\" }}", wrong.url());
    let (code, output) = check(&lines, "").await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["check `shared.username` and `shared.password`"]);

    let other = Pki::new(&["localhost"]).unwrap();
    let authorization = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
    let tls =
        Upstream::start(Some(other.server_config(&[]).unwrap()), authorization.introspection(), true).await;
    let url = tls.url().replace("https://", "rediss://");
    let (code, output) = check(&format!("url = \"{url}\"\nca_file = \"ca.pem\""), "").await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["invalid peer certificate", "help: replace `ca_file` by the present certificate"]);
}

/// Done, without a place that could be read.
const WRITTEN: &str = "*2\r\n:1\r\n*6\r\n$1\r\n1\r\n$1\r\n1\r\n_\r\n_\r\n:0\r\n_\r\n";
const FOLLOWED: &str = "*3\r\n$6\r\nmaster\r\n:1\r\n*1\r\n*3\r\n$9\r\n127.0.0.1\r\n$4\r\n6380\r\n$1\r\n1\r\n";

async fn write(store: &Store, copies: Copies) -> Result<Written, StoreError> {
    let address = Address {
        url: store.url(),
        username: None,
        password: None,
        roots: None,
        sentinels: Vec::new(),
        sentinel_primary: String::new(),
    };
    let write = Write {
        expected: 0,
        number: 1,
        record: b"sealed",
        keep: None,
        is_announced: true,
        clears_late: true,
        keeps_late: true,
        writer: Some("replica/0"),
        copies,
    };
    RedisStore::new(address, "bearerd:", Duration::from_millis(250)).write("place", write).await
}

#[tokio::test]
async fn a_write_to_be_confirmed_waits_for_another_server_where_one_follows() {
    let denied = "-NOPERM User bearerd has no permissions to run the 'wait' command\r\n";
    for (role, wait, copies, waits, expected) in [
        (FOLLOWED, ":1\r\n", Copies::Confirmed, 1, Written::Done),
        (FOLLOWED, ":0\r\n", Copies::Confirmed, 1, Written::Unconfirmed),
        (FOLLOWED, denied, Copies::Confirmed, 1, Written::Unconfirmed),
        // No answer.
        (FOLLOWED, "", Copies::Confirmed, 1, Written::Unconfirmed),
        (FOLLOWED, ":1\r\n", Copies::Primary, 0, Written::Done),
        ("*3\r\n$6\r\nmaster\r\n:1\r\n*0\r\n", ":0\r\n", Copies::Confirmed, 0, Written::Done),
    ] {
        let store = Store::start(&[("EVALSHA", WRITTEN), ("ROLE", role), ("WAIT", wait)]).await;
        let written = write(&store, copies).await.unwrap();
        let is_expected = std::mem::discriminant(&written) == std::mem::discriminant(&expected);
        assert!(is_expected, "{written:?} with {wait:?}");
        assert_eq!(store.count("WAIT"), waits, "{wait:?}");
    }
}

#[tokio::test]
async fn an_answer_that_no_script_gives_is_corrupt_and_not_away() {
    let store =
        Store::start(&[("EVALSHA", "*2\r\n:1\r\n*6\r\n$1\r\n1\r\n$3\r\nabc\r\n_\r\n_\r\n:0\r\n_\r\n")]).await;
    let error = write(&store, Copies::Primary).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Corrupt(text) if text.contains("answers what it should not")),
        "{error:?}"
    );
    assert_eq!(error.kind(), "corrupt");

    let store = Store::start(&[(
        "EVALSHA",
        "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    )])
    .await;
    assert_eq!(write(&store, Copies::Primary).await.unwrap_err().kind(), "corrupt");
    let store = Store::start(&[("EVALSHA", "-NOPERM no permissions to run the 'evalsha' command\r\n")]).await;
    assert_eq!(write(&store, Copies::Primary).await.unwrap_err().kind(), "refused");
    let store = Store::start(&[("EVALSHA", "-LOADING Redis is loading the dataset in memory\r\n")]).await;
    assert_eq!(write(&store, Copies::Primary).await.unwrap_err().kind(), "away");
}
