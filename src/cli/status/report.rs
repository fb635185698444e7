//! The state of a daemon: a table with a line a credential, then what needs attention, with its remedy.

use std::fmt::Write as _;

use crate::admin::status::{Caller, Credential, Finding, Pool, PoolMember, Status, Time};
use crate::admin::words::{ahead, counted, relative, span, under_way_for};
use crate::peer_text::{printable, printable_within};

/// The most characters of a remedy that are shown: more than any has.
pub(super) const MAX_HELP_CHARS: usize = 1000;
/// How many events are shown of one credential.
const EVENTS: usize = 5;

/// How a status is written.
pub(super) struct Report {
    pub(super) is_coloured: bool,
    /// Whether one credential was asked for, which is shown with its latest error and events.
    pub(super) is_of_one: bool,
    pub(super) now: Time,
}

#[derive(Clone, Copy)]
enum Tone {
    Good,
    Warning,
    Bad,
    Quiet,
}

/// The stage of the daemon's life.
pub(super) const fn stage(status: &Status) -> &'static str {
    match (status.draining, status.ready) {
        (true, _) => "stopping",
        (false, true) => "ready",
        (false, false) => "not ready",
    }
}

const CALLER_COLUMNS: [&str; 7] =
    ["CALLER", "REQUESTS", "REFUSED", "WAITING", "WEIGHT", "SHARE", "QUOTA LEFT"];
const POOL_COLUMNS: [&str; 5] = ["POOL", "STATE", "CREDENTIAL", "LEFT", "REQUESTS"];
const COLUMNS: [&str; 5] = ["CREDENTIAL", "STATE", "REASON", "TOKEN", "NEXT"];

impl Report {
    /// The status as lines of text.
    pub(super) fn text(&self, status: &Status) -> String {
        let mut text = String::new();
        if !self.is_of_one {
            let stage = stage(status);
            let up = span(status.started_at.until(self.now));
            let line = format!("bearerd {} {stage}, up {up}", status.version);
            let _ = writeln!(text, "{}\n", self.paint(&line, Tone::Quiet));
        }
        self.credentials(&mut text, &status.credentials);
        if !self.is_of_one && !status.pools.is_empty() {
            self.pools(&mut text, &status.pools);
        }
        if !self.is_of_one && !status.callers.is_empty() {
            self.callers(&mut text, &status.callers);
        }
        for finding in &status.attention {
            self.finding(&mut text, finding);
        }
        if self.is_of_one {
            for credential in &status.credentials {
                self.details(&mut text, credential);
            }
        }
        text
    }

    /// What needs attention, why, since when, and what to do.
    fn finding(&self, text: &mut String, finding: &Finding) {
        let tone = if finding.is_unusable() { Tone::Bad } else { Tone::Warning };
        let name =
            if finding.name.is_empty() { String::new() } else { format!(" {}", printable(&finding.name)) };
        let person = if finding.needs_person { ", needs a person" } else { "" };
        let line = format!("{}{name}: {}{person}", finding.subject, finding.reason);
        let _ = writeln!(text, "\n{}", self.paint(&line, tone));
        let mut facts = Vec::new();
        if let Some(detail) = &finding.detail {
            facts.push(("what", printable(detail)));
        }
        if let Some(since) = finding.since {
            facts.push(("since", format!("{since}, {}", relative(since, self.now))));
        }
        if let Some(until) = finding.until {
            facts.push((finding.until_name(), format!("{until}, {}", relative(until, self.now))));
        }
        facts.push(("what to do", printable_within(&finding.help, MAX_HELP_CHARS)));
        facts.push(("read", printable(&finding.documentation)));
        for (name, value) in facts {
            let _ = writeln!(text, "  {} {value}", self.paint(&format!("{name:<13}"), Tone::Quiet));
        }
    }

    fn credentials(&self, text: &mut String, credentials: &[Credential]) {
        let row = |one: &Credential| {
            let tone = match one.state.as_str() {
                "valid" => Tone::Good,
                "degraded" => Tone::Warning,
                "unusable" => Tone::Bad,
                _ => Tone::Quiet,
            };
            (self.row(one), Some(tone))
        };
        self.table(text, COLUMNS, &credentials.iter().map(row).collect::<Vec<_>>());
    }

    fn pools(&self, text: &mut String, pools: &[Pool]) {
        let row = |pool: &Pool, member: &PoolMember| {
            let reason = member.reason.as_deref().unwrap_or("usable");
            let until = member.until.map(|until| format!(", ends {}", ahead(until, self.now)));
            let state = format!("{}{}", printable(reason), until.unwrap_or_default());
            let left = member.left.map_or_else(|| "-".to_owned(), |left| left.to_string());
            let [pool, credential] = [&pool.name, &member.credential].map(|name| printable(name));
            let tone = if member.usable { Tone::Good } else { Tone::Warning };
            ([pool, state, credential, left, member.requests.to_string()], Some(tone))
        };
        let rows = pools.iter().flat_map(|pool| pool.members.iter().map(move |member| row(pool, member)));
        text.push('\n');
        self.table(text, POOL_COLUMNS, &rows.collect::<Vec<_>>());
    }

