//! Tests of a daemon after one of its parts has ended unexpectedly.

use std::path::Path;

use secrecy::ExposeSecret;
use testkit::authorization_server::AuthorizationServer;

use super::*;
use crate::config::{Environment, parse};

const STATE_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

#[tokio::test]
async fn a_refresh_under_way_is_finished_and_written_when_a_thread_dies() {
    let server = AuthorizationServer::start("id", "secret", None).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 1\nstate_dir = \"{}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [credentials.c]\ntoken_url = \"{}\"\nclient_id = \"id\"\nclient_secret = {{ env = \"SECRET\" }}\n\
         grant = \"refresh_token\"\nrefresh_token = {{ env = \"REFRESH\" }}\nstate_key = {{ env = \"KEY\" }}\n\
         [[routes]]\nupstream = \"https://localhost:1\"\ncredential = \"c\"",
        folder.path().display(),
        server.token_url()
    );
    let first = server.authorize();
    let environment =
        Environment::from([("SECRET", "secret"), ("REFRESH", first.as_str()), ("KEY", STATE_KEY)]);
    let config = parse(Path::new("proxy.toml"), text, &environment).unwrap().config;
    server.hold();
    let mut daemon = Daemon::start(&config, None, PassedSockets::default()).unwrap();
    while server.requests() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    daemon.threads.spawn("odd".to_owned(), |_| panic!("of its own")).unwrap();
    assert_eq!(daemon.died().await.to_string(), "the thread odd ended unexpectedly");
    let mut stage = daemon.stages.watch();
    let released = async {
        stage.wait_for(|stage| *stage == Stage::Cut).await.unwrap();
        server.release();
    };
    tokio::join!(daemon.abort(), released);

    let durable = DurableState::open(&config.credentials[0], Clock::system()).unwrap();
    let written = durable.state().refresh_token.as_ref().unwrap().expose_secret().to_owned();
    assert_ne!(written, first);
    assert_eq!(Some(written.as_str()), server.refresh_tokens().latest());
    assert_eq!(server.requests(), 1);
}
