//! What systemd passes to the daemon and hears from it: sockets, and the state of the service.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::{TcpStream, UnixDatagram, UnixStream};
use tokio::time::timeout;

use crate::harness::{Caller, PROMPT, Request, World, command, daemon, eventually};

/// The socket of a service manager.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        Self { socket: UnixDatagram::bind(&path).unwrap(), path, _folder: folder }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// The next message.
    async fn next(&self) -> String {
        let mut message = [0; 4096];
        let length = timeout(Duration::from_secs(20), self.socket.recv(&mut message)).await;
        String::from_utf8(message[..length.expect("a message").unwrap()].to_vec()).unwrap()
    }

    /// The next message with this line.
    async fn with(&self, line: &str) -> String {
        loop {
            let message = self.next().await;
            if message.lines().any(|one| one == line) {
                return message;
            }
        }
    }

    /// The next status with this text.
    async fn status(&self, text: &str) -> String {
        loop {
            let message = self.next().await;
            let status = message.lines().find_map(|line| line.strip_prefix("STATUS="));
            if let Some(status) = status.filter(|status| status.contains(text)) {
                return status.to_owned();
            }
        }
    }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn systemd_hears_of_the_start_of_reloads_and_of_the_stop() {
    let manager = Manager::new();
    let mut world = daemon().environment("NOTIFY_SOCKET", manager.path()).start().await;

    let ready = manager.next().await;
    assert!(ready.starts_with("READY=1\nSTATUS="), "{ready}");
    assert_eq!(manager.status("1 of 1").await, "1 of 1 credentials valid");

    world.reload().await;
    let reloading = manager.with("RELOADING=1").await;
    let at = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let (at, uptime) =
        (at.parse::<f64>().unwrap() / 1e6, uptime.split(' ').next().unwrap().parse::<f64>().unwrap());
    assert!(at > 0.0 && at <= uptime + 1.0, "{at} of {uptime}");
    assert!(reloading.contains("STATUS=reloading"), "{reloading}");
    let ready = manager.with("READY=1").await;
    assert!(ready.contains("STATUS=1 of 1 credentials valid"), "{ready}");

    world.configure(|text| text + "\nnonsense = 1\n");
    world.reload_in_vain().await;
    manager.with("RELOADING=1").await;
    let ready = manager.with("READY=1").await;
    assert!(ready.contains("STATUS=not reloaded (") && ready.contains("nonsense"), "{ready}");

    world.process.signal(Signal::TERM);
    let stopping = manager.with("STOPPING=1").await;
    assert!(stopping.contains("STATUS=finishing the requests in flight"), "{stopping}");
    assert_eq!(world.process.ended().await.code(), Some(0));
    world.check();
}

