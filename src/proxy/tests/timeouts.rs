//! Timeouts that the sweeps find: none is up early, even one that is hardly longer than the time between two sweeps.

use super::*;

const TIMEOUT: Duration = Duration::from_millis(15);
/// The shortest time between two sweeps.
const PERIOD: Duration = Duration::from_millis(10);

fn is_in_time(elapsed: Duration) -> bool {
    (TIMEOUT..=TIMEOUT + 2 * PERIOD).contains(&elapsed)
}

/// The time from a request, which is answered at once, until the caller's connection has ended.
async fn ended_after(world: &World, request: &[u8], is_read: bool) -> Duration {
    let mut stream = world.connection();
    stream.write_all(request).await.unwrap();
    let began = Instant::now();
    if is_read {
        return until_the_end(stream).await.1;
    }
    while world.connections() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    began.elapsed()
}

#[test]
fn no_timeout_is_up_early_at_any_time_between_two_sweeps() {
    in_paused_time(async || {
        let mut config = config("");
        let limits = &mut config.server.limits;
        (limits.header_timeout, limits.idle_timeout, limits.write_timeout) = (TIMEOUT, TIMEOUT, TIMEOUT);
        config.routes[0].read_timeout = Some(TIMEOUT);
        let world = keep_sweeping(world_of(&config, ConnectionLimits::default(), Duration::ZERO));
        assert_eq!(world.worker.sweeps().period(), PERIOD);
        assert_eq!(world.get().await.status(), 200);
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");

        for _ in 0..10 {
            for (what, request, is_read) in [
                ("header_timeout", "GET / HTTP/1.1\r\nhost:".to_owned(), true),
                ("header_timeout without a byte", String::new(), true),
                ("idle_timeout", get("/x"), true),
                ("read_timeout", get("/stall"), true),
                ("write_timeout", get("/large"), false),
            ] {
                let elapsed = ended_after(&world, request.as_bytes(), is_read).await;
                assert!(is_in_time(elapsed), "{what}: {elapsed:?}");
            }
            // The next round begins at another time between two sweeps.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}
