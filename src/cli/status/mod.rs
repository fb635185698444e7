//! `bearerd status`: the state of a running daemon, for people or as JSON.

mod changes;
mod report;

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use http::Method;

use self::changes::Seen;
use self::report::Report;
use super::admin::{AdminAddress, AdminClient, AdminError, Answer};
use super::exit_code::{FAILED, OK, USAGE};
use super::output;
use crate::admin::status::{self as seen, Time};
use crate::causes::in_one_line;
use crate::config::Environment;

pub(super) const HELP: &str = "Exit code: 0; 1 if a credential is unusable; 2 if there is no credential of this name; \
                               69 if the daemon cannot be reached.";

#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// Show this credential only
    name: Option<String>,
    #[command(flatten)]
    address: AdminAddress,
    /// Print what /status answers
    #[arg(long)]
    json: bool,
    /// Show the state anew each second, until interrupted; not on a terminal, print each change in a line
    #[arg(long)]
    watch: bool,
}

const TIMEOUT: Duration = Duration::from_secs(10);
/// The time between two requests of `--watch`.
const INTERVAL: Duration = Duration::from_secs(1);

/// What is shown, and how.
struct Screen {
    name: Option<String>,
    is_json: bool,
    is_coloured: bool,
}

pub(super) async fn status(status: Status, environment: &Environment) -> u8 {
    let Status { name, address, json, watch } = status;
    let mut client = match AdminClient::new(address, environment) {
        Ok(client) => client,
        Err(error) => return error.report(environment),
    };
    let is_terminal = std::io::stdout().is_terminal();
    let is_coloured = is_terminal && environment.get("NO_COLOR").is_none_or(str::is_empty);
    let screen = Screen { name, is_json: json, is_coloured };
    let first = match ask(&mut client).await {
        Ok(answer) => screen.show(&client, &answer),
        Err(error) => return error.report(environment),
    };
    match first {
        Err(code) => code,
        Ok(shown) if !watch => {
            output::line(shown.text.trim_end());
            shown.code
        }
        Ok(shown) => screen.watch(client, shown, is_terminal && !json).await,
    }
}

async fn ask(client: &mut AdminClient) -> Result<Answer, AdminError> {
    client.operate(Method::GET, "/status", None, TIMEOUT).await
}

struct Shown {
    text: String,
    code: u8,
    seen: Seen,
}

impl Screen {
    /// The text for an answer, or the exit code after a message.
    fn show(&self, client: &AdminClient, answer: &Answer) -> Result<Shown, u8> {
        if !answer.is_success() {
            let Some(detail) = answer.detail() else { return Err(client.not_an_admin_address(answer)) };
            output::error_line(format_args!("bearerd: {detail} ({})", answer.status));
            return Err(FAILED);
        }
        let Ok(mut status) = serde_json::from_str::<seen::Status>(&answer.text) else {
            return Err(client.not_an_admin_address(answer));
        };
        if let Some(name) = &self.name {
            let names: Vec<_> = status.credentials.iter().map(|one| one.name.clone()).collect();
            status.credentials.retain(|one| one.name == *name);
            let is_held =
                |route: &seen::Route| route.hold.as_ref().is_some_and(|hold| hold.credential == *name);
            status.routes.retain(is_held);
            let routes = &status.routes;
            status.attention.retain(|one| match one.subject.as_str() {
                "credential" => one.name == *name,
                "route" => routes.iter().any(|route| route.name == one.name),
                _ => false,
            });
            if status.credentials.is_empty() {
                let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                output::error_line(format_args!(
                    "bearerd: the daemon has no credential `{name}`; its credentials: {known}"
                ));
                return Err(USAGE);
            }
        }
        let is_unusable = status.credentials.iter().any(|one| one.state == "unusable");
        let code = if is_unusable { FAILED } else { OK };
        let text = if self.is_json {
            self.json(answer, &status)
        } else {
            let report =
                Report { is_coloured: self.is_coloured, is_of_one: self.name.is_some(), now: Time::now() };
            report.text(&status)
        };
        Ok(Shown { text, code, seen: Seen::of(&status) })
    }

    /// The answer as it came; of one credential, its entry.
    fn json(&self, answer: &Answer, status: &seen::Status) -> String {
        match (&self.name, status.credentials.first()) {
            (Some(_), Some(one)) => serde_json::to_string(one).unwrap_or_default(),
            _ => answer.text.trim_end().to_owned(),
        }
    }

    /// Shows the state until an interrupt: on a terminal the whole anew, and elsewhere what changes.
    async fn watch(&self, mut client: AdminClient, first: Shown, redraws: bool) -> u8 {
        let mut last = first;
        if redraws {
            redraw(&last.text);
        } else {
            output::line(last.text.trim_end());
        }
        loop {
            let next = async {
                tokio::time::sleep(INTERVAL).await;
                ask(&mut client).await
            };
            let answer = tokio::select! {
                answer = next => answer,
                _ = tokio::signal::ctrl_c() => {
                    if redraws {
                        output::line("");
                    }
                    return last.code;
                }
            };
            let shown = match answer {
                Ok(answer) => match self.show(&client, &answer) {
                    Ok(shown) => shown,
                    Err(code) => return code,
                },
                Err(error) => {
                    let error = in_one_line(&error);
                    let seen = last.seen.without_answer(&error);
                    if self.is_json && seen != last.seen {
                        output::error_line(format_args!("bearerd: {error}"));
                    }
                    // JSON keeps its last text: the next answer is printed if it differs from that.
                    let text =
                        if self.is_json { last.text.clone() } else { format!("The daemon at {error}\n") };
                    Shown { text, code: last.code, seen }
                }
            };
            if redraws {
                redraw(&shown.text);
            } else {
                self.print_changes(&last, &shown);
            }
            last = shown;
        }
    }

    fn print_changes(&self, last: &Shown, shown: &Shown) {
        if !self.is_json {
            for line in last.seen.changes(&shown.seen) {
                output::line(format_args!("{} {line}", Time::now()));
            }
        } else if shown.text != last.text {
            output::line(shown.text.trim_end());
        }
    }
}

/// Writes over the last text, line by line: clearing the screen first would flicker.
fn redraw(text: &str) {
    let mut frame = String::from("\x1b[H");
    for line in text.lines() {
        let _ = write!(frame, "{line}\x1b[K\r\n");
    }
    frame.push_str("\x1b[J");
    let mut out = std::io::stdout().lock();
    output::written(out.write_all(frame.as_bytes()).and_then(|()| out.flush()));
}
