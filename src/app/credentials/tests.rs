//! Refreshers during reloads.

mod places;

use std::path::Path;

use testkit::authorization_server::AuthorizationServer;

use super::*;
use crate::config::{Environment, parse};
use crate::lifecycle::Stages;

/// Starts the refresher of a credential, whose server holds the first token request until its release.
async fn started(refreshers: &mut Refreshers) -> (AuthorizationServer, Credential) {
    let server = AuthorizationServer::start("id", "secret", None).await.unwrap();
    server.hold();
    let text = format!(
        "[credentials.c]\ntoken_url = \"{}\"\nclient_id = \"id\"\nclient_secret = \"secret\"\n\
         quota = {{ requests = 1000, per = \"1s\" }}\n\
         [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"",
        server.token_url()
    );
    let checked = parse(Path::new("proxy.toml"), text, &Environment::from([("", ""); 0])).unwrap();
    let config = Arc::clone(&checked.config.credentials[0]);
    let client = client(&config, &Trust::default()).unwrap();
    let clock = Clock::system();
    let (refresher, source) =
        Refresher::new(Arc::clone(&config), client, DurableState::in_memory(clock), clock);
    let credential = refreshers.start(config, refresher, source);
    while server.requests() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (server, credential)
}

async fn ends(refreshers: &mut Refreshers) {
    tokio::time::timeout(Duration::from_secs(10), refreshers.all_ended()).await.unwrap();
}

#[tokio::test]
async fn a_removed_credentials_refresher_ends_even_after_it_was_too_busy_for_a_reload() {
    let stages = Stages::default();
    let mut refreshers = Refreshers::new(stages.watch());
    let (server, credential) = started(&mut refreshers).await;

    assert!(credential.hand_out(Duration::from_millis(20)).await.is_none(), "a request is under way");
    assert!(!credential.has_ended());
    let source = credential.source.clone();
    drop(credential);
    server.release();

    ends(&mut refreshers).await;
    assert!(source.has_had_a_token(), "the request was finished");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_refresher_that_was_not_handed_out_in_time_stays_in_service() {
    let stages = Stages::default();
    let mut refreshers = Refreshers::new(stages.watch());
    let (server, credential) = started(&mut refreshers).await;
    assert!(credential.hand_out(Duration::from_millis(20)).await.is_none(), "a request is under way");
    server.release();
    assert!(credential.source.wait(Duration::from_secs(5)).await.is_ok());

    server.revoke_all();
    let rejected = credential.source.generation();
    assert!(credential.source.replace(rejected, Duration::from_secs(5)).await.is_ok(), "in service");

    assert!(credential.hand_out(Duration::from_secs(5)).await.is_some());
    ends(&mut refreshers).await;
}
