//! Reports the daemon's state to systemd (`sd_notify(3)`): ready, reloading, stopping, alive.
//!
//! Each report is one datagram to the socket of `NOTIFY_SOCKET`. A report that cannot be sent changes nothing in the daemon.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::warn;

use crate::config::Environment;
use crate::telemetry::throttle::OnChange;

/// The time that each report of a stop asks for, and the time between two: far less, so that one may come late.
const STOP_EXTENSION: Duration = Duration::from_secs(30);
const STOP_REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// The service manager, or none.
#[derive(Debug, Default)]
pub struct ServiceManager {
    listens: bool,
    /// How long the daemon may be silent before systemd kills it.
    watchdog: Option<Duration>,
    status: OnChange<String>,
}

impl ServiceManager {
    /// The service manager that the environment names.
    pub fn of(environment: &Environment) -> Self {
        let listens = environment.get("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty());
        // Not for another process, such as a parent that has passed its environment on.
        let watchdog = sd_notify::watchdog_enabled().filter(|limit| listens && !limit.is_zero());
        Self { listens, watchdog, status: OnChange::default() }
    }

    /// Whether reports reach a service manager.
    pub const fn listens(&self) -> bool {
        self.listens
    }

    /// The daemon listens on its addresses, or has ended a reload.
    pub fn ready(&mut self, status: &str) {
        self.report(&[NotifyState::Ready], status);
    }

    /// A reload begins. [`ServiceManager::ready`] ends it, whatever its outcome.
    pub fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            // In one message: systemd takes the time for that of the reload that it has asked for.
            Ok(now) => self.report(&[NotifyState::Reloading, now], "reloading the configuration"),
            Err(error) => warn!(%error, "the reload was not reported to systemd"),
        }
    }

    /// The line of text that `systemctl status` shows; sent if it has changed.
    pub fn status(&mut self, status: &str) {
        self.report(&[], status);
    }

    /// Reports the stop, and again and again that it goes on: a stop lasts as long as the configuration says, also
    /// beyond `TimeoutStopSec=`.
    pub async fn stopping(&mut self, status: &str) -> Infallible {
        self.report(&[NotifyState::Stopping], status);
        let Ok(extension) = u32::try_from(STOP_EXTENSION.as_micros()) else { return pending().await };
        let half = self.watchdog.map_or(STOP_REPORT_INTERVAL, |limit| limit / 2);
        let mut reports = interval(half.min(STOP_REPORT_INTERVAL));
        loop {
            reports.tick().await;
            self.send(&[NotifyState::ExtendTimeoutUsec(extension), NotifyState::Watchdog]);
        }
    }

    /// How long the daemon may be silent before systemd kills it, if at all.
    pub const fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    fn report(&mut self, states: &[NotifyState<'_>], text: &str) {
        // One line, whatever the text of a problem has.
        let line: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
        let mut all = states.to_vec();
        if self.status.changes_to(line.clone()) {
            all.push(NotifyState::Status(&line));
        }
        self.send(&all);
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        if self.listens && !states.is_empty() {
            send(states);
        }
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd was not notified");
    }
}

/// Reports at half of `limit` that the daemon is alive, if its parts prove so in time: `beat` resolves once all of them
/// have answered.
pub async fn keep_alive(limit: Option<Duration>, beat: impl AsyncFn()) -> Infallible {
    let Some(limit) = limit else { return pending().await };
    report_alive(limit, beat, || send(&[NotifyState::Watchdog])).await
}

async fn report_alive(limit: Duration, beat: impl AsyncFn(), mut alive: impl FnMut()) -> Infallible {
    let mut reports = interval(limit / 2);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        reports.tick().await;
        match timeout(limit / 4, beat()).await {
            Ok(()) => alive(),
            Err(_) => warn!("a thread does not answer: the watchdog of systemd is not reset"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_daemon_whose_parts_answer_is_reported_alive_at_half_of_the_limit() {
        let alive = Cell::new(0);
        let reporting = report_alive(Duration::from_secs(10), async || {}, || alive.set(alive.get() + 1));

        assert!(timeout(Duration::from_secs(21), reporting).await.is_err());

        assert_eq!(alive.get(), 5, "at 0, 5, 10, 15 and 20 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_with_a_part_that_hangs_is_not_reported_alive_until_the_part_answers() {
        let (alive, hangs) = (Cell::new(0), Cell::new(true));
        let beat = async || {
            if hangs.get() {
                pending::<()>().await;
            }
        };
        let mut reporting =
            Box::pin(report_alive(Duration::from_secs(10), beat, || alive.set(alive.get() + 1)));

        assert!(timeout(Duration::from_mins(1), &mut reporting).await.is_err());
        assert_eq!(alive.get(), 0);
        hangs.set(false);
        assert!(timeout(Duration::from_secs(10), &mut reporting).await.is_err());
        assert!(alive.get() > 0);
    }
}