#[tokio::test]
async fn a_long_stop_asks_systemd_for_more_time() {
    let manager = Manager::new();
    let setup = daemon().quiet().server("drain = \"10s\"").environment("NOTIFY_SOCKET", manager.path());
    let mut world = setup.environment("WATCHDOG_USEC", "600000").start().await;
    let mut caller = world.caller().await;
    caller.write(format!("GET /hang HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
    eventually("the request", async || !world.upstream.requests().is_empty()).await;

    world.process.signal(Signal::TERM);
    manager.with("STOPPING=1").await;
    for _ in 0..3 {
        let message = manager.with("EXTEND_TIMEOUT_USEC=30000000").await;
        assert!(message.contains("WATCHDOG=1"), "{message}");
    }

    world.process.signal(Signal::TERM);
    assert_eq!(world.process.ended().await.code(), Some(0));
    world.check();
}

#[tokio::test]
async fn the_watchdog_is_reset_while_the_daemon_runs_and_not_while_it_is_stopped() {
    let manager = Manager::new();
    let setup = daemon().quiet().environment("NOTIFY_SOCKET", manager.path());
    let world = setup.environment("WATCHDOG_USEC", "400000").start().await;
    for _ in 0..5 {
        timeout(Duration::from_secs(2), manager.with("WATCHDOG=1")).await.unwrap();
    }

    world.process.signal(Signal::STOP);
    while timeout(Duration::from_millis(200), manager.next()).await.is_ok() {}
    assert!(timeout(Duration::from_secs(1), manager.next()).await.is_err());
    world.process.signal(Signal::CONT);
    manager.with("WATCHDOG=1").await;
    world.finish().await;
}

#[tokio::test]
async fn systemd_reads_why_the_daemon_did_not_start() {
    let manager = Manager::new();
    let (_taken, address) = listener();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &address.to_string(), "127.0.0.1:0");
    let mut process = command(&["run"], &[], folder.path()).variable("NOTIFY_SOCKET", manager.path()).start();

    assert_eq!(process.ended().await.code(), Some(1), "{}", process.output());

    let status = manager.next().await;
    assert!(status.starts_with(&format!("STATUS=not started: cannot listen on {address}")), "{status}");
}

/// Writes a configuration with these addresses.
fn write(folder: &Path, server: &str, admin: &str) {
    let text = format!(
        "[server]\nlisten = {server:?}\n[admin]\nlisten = {admin:?}\n[log]\nformat = \"json\"\n\
         [[routes]]\nupstream = \"http://127.0.0.1:9\"\ncredential = \"none\"\n"
    );
    std::fs::write(folder.join("proxy.toml"), text).unwrap();
}

#[tokio::test]
async fn passed_sockets_are_used_where_their_address_is_configured() {
    let ((server, server_address), (admin, admin_address)) = (listener(), listener());
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &server_address.to_string(), &admin_address.to_string());
    // In another order than in the configuration, and with the names that systemd gives by itself.
    let process = command(&["run"], &[], folder.path())
        .socket("bearerd.socket", admin.try_clone().unwrap())
        .socket("bearerd.socket", server.try_clone().unwrap())
        .start();

    assert_eq!(process.logged_address("listening").await, server_address);
    assert_eq!(process.logged_address("admin listening").await, admin_address);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(client.get(format!("http://{admin_address}/livez")).send().await.unwrap().status(), 200);
    assert_eq!(Caller::connect(server_address).await.send(&Request::get("/x")).await.status, 502);
}

#[tokio::test]
async fn a_passed_socket_that_is_not_configured_ends_the_start_with_78() {
    let (socket, address) = listener();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "127.0.0.1:0", "127.0.0.1:0");
    let mut process = command(&["run"], &[], folder.path()).socket("bearerd.socket", socket).start();

    assert_eq!(process.ended().await.code(), Some(78), "{}", process.output());

    let said = format!(
        "systemd passes a socket (bearerd.socket) that listens on {address}, which is no address of server.listen"
    );
    assert!(process.output().contains(&said), "{}", process.output());
    assert!(process.output().contains("FileDescriptorName=server"), "{}", process.output());

    // A socket for another process is none of the daemon's, and `check` looks at none.
    let other =
        command(&["run"], &[], folder.path()).variable("LISTEN_FDS", "1").variable("LISTEN_PID", "1").start();
    other.event("started").await;
    let check = command(&["check"], &[], folder.path()).variable("LISTEN_FDS", "1");
    assert_eq!(check.start().ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_passed_unix_socket_is_used_and_its_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let listen = format!("listen = \"unix:{}\"", path.display());
    let folder_of_config = tempfile::tempdir().unwrap();
    write(folder_of_config.path(), "x", "127.0.0.1:0");
    let text = std::fs::read_to_string(folder_of_config.path().join("proxy.toml")).unwrap();
    std::fs::write(folder_of_config.path().join("proxy.toml"), text.replace("listen = \"x\"", &listen))
        .unwrap();
    let launch = command(&["run"], &[], folder_of_config.path()).socket("b", socket.try_clone().unwrap());

    for _ in 0..2 {
        // The connection is queued before the daemon runs, and served by it.
        let stream = UnixStream::connect(&path).await.unwrap();
        let mut process = launch.start();
        let mut caller = Caller::over(stream, "localhost");
        assert_eq!(caller.send(&Request::get("/x")).await.status, 502);
        process.signal(Signal::TERM);
        assert_eq!(process.ended().await.code(), Some(0), "{}", process.output());
        assert!(path.exists());
    }
}

