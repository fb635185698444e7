//! Reloads that change the key or the place of a state, whatever the disk holds: memory wins.

use std::os::unix::fs::PermissionsExt;

use secrecy::{ExposeSecret, SecretString};

use super::*;
use crate::token::NewGrant;
use crate::token::state::file::State;

const KEYS: [&str; 2] =
    ["MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "OTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTBmZWRjYmE="];
const WITHIN: Duration = Duration::from_secs(10);

/// The content of the place of the state at the reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    /// An earlier state, whose refresh token has been used.
    Older,
    /// The present state.
    Equal,
    /// A state with a later number: at the present place a person's new grant, and at another place one whose refresh
    /// token has been used.
    Newer,
    Missing,
    Corrupt,
    /// The present state, with a mode that is refused.
    Unreadable,
}

/// The event after the reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Nothing,
    ReloadBack,
    Grant,
}

struct World {
    server: AuthorizationServer,
    folder: tempfile::TempDir,
    first: String,
    clock: Clock,
}

impl World {
    async fn new() -> Self {
        let server = AuthorizationServer::start("id", "secret", None).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        for place in ["0", "1", "elsewhere"] {
            std::fs::create_dir(folder.path().join(place)).unwrap();
        }
        let first = server.authorize();
        Self { server, folder, first, clock: Clock::system() }
    }

    fn config(&self, key: usize, place: &str) -> Config {
        let text = format!(
            "[credentials.c]\ntoken_url = \"{}\"\nclient_id = \"id\"\nclient_secret = \"secret\"\n\
             grant = \"refresh_token\"\nrefresh_token = \"{}\"\nquota = {{ requests = 1000, per = \"1s\" }}\n\
             state_key = \"{}\"\nstate_key_previous = \"{}\"\nstate_file = \"{}\"\n\
             [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"",
            self.server.token_url(),
            self.first,
            KEYS[key],
            KEYS[1 - key],
            self.file(place).display()
        );
        let checked = parse(Path::new("proxy.toml"), text, &Environment::from([("", ""); 0])).unwrap();
        Arc::clone(&checked.config.credentials[0])
    }

    fn file(&self, place: &str) -> std::path::PathBuf {
        self.folder.path().join(place).join("c.state")
    }

    /// A state on disk with a late number and this refresh token.
    async fn late(&self, refresh_token: &str) -> Vec<u8> {
        let mut durable = DurableState::open(&self.config(0, "elsewhere"), self.clock).unwrap();
        for _ in 0..50 {
            let token = Some(SecretString::from(refresh_token));
            durable.overwrite(State { refresh_token: token, ..State::default() }).await;
        }
        std::fs::read(self.file("elsewhere")).unwrap()
    }

    fn start(&self, config: &Config) -> (OneRefresher, TokenSource) {
        let durable = DurableState::open(config, self.clock).unwrap();
        let client = client(config, &Trust::default()).unwrap();
        Refresher::new(Arc::clone(config), client, durable, self.clock)
    }

    /// Reloads if the configuration is accepted. Answers whether that is so.
    async fn reload(
        &self,
        (mut refresher, source): (OneRefresher, &TokenSource),
        before: &mut Config,
        after: Config,
    ) -> OneRefresher {
        let in_force = [(Arc::clone(before), source.clone())];
        let Ok(plan) = plan_one(&after, &in_force, &Trust::default(), (&Events::default(), None), self.clock)
        else {
            return refresher;
        };
        if plan.vacated().is_some() {
            refresher.give_up_place();
        }
        let (client, place) = match plan.step {
            Step::Renew { client, place } => (client, place),
            // The reload before was refused.
            Step::Keep => return refresher,
            Step::Begin { .. } => panic!("the tokens are the same"),
        };
        refresher = place.renew(refresher, *client, &after, self.clock).await;
        *before = after;
        refresher
    }
}

