//! Reads the configuration again when somebody wants that, and tells what became of it.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::tell_of_warnings;
use super::watch::{Content, Watch, of};
use crate::app::{Daemon, Died};
use crate::causes::in_one_line;
use crate::config;
use crate::config::source::diagnostics::Diagnostics;
use crate::config::{Checked, Environment};
use crate::reload::{Difference, NotReloaded, Outcome, Reloaded, Reloads, Wishes};

/// How long reading the configuration, and the files that it names, may take.
const PATIENCE: Duration = Duration::from_secs(15);

type Loaded = (Content, Result<Checked, Box<Diagnostics>>);

/// Reads one configuration, again and again.
#[derive(Debug)]
pub(super) struct Reloader {
    path: PathBuf,
    environment: Environment,
    reloads: Reloads,
    wishes: Wishes,
    watch: Watch,
    /// One that has not come back in time. It is not begun again before it has.
    loading: Option<JoinHandle<Loaded>>,
}

impl Reloader {
    /// Of the configuration that was just read.
    pub(super) fn new(
        path: PathBuf,
        environment: Environment,
        (reloads, wishes): (Reloads, Wishes),
        used: Content,
    ) -> Self {
        let watch = Watch::new(&path, used);
        Self { path, environment, reloads, wishes, watch, loading: None }
    }

    /// Serves until something ends the daemon, with a reload whenever one is wanted.
    ///
    /// # Cancel safety
    ///
    /// What is left of the daemon in the middle of a reload can be stopped.
    pub(super) async fn serve(&mut self, daemon: &mut Daemon) -> Died {
        loop {
            let is_watched = daemon.config().server.watch;
            tokio::select! {
                died = daemon.died() => return died,
                () = self.wishes.next() => {
                    let outcome = Box::pin(self.reload(daemon)).await;
                    self.wishes.tell(outcome);
                }
                () = self.watch.changed(), if is_watched => {
                    self.reloads.want();
                }
            }
        }
    }

    async fn reload(&mut self, daemon: &mut Daemon) -> Outcome {
        let outcome = match self.load().await {
            Ok(checked) => {
                let warnings = tell_of_warnings(&checked);
                match Box::pin(daemon.reload(checked.config)).await {
                    Ok(reloaded) => Ok(Reloaded { warnings, ..reloaded }),
                    Err(error) => Err(NotReloaded {
                        is_of_the_configuration: error.is_of_the_configuration(),
                        problems: [Some(in_one_line(&error)), error.help().map(str::to_owned)]
                            .into_iter()
                            .flatten()
                            .collect::<Vec<_>>()
                            .join("\n"),
                    }),
                }
            }
            Err(not) => Err(not),
        };
        tell(&outcome);
        outcome
    }

    async fn load(&mut self) -> Result<Checked, NotReloaded> {
        let patience = if self.loading.is_some() { Duration::ZERO } else { PATIENCE };
        let was_hanging = self.loading.is_some();
        let loading = self.loading.get_or_insert_with(|| {
            let (path, environment) = (self.path.clone(), self.environment.clone());
            tokio::task::spawn_blocking(move || match std::fs::read(&path) {
                Ok(bytes) => (Some(of(&bytes)), config::load(&path, &environment)),
                Err(_) => (None, config::load(&path, &environment)),
            })
        });
        let not_now =
            |problems: &str| NotReloaded { is_of_the_configuration: false, problems: problems.to_owned() };
        let Ok(loaded) = tokio::time::timeout(patience, loading).await else {
            return Err(not_now("reading the configuration does not come to an end"));
        };
        self.loading = None;
        if was_hanging {
            return Err(not_now("reading the configuration took too long; ask again"));
        }
        let (content, checked) = loaded.map_err(|_| not_now("reading the configuration panicked"))?;
        self.watch.used(content);
        checked.map_err(|diagnostics| NotReloaded {
            is_of_the_configuration: true,
            problems: diagnostics.render(false),
        })
    }
}

fn tell(outcome: &Outcome) {
    match outcome {
        Ok(reloaded) => {
            let Reloaded { routes, credentials, listeners, settings, without_token, restart_needed, .. } =
                reloaded;
            info!(
                routes = in_words(routes),
                credentials = in_words(credentials),
                listeners = in_words(listeners),
                settings = settings.join(", "),
                "configuration reloaded"
            );
            if !without_token.is_empty() {
                let credentials = without_token.join(", ");
                warn!(credentials, "new or changed credentials have no token yet");
            }
            if !restart_needed.is_empty() {
                let keys = restart_needed.join(", ");
                warn!(keys, "some keys count from the next start on");
            }
        }
        Err(NotReloaded { problems, .. }) => {
            error!(problems, "configuration not reloaded, kept the last one");
        }
    }
}

/// `2 kept, changed: a, added: b, c`.
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
    fn a_difference_in_words_says_what_there_is_of_it() {
        assert_eq!(in_words(&Difference::default()), "0 kept");
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let difference =
            Difference { kept: 2, changed: names(&["a"]), added: Vec::new(), removed: names(&["b", "c"]) };
        assert_eq!(in_words(&difference), "2 kept; changed: a; removed: b, c");
    }
}
