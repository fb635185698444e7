//! Reloads the configuration on request or when its file has changed, and sends the outcome to the
//! requesters. Takes up new content of the certificates that the configuration names. While a watched file cannot be
//! loaded, the reload is repeated every few seconds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::certificates::{CertificateWatch, Renewed};
use super::watch::{FileDigest, Trigger, Watch, digest_of};
use crate::app::{Daemon, Died};
use crate::blocking::Blocking;
use crate::causes::in_one_line;
use crate::config;
use crate::config::source::diagnostics::Diagnostics;
use crate::config::source::file::read_again;
use crate::config::{Checked, Environment};
use crate::reload::{Difference, NotReloaded, Outcome, ReloadRequests, Reloaded, Reloads};
use crate::systemd::service::ServiceManager;
use crate::telemetry::Event;
use crate::telemetry::event::Name;
use crate::telemetry::throttle::OnChange;

/// How long reading the configuration, and the files that it names, may take.
const CONFIG_READ_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the daemon's condition is compared with what systemd shows.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

type Loaded = (FileDigest, Result<Checked, Box<Diagnostics>>);

/// Reloads one configuration file.
#[derive(Debug)]
pub(super) struct Reloader {
    path: PathBuf,
    /// Whether the configuration was read from a regular file, which can be read again.
    is_file: bool,
    environment: Environment,
    reloads: Reloads,
    requests: ReloadRequests,
    watch: Watch,
    certificates: CertificateWatch,
    loading: Blocking<Loaded>,
    /// Whether the daemon itself has triggered the next reload, to repeat a failed one.
    is_repetition: bool,
    /// The problems of the last reload, if it failed.
    problems: OnChange<Option<String>>,
    manager: ServiceManager,
}

impl Reloader {
    /// The reloader of a regular file that had this digest when the configuration was read; without a digest, of a pipe.
    pub(super) fn new(
        path: PathBuf,
        environment: Environment,
        (reloads, requests): (Reloads, ReloadRequests),
        used: FileDigest,
        manager: ServiceManager,
    ) -> Self {
        let watch = Watch::new(&path, used);
        Self {
            path,
            is_file: used.is_some(),
            environment,
            reloads,
            requests,
            watch,
            certificates: CertificateWatch::new(),
            loading: Blocking::new(CONFIG_READ_TIMEOUT),
            is_repetition: false,
            problems: OnChange::default(),
            manager,
        }
    }

    /// Ends reloading; whoever waits for a reload gets an error.
    pub(super) fn end(self) -> ServiceManager {
        self.manager
    }

    /// Reloads the configuration on request until a part of the daemon dies.
    ///
    /// # Cancel safety
    ///
    /// The daemon can be stopped afterwards, also in the middle of a reload.
    pub(super) async fn serve(&mut self, daemon: &mut Daemon) -> Died {
        let mut statuses = tokio::time::interval(STATUS_INTERVAL);
        loop {
            let config = Arc::clone(daemon.config());
            let (is_watched, has_certificates) =
                (config.server.watch && self.is_file, config.has_certificate_files());
            tokio::select! {
                died = daemon.died() => return died,
                () = self.requests.next() => {
                    self.manager.reloading();
                    let outcome = Box::pin(self.reload(daemon)).await;
                    self.manager.ready(&self.status(daemon));
                    self.requests.respond(outcome);
                }
                _ = statuses.tick(), if self.manager.listens() => self.manager.status(&self.status(daemon)),
                trigger = self.watch.due(), if is_watched => {
                    self.is_repetition = trigger == Trigger::Failed;
                    self.reloads.request();
                }
                renewed = self.certificates.due(&config), if has_certificates => {
                    self.take_up(renewed, daemon).await;
                }
            }
        }
    }

    /// The daemon's condition in one line, with the failure of the last reload.
    fn status(&self, daemon: &Daemon) -> String {
        let problem = self.problems.current().as_ref().and_then(|problems| problems.lines().next());
        let reload =
            problem.map(|problem| format!("not reloaded ({problem}), the last configuration serves; "));
        reload.unwrap_or_default() + &daemon.status_line()
    }

    /// Serves with new content of certificates, and with everything else as it is in force.
    async fn take_up(&mut self, renewed: Renewed, daemon: &mut Daemon) {
        let outcome = Box::pin(daemon.reload(renewed.config.clone())).await;
        let outcome = outcome.map(|reloaded| reloaded.without_token).map_err(|error| in_one_line(&error));
        self.certificates.taken_up(renewed, outcome);
    }