    fn callers(&self, text: &mut String, callers: &[Caller]) {
        let row = |one: &Caller| {
            let counts = [one.requests, one.refused, one.waiting].map(|count| count.to_string());
            let [requests, refused, waiting] = counts;
            let or_none = |words: Option<String>| words.unwrap_or_else(|| "-".to_owned());
            let (share, quota) = (or_none(one.share_in_words()), or_none(one.quota_in_words()));
            ([printable(&one.name), requests, refused, waiting, one.weight.to_string(), share, quota], None)
        };
        text.push('\n');
        self.table(text, CALLER_COLUMNS, &callers.iter().map(row).collect::<Vec<_>>());
    }

    /// A table, in whose rows the second cell may have a tone.
    fn table<const N: usize>(
        &self,
        text: &mut String,
        heads: [&str; N],
        rows: &[([String; N], Option<Tone>)],
    ) {
        let width = |column: usize| {
            let cells = rows.iter().map(|(row, _)| row[column].chars().count());
            cells.chain([heads[column].len()]).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..N).map(width).collect();
        let line = |cells: [&str; N], tone: Option<Tone>| {
            let mut line = String::new();
            for (column, cell) in cells.into_iter().enumerate() {
                let padding = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
                let cell = match tone {
                    Some(tone) if column == 1 => self.paint(cell, tone),
                    _ => cell.to_owned(),
                };
                let _ = write!(line, "{cell}{padding}  ");
            }
            line.trim_end().to_owned()
        };
        let _ = writeln!(text, "{}", self.paint(&line(heads, None), Tone::Quiet));
        for (row, tone) in rows {
            let _ = writeln!(text, "{}", line(row.each_ref().map(String::as_str), *tone));
        }
    }

    fn row(&self, credential: &Credential) -> [String; 5] {
        let left = match credential.expires_at {
            None => "none".to_owned(),
            Some(end) if end > self.now => format!("{} left", span(self.now.until(end))),
            Some(end) => format!("ended {}", relative(end, self.now)),
        };
        let under_way = credential.request_under_way_since;
        let next = match (under_way, credential.next_attempt_at, credential.next_refresh_at) {
            (Some(since), ..) => format!("request {}", under_way_for(since, self.now)),
            (None, Some(at), _) => format!("attempt {}", ahead(at, self.now)),
            (None, None, Some(at)) => format!("refresh {}", ahead(at, self.now)),
            (None, None, None) => "-".to_owned(),
        };
        let reason = credential.reason.as_deref().unwrap_or("-").to_owned();
        [printable(&credential.name), credential.state.clone(), reason, left, next]
    }

    fn details(&self, text: &mut String, credential: &Credential) {
        let mut facts = vec![
            ("grant", format!("{} ({})", credential.grant, credential.provider)),
            ("generation", credential.generation.to_string()),
            ("token requests", credential.token_requests.to_string()),
            ("quota", format!("{} now", counted(credential.quota_remaining as usize, "token request"))),
            ("state", if credential.durable { "on disk" } else { "in memory only" }.to_owned()),
        ];
        if let Some(quota) = &credential.api_quota {
            let waiting =
                if quota.waiting > 0 { format!(", {} waiting", quota.waiting) } else { String::new() };
            let text =
                format!("{} of {} left{waiting}, {} refused", quota.left, quota.requests, quota.refused);
            facts.push(("api quota", text));
        }
        if let Some(tenant) = &credential.tenant {
            facts.push(("tenant", printable(tenant)));
        }
        if credential.max_rotations > 0 {
            facts.push(("rotations", format!("{} of {}", credential.rotations, credential.max_rotations)));
        }
        if let Some(end) = credential.refresh_token_expires_at {
            facts.push(("refresh token", format!("ends {}", relative(end, self.now))));
        }
        if let Some(until) = credential.not_before {
            facts.push(("Retry-After", format!("ends {}", ahead(until, self.now))));
        }
        if let Some(error) = &credential.last_error {
            let at = error.at.map(|at| format!(", {}", relative(at, self.now))).unwrap_or_default();
            facts.push(("last error", format!("{}: {}{at}", error.outcome, printable(&error.detail))));
        }
        text.push('\n');
        for (name, value) in facts {
            let _ = writeln!(text, "{} {value}", self.paint(&format!("{name:<15}"), Tone::Quiet));
        }
        for event in credential.events.iter().rev().take(EVENTS) {
            let detail = event.detail.as_deref().map(printable).unwrap_or_default();
            let at = self.paint(&format!("{:<15}", relative(event.at, self.now)), Tone::Quiet);
            let _ = writeln!(text, "{at} {} {detail}", event.event);
        }
    }

    fn paint(&self, text: &str, tone: Tone) -> String {
        if !self.is_coloured {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Quiet => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