/// Makes one refresh.
async fn refreshed(mut refresher: OneRefresher, source: &TokenSource) -> OneRefresher {
    let before = source.generation();
    source.demand(before);
    let is_done = async {
        while source.generation() == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(WITHIN, refresher.run_until(std::future::pending(), is_done)).await.unwrap();
    refresher
}

async fn handed_over(mut refresher: OneRefresher, refresh_token: &str) -> (OneRefresher, bool) {
    let operator = refresher.operator();
    let (done, is_done) = oneshot::channel();
    let hand_over = async {
        let grant = NewGrant {
            origin: operator.origin.clone(),
            refresh_token: SecretString::from(refresh_token),
            access_token: Some(SecretString::from("a")),
            lifetime: Some(Duration::from_hours(1)),
            scopes: None,
            refresh_lifetime: None,
        };
        let adopted = operator.hand_over(grant).await.unwrap();
        done.send(()).unwrap();
        adopted.is_durable
    };
    let run = refresher.run_until(std::future::pending(), async { drop(is_done.await) });
    let (is_durable, ()) =
        tokio::time::timeout(WITHIN, Box::pin(async { tokio::join!(hand_over, run) })).await.unwrap();
    (refresher, is_durable)
}

async fn one(changes_key: bool, changes_place: bool, disk: Disk, then: Then) {
    let world = World::new().await;
    let mut config = world.config(0, "0");
    let (refresher, source) = world.start(&config);
    let refresher = refreshed(refresher, &source).await;
    let older = std::fs::read(world.file("0")).unwrap();
    let refresher = refreshed(refresher, &source).await;
    let present = std::fs::read(world.file("0")).unwrap();

    let place = if changes_place { "1" } else { "0" };
    let file = world.file(place);
    let content = match disk {
        Disk::Older => Some(older),
        Disk::Equal | Disk::Unreadable => Some(present),
        Disk::Newer if changes_place => Some(world.late(&world.first).await),
        Disk::Newer => Some(world.late(&world.server.authorize()).await),
        Disk::Missing => None,
        Disk::Corrupt => Some(b"corrupt".to_vec()),
    };
    let _ = std::fs::remove_file(&file);
    if let Some(content) = content {
        std::fs::write(&file, content).unwrap();
        let mode = if disk == Disk::Unreadable { 0o644 } else { 0o600 };
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    }
    let after = world.config(usize::from(changes_key), place);
    let mut refresher = Box::pin(world.reload((refresher, &source), &mut config, after)).await;
    if then == Then::ReloadBack {
        let back = world.config(0, "0");
        refresher = Box::pin(world.reload((refresher, &source), &mut config, back)).await;
    }
    refresher = refreshed(refresher, &source).await;
    assert_eq!(world.server.refresh_tokens().reuses(), 0, "no used refresh token was sent");
    if then == Then::Grant {
        let granted = world.server.authorize();
        let (kept, is_durable) = Box::pin(handed_over(refresher, &granted)).await;
        assert!(is_durable);
        drop(kept);
        let durable = DurableState::open(&config, world.clock).unwrap();
        assert_eq!(durable.state().refresh_token.as_ref().unwrap().expose_secret(), granted);
    } else {
        drop(refresher);
    }

    // A restart finds the same refresh token.
    let (refresher, source) = world.start(&config);
    drop(refreshed(refresher, &source).await);
    assert_eq!(world.server.refresh_tokens().reuses(), 0, "after a restart");
}

#[tokio::test]
async fn memory_wins_over_the_disk_in_every_reload_that_changes_key_or_place() {
    use Disk::{Corrupt, Equal, Missing, Newer, Older, Unreadable};
    for (changes_key, changes_place) in [(true, false), (false, true), (true, true)] {
        for disk in [Older, Equal, Newer, Missing, Corrupt, Unreadable] {
            for then in [Then::Nothing, Then::ReloadBack, Then::Grant] {
                let shown = format!("{changes_key} {changes_place} {disk:?} {then:?}");
                #[expect(clippy::disallowed_methods, reason = "tells which case has failed")]
                let case = tokio::spawn(one(changes_key, changes_place, disk, then));
                case.await.unwrap_or_else(|error| panic!("{shown}: {error}"));
            }
        }
    }
}