    async fn reload(&mut self, daemon: &mut Daemon) -> Outcome {
        let outcome = match self.load().await {
            Ok(Checked { config, warnings, .. }) => match Box::pin(daemon.reload(config)).await {
                Ok(reloaded) => Ok(Reloaded { warnings: log_warnings(&warnings), ..reloaded }),
                Err(error) => {
                    let is_of_the_configuration = error.is_of_the_configuration();
                    let help = error.help().map_or_else(String::new, |help| format!("\n{help}"));
                    Err(NotReloaded { is_of_the_configuration, problems: in_one_line(&error) + &help })
                }
            },
            Err(not) => Err(not),
        };
        self.watch.reloaded(outcome.is_err());
        daemon.reload_ended(&outcome);
        let is_news = self.problems.changes_to(outcome.as_ref().err().map(|not| not.problems.clone()));
        let is_repetition = std::mem::take(&mut self.is_repetition);
        if is_news || !is_repetition {
            log_outcome(&outcome);
            daemon.events().record_unlogged(event(&outcome));
        }
        outcome
    }

    async fn load(&mut self) -> Result<Checked, NotReloaded> {
        let not_now = |problems: String| NotReloaded { is_of_the_configuration: false, problems };
        if !self.is_file {
            return Err(not_now(format!(
                "{} cannot be read again: it is not a regular file; restart bearerd with the new configuration",
                self.path.display()
            )));
        }
        let was_running = self.loading.is_running();
        let (path, environment) = (self.path.clone(), self.environment.clone());
        let load = move || {
            let read = read_again(&path);
            (digest_of(&read), config::check(&path, read, &environment))
        };
        let (digest, checked) = match self.loading.run(load).await {
            // The file may have changed since that reading began.
            Ok(_) if was_running => {
                return Err(not_now("reading the configuration took too long; ask again".to_owned()));
            }
            Ok(loaded) => loaded,
            Err(error) => return Err(not_now(format!("reading the configuration {error}"))),
        };
        self.watch.used(digest);
        checked.map_err(|diagnostics| NotReloaded {
            is_of_the_configuration: true,
            problems: diagnostics.render(false),
        })
    }
}

/// Logs the warnings about a configuration, and returns them.
pub(super) fn log_warnings(warnings: &Diagnostics) -> Vec<String> {
    let warnings = warnings.problems().iter().map(|problem| {
        let place = warnings.place_of(problem);
        warn!(place, help = problem.help.as_deref(), "configuration: {}", problem.title);
        place.map_or_else(|| problem.title.clone(), |place| format!("{place}: {}", problem.title))
    });
    warnings.collect()
}

/// The event of a reload, which the log describes by more members.
fn event(outcome: &Outcome) -> Event {
    let (name, detail) = match outcome {
        Ok(Reloaded { routes, credentials, .. }) => {
            let words = format!("routes: {}; credentials: {}", in_words(routes), in_words(credentials));
            (Name::ConfigurationReloaded, words)
        }
        Err(NotReloaded { problems, .. }) => {
            (Name::ConfigurationRejected, problems.lines().next().unwrap_or_default().to_owned())
        }
    };
    Event { detail: Some(detail), ..Event::now(name) }
}

fn log_outcome(outcome: &Outcome) {
    let reloaded = match outcome {
        Ok(reloaded) => reloaded,
        Err(NotReloaded { problems, .. }) => {
            error!(problems, "configuration not reloaded, kept the last one");
            return;
        }
    };
    info!(
        routes = in_words(&reloaded.routes),
        credentials = in_words(&reloaded.credentials),
        listeners = in_words(&reloaded.listeners),
        settings = reloaded.settings.join(", "),
        "configuration reloaded"
    );
    if !reloaded.without_token.is_empty() {
        let credentials = reloaded.without_token.join(", ");
        warn!(credentials, "new or changed credentials have no token yet");
    }
    if !reloaded.restart_needed.is_empty() {
        let keys = reloaded.restart_needed.join(", ");
        warn!(keys, "some keys count from the next start on");
    }
}

/// A difference as text, such as `2 kept; changed: a; added: b, c`.
fn in_words(difference: &Difference) -> String {
    let Difference { kept, changed, added, removed } = difference;
    let mut words = vec![format!("{kept} kept")];
    for (what, names) in [("changed", changed), ("added", added), ("removed", removed)] {
        if !names.is_empty() {
            words.push(format!("{what}: {}", names.join(", ")));
        }
    }
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_in_words_names_only_what_differs() {
        assert_eq!(in_words(&Difference::default()), "0 kept");
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let difference =
            Difference { kept: 2, changed: names(&["a"]), added: Vec::new(), removed: names(&["b", "c"]) };
        assert_eq!(in_words(&difference), "2 kept; changed: a; removed: b, c");
    }
}
