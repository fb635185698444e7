//! `bearerd run`: serves until a signal, and reloads the configuration meanwhile.

mod certificates;
mod reloader;
mod watch;

use tracing::{error, info, warn};

use self::reloader::{Reloader, log_warnings};
use super::config_file;
use super::config_file::ConfigFile;
use super::exit_code::{BAD_CONFIGURATION, FAILED, OK};
use super::output;
use crate::app::{Daemon, StartError};
use crate::causes::in_one_line;
use crate::config::Environment;
use crate::config::source::file;
use crate::documentation;
use crate::lifecycle::{OtherSignal, StopSignals};
use crate::reload;
use crate::systemd::service::{ServiceManager, keep_alive};
use crate::systemd::sockets::PassedSockets;
use crate::telemetry::Event;
use crate::telemetry::event::Name;
use crate::telemetry::{files, log};

/// Returns the exit code after a failure before the log was open.
fn refused(code: u8) -> u8 {
    output::see(code);
    code
}

pub(super) async fn run(file: ConfigFile, environment: &Environment) -> u8 {
    // First: before that a signal ends the process at once, or has no effect on the first process of a container.
    let signals = StopSignals::new();
    // Before other threads run, since taking the sockets changes the environment.
    let passed = PassedSockets::take(environment);
    let mut manager = ServiceManager::of(environment);
    let path = match config_file::find(file, environment) {
        Ok(path) => path,
        Err(code) => return refused(code),
    };
    let read = file::read(&path);
    let is_file = read.as_ref().is_ok_and(|content| content.is_file);
    let used = watch::digest_of(&read).filter(|_| is_file);
    let checked = match config_file::check(&path, read, environment) {
        Ok(checked) => checked,
        Err(code) => return refused(code),
    };
    let log = match log::start(&checked.config.log, environment) {
        Ok(log) => log,
        Err(error) => {
            output::error_line(format_args!("bearerd: {}", in_one_line(&StartError::Log(error))));
            return refused(FAILED);
        }
    };
    log_warnings(&checked.warnings);
    if checked.config.server.watch && !is_file {
        warn!(config = %path.display(), "`server.watch` has no effect: the configuration is not a regular file");
    }
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            error!(%error, "signals cannot be received");
            return FAILED;
        }
    };
    let (reloads, requests) = reload::channel();
    let started = passed
        .map_err(Into::into)
        .and_then(|passed| Daemon::start(&checked.config, Some(reloads.clone()), passed));
    let mut daemon = match started {
        Ok(daemon) => daemon,
        Err(error) => {
            let text = in_one_line(&error);
            manager.status(&format!("not started: {text}"));
            let code = if error.is_of_the_configuration() { BAD_CONFIGURATION } else { FAILED };
            let documentation = documentation::of_exit_code(code);
            error!(error = text, help = error.help(), documentation, "not started");
            return code;
        }
    };
    daemon.configured_by(&path);
    let certificates = daemon.look_at_certificates();
    let requester = reloads.clone();
    let on_signal = |signal| match signal {
        OtherSignal::Hangup => {
            for certificate in &certificates {
                certificate.notify_one();
            }
            requester.request();
        }
        OtherSignal::Reopen => reopen_files(),
    };
    info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), "started");
    let version = Some(concat!("version ", env!("CARGO_PKG_VERSION")).to_owned());
    daemon.show_dropped_lines(log.dropped().clone());
    daemon.events().record_unlogged(Event { detail: version, ..Event::now(Name::DaemonStarted) });
    manager.ready(&daemon.status_line());
    let (pulse, watchdog) = (daemon.pulse(), manager.watchdog());
    let mut reloader = Reloader::new(path.clone(), environment.clone(), (reloads, requests), used, manager);
    tokio::select! {
        signal = signals.next_hearing(on_signal) => info!(signal, "asked to stop"),
        died = reloader.serve(&mut daemon) => {
            error!(error = %died, "stopping");
            daemon.abort().await;
            return FAILED;
        }
        never = keep_alive(watchdog, async || pulse.beat().await) => match never {},
    }
    // Clients that wait for a reload get an error.
    let mut manager = reloader.end();
    let hurry = async {
        let on_signal = |signal| {
            if signal == OtherSignal::Reopen {
                reopen_files();
            }
        };
        signals.next_hearing(on_signal).await;
    };
    tokio::select! {
        () = daemon.stop(hurry) => OK,
        never = manager.stopping("finishing the requests in flight") => match never {},
    }
}

/// Opens the files of the log again. The event is the first line of the new file.
fn reopen_files() {
    files::reopen();
    info!("files opened again");
}
