//! A client secret that is replaced while the daemon runs: in its file, or by a second secret.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use tempfile::TempDir;

use crate::harness::{STEP_TIMEOUT, World, daemon, eventually};
use testkit::harness::setup::{CLIENT_ID, CLIENT_SECRET};
use testkit::harness::world::assert_absent;

const OTHER: &str = "0ther-s3cret-of-the-client";

/// A volume as Kubernetes mounts a Secret: the file is a symlink through `..data`, which is replaced as a whole.
struct Volume {
    folder: TempDir,
    version: u32,
}

impl Volume {
    fn new(secret: &str) -> Self {
        let mut volume = Self { folder: tempfile::tempdir().unwrap(), version: 0 };
        volume.swap(secret);
        symlink("..data/secret", volume.file()).unwrap();
        volume
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    fn source(&self) -> String {
        format!("{{ file = \"{}\" }}", self.file().display())
    }

    fn swap(&mut self, secret: &str) {
        let path = |name: &str| self.folder.path().join(name);
        let (before, now) = (format!("..v{}", self.version), format!("..v{}", self.version + 1));
        fs::create_dir(path(&now)).unwrap();
        fs::write(path(&now).join("secret"), secret).unwrap();
        symlink(&now, path("..data_tmp")).unwrap();
        fs::rename(path("..data_tmp"), path("..data")).unwrap();
        // The first version replaces none.
        let _ = fs::remove_dir_all(path(&before));
        self.version += 1;
    }
}

/// The secrets of all token requests.
fn asked_with(world: &World) -> Vec<&'static str> {
    let basic = |secret: &str| format!("Basic {}", STANDARD.encode(format!("{CLIENT_ID}:{secret}")));
    let known = [(basic(CLIENT_SECRET), CLIENT_SECRET), (basic(OTHER), OTHER)];
    let asked = world.authorization.asked();
    let fields = asked.iter().map(|asked| asked.headers.get(AUTHORIZATION).unwrap().to_str().unwrap());
    fields.map(|field| known.iter().find(|(basic, _)| basic == field).unwrap().1).collect()
}

async fn finish(world: World) {
    assert_absent(&world.process.output(), OTHER);
    world.finish().await;
}

#[tokio::test]
async fn a_changed_secret_volume_is_read_at_the_next_refresh() {
    let mut volume = Volume::new(OTHER);
    // The server accepts every secret, and the next refresh is soon.
    let world = daemon()
        .secret(&volume.source())
        .start_after(async |server| {
            server.take_all();
            server.set_lifetime(2);
        })
        .await;
    assert!(asked_with(&world).iter().all(|secret| *secret == OTHER));

    volume.swap(CLIENT_SECRET);

    eventually("seen", async || asked_with(&world).last() == Some(&CLIENT_SECRET)).await;
    assert_eq!(world.get("/x").await.status, 200);
    finish(world).await;
}

#[tokio::test]
async fn a_changed_secret_volume_ends_a_rejection_hold_within_seconds() {
    let mut volume = Volume::new(OTHER);
    let world = daemon().secret(&volume.source()).without_token().start().await;
    for swap in 0..3 {
        eventually("latched", async || world.get("/x").await.code().as_deref() == Some("client_rejected"))
            .await;
        let before = world.authorization.requests();

        volume.swap(CLIENT_SECRET);

        let swapped = tokio::time::Instant::now();
        eventually("seen", async || world.get("/x").await.status == 200).await;
        let took = swapped.elapsed();
        assert!(took < STEP_TIMEOUT, "swap {swap}: {took:?}, and not after the latch of 30 s");
        assert_eq!(world.token_requests_since(before), 1);
        volume.swap(OTHER);
        world.authorization.revoke_all();
    }
    finish(world).await;
}

#[tokio::test]
async fn the_second_secret_takes_over_when_the_first_is_rejected() {
    let mut volume = Volume::new(CLIENT_SECRET);
    let folder = tempfile::tempdir().unwrap();
    let mut world = daemon()
        .server(&format!("state_dir = \"{}\"", folder.path().display()))
        .secret(&volume.source())
        .environment("NEXT", OTHER)
        .credential("client_secret_next = { env = \"NEXT\" }")
        .start()
        .await;
    // The secrets are configured in the wrong order: the server accepts CLIENT_SECRET alone.
    volume.swap(OTHER);
    fs::write(world.folder().join("next"), CLIENT_SECRET).unwrap();
    let config = fs::read_to_string(world.folder().join("proxy.toml")).unwrap();
    let config = config.replace("{ env = \"NEXT\" }", "{ file = \"next\" }");
    fs::write(world.folder().join("proxy.toml"), config).unwrap();
    world.kill().await;
    world.start_again().await;

    eventually("ready", async || world.admin_status("/readyz").await == 200).await;

    assert_eq!(asked_with(&world), [CLIENT_SECRET, OTHER, CLIENT_SECRET]);
    let event = world.process.event("other client secret in use").await;
    assert_eq!(
        (&event["event"], &event["in_use"]),
        (&"credential.client_secret_in_use".into(), &"client_secret_next".into())
    );
    assert!(world.process.events("token refresh failed").is_empty());

    // The daemon still knows after a restart.
    world.kill().await;
    world.start_again().await;
    eventually("ready", async || world.admin_status("/readyz").await == 200).await;
    assert_eq!(asked_with(&world), [CLIENT_SECRET, OTHER, CLIENT_SECRET, CLIENT_SECRET]);
    // The second secret becomes the first.
    volume.swap(CLIENT_SECRET);
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.requests(), 5);
    finish(world).await;
}