#[tokio::test]
async fn a_restart_with_a_held_socket_refuses_no_connection() {
    let (socket, address) = listener();
    let mut world = daemon().quiet().socket("server", socket.try_clone().unwrap()).start().await;
    assert_eq!(world.address, address);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut answered = 0;
                while !*stopped.borrow() {
                    let stream = TcpStream::connect(address).await.expect("a connection was refused");
                    let mut caller = Caller::over(stream, "localhost");
                    let reply = timeout(PROMPT * 3, caller.send(&Request::get("/x"))).await.unwrap();
                    assert_eq!(reply.status, 200);
                    answered += 1;
                }
                answered
            })
        })
        .collect();

    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.process.signal(Signal::TERM);
        assert_eq!(world.process.ended().await.code(), Some(0), "{}", world.process.output());
        start_again(&mut world).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.send_replace(true);
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
    world.finish().await;
}

async fn start_again(world: &mut World) {
    world.start_again().await;
    world.ready().await;
}

#[tokio::test]
async fn a_held_socket_that_a_reload_removes_can_be_configured_again() {
    let (socket, address) = listener();
    let listen = format!("listen = \"{address}\"");
    let setup = daemon().quiet().server(&listen).socket("b.socket", socket.try_clone().unwrap());
    let world = setup.start().await;
    let other = listener().1;
    let held = world.configuration();

    world.configure(|text| text.replace(&address.to_string(), &other.to_string()));
    world.reload().await;
    assert_eq!(Caller::connect(other).await.send(&Request::get("/x")).await.status, 200);
    world.configure(|_| held);
    world.reload().await;

    assert_eq!(Caller::connect(address).await.send(&Request::get("/x")).await.status, 200);
    world.finish().await;
}

/// The sockets of operators, on a unix socket, and of health checks: by their address, and by the name of their key.
#[tokio::test]
async fn passed_sockets_of_operators_and_health_checks_are_used_and_stay() {
    use std::os::unix::fs::PermissionsExt;
    let sockets = tempfile::tempdir().unwrap();
    let path = sockets.path().join("admin.sock");
    let admin = UnixListener::bind(&path).unwrap();
    let (health, health_address) = listener();
    for (name_of_admin, name_of_health, listens_elsewhere) in
        [("bearerd.socket", "bearerd.socket", false), ("admin", "health", true)]
    {
        let folder = tempfile::tempdir().unwrap();
        let (admin_listen, health_listen) = if listens_elsewhere {
            ("127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned())
        } else {
            (format!("unix:{}", path.display()), health_address.to_string())
        };
        write(folder.path(), "127.0.0.1:0", &admin_listen);
        let file = folder.path().join("proxy.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("[log]", &format!("[health]\nlisten = {health_listen:?}\n[log]")))
            .unwrap();
        let launch = || {
            command(&["run"], &[], folder.path())
                .socket(name_of_admin, admin.try_clone().unwrap())
                .socket(name_of_health, health.try_clone().unwrap())
        };

        // Whoever could connect would be an operator.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let mut refused = launch().start();
        assert_eq!(refused.ended().await.code(), Some(1), "{}", refused.output());
        assert!(refused.output().contains("SocketMode=0600"), "{}", refused.output());

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).unwrap();
        let mut process = launch().start();
        process.event("started").await;
        let builder = || reqwest::Client::builder().no_proxy();
        let operator = builder().unix_socket(path.as_path()).build().unwrap();
        assert_eq!(operator.get("http://localhost/status").send().await.unwrap().status(), 200);
        let checks = builder().build().unwrap().get(format!("http://{health_address}/livez"));
        assert_eq!(checks.send().await.unwrap().status(), 200);
        process.signal(Signal::TERM);
        assert_eq!(process.ended().await.code(), Some(0), "{}", process.output());
        assert!(path.exists());
    }
}
