//! Makes the events about one credential's tokens, and about the requests of operators.
//!
//! A [`Trail`] belongs to a refresher. The counts that it keeps are in the credential's [`History`], which outlives it.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::event::{Event, More, Name, timestamp};
use super::events::Events;
use super::history::History;
use super::spans::{SpanContext, TokenRequestSpan};
use crate::clock::wall_clock;

/// The part of a credential's configuration that its events have.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The credential's name.
    pub name: Arc<str>,
    /// Its grant.
    pub grant: &'static str,
    /// How often its refresh token may be replaced; 0 is without limit.
    pub max_rotations: u64,
}

/// Makes the events of one credential.
#[derive(Debug)]
pub struct Trail {
    subject: Subject,
    events: Events,
    history: Arc<History>,
    /// The current token; before the first, one of generation 0.
    token: Issued,
    rotations: u64,
    latency: Option<Duration>,
    is_failing: bool,
    /// The token request under way.
    span: Option<TokenRequestSpan>,
}

/// A token that was issued.
#[derive(Clone, Debug, Default)]
pub struct Issued {
    /// The token's generation; 1 is the first.
    pub generation: u64,
    /// The token's fingerprint.
    pub fingerprint: String,
    /// The tenant that the token names.
    pub tenant: Option<String>,
    /// The token's scopes.
    pub scopes: Vec<String>,
    /// The time from the request to the expiry.
    pub lifetime: Duration,
    /// The time until the next token request.
    pub next: Duration,
}

/// A token request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Why the request was made: `scheduled`, `forced` or `operator`.
    pub cause: &'static str,
    /// The time that the request took.
    pub latency: Duration,
}

/// A token request that failed.
pub struct Failure<'a> {
    /// The outcome, as its code.
    pub outcome: &'static str,
    /// Why the credential is not well, as its code.
    pub reason: &'static str,
    /// Whether token requests fail until a person acts.
    pub needs_person: bool,
    /// The time until the next attempt.
    pub next: Duration,
    /// The error, without secrets.
    pub error: &'a dyn Display,
}

impl Trail {
    /// The trail of a credential without a token.
    pub fn new(subject: Subject, events: Events) -> Self {
        let history = events.history(&subject.name);
        let (token, rotations, latency, is_failing) = (Issued::default(), 0, None, false);
        Self { subject, events, history, token, rotations, latency, is_failing, span: None }
    }

    /// The credential's history.
    pub const fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Continues as the trail of a credential with other settings, or with other readers.
    pub fn continue_as(&mut self, subject: Subject, events: Events) {
        self.history = events.history(&subject.name);
        (self.subject, self.events) = (subject, events);
    }

    /// Where the events go.
    pub const fn events(&self) -> &Events {
        &self.events
    }

    /// Notes how often the refresh token was replaced since a person authorized the client.
    pub const fn set_rotations(&mut self, rotations: u64) {
        self.rotations = rotations;
    }

    /// Records a token from before the start that is still in use.
    pub fn resumed(&mut self, token: Issued) {
        self.use_token(token);
        self.record(self.event(Name::TokenResumed));
    }

    /// Records a token of another replica that is now in use.
    pub fn adopted(&mut self, token: Issued) {
        self.use_token(token);
        if std::mem::take(&mut self.is_failing) {
            self.record(self.event(Name::Recovered));
        }
        self.record(Event { cause: Some("shared"), ..self.event(Name::TokenResumed) });
    }

    /// A token request begins. Returns the name of its span, if there are traces.
    pub fn begin_request(&mut self) -> Option<SpanContext> {
        self.span = self.events.spans().map(TokenRequestSpan::begin);
        self.span.as_ref().map(TokenRequestSpan::context)
    }

    /// Records a token response with a token.
    pub fn refreshed(&mut self, token: Issued, attempt: Attempt) {
        let outcome = if token.generation == self.token.generation { "same_token" } else { "refreshed" };
        self.attempted(attempt, outcome, Some(token.generation));
        self.use_token(token);
        if std::mem::take(&mut self.is_failing) {
            self.record(self.event(Name::Recovered));
        }
        let mut event = self.event(Name::TokenRefreshed);
        event.cause = Some(attempt.cause);
        event.outcome = Some(outcome.to_owned());
        event.next_attempt_at = Some(in_time(self.token.next));
        event.more = More {
            lifetime_seconds: Some(self.token.lifetime.as_secs()),
            next_seconds: Some(self.token.next.as_secs()),
            ..More::default()
        };
        self.record(event);
    }

    /// Records a grant that was handed over, with its token unless that has a flaw.
    pub fn authorized(&mut self, token: Option<Issued>, is_durable: bool, flaw: Option<&dyn Display>) {
        let has_token = token.is_some();
        if let Some(token) = token {
            self.use_token(token);
        }
        let mut event = self.event(Name::Authorized);
        event.detail = flaw.map(ToString::to_string);
        event.more = More { has_token: Some(has_token), is_durable: Some(is_durable), ..More::default() };
        self.record(event);
        if has_token && std::mem::take(&mut self.is_failing) {
            self.record(self.event(Name::Recovered));
        }
    }

    /// Records a failed token request.
    pub fn refresh_failed(&mut self, failure: &Failure<'_>, attempt: Attempt) {
        self.attempted(attempt, failure.outcome, None);
        self.is_failing = true;
        let mut event = self.event(Name::TokenRefreshFailed);
        event.cause = Some(attempt.cause);
        event.outcome = Some(failure.outcome.to_owned());
        event.reason = Some(failure.reason);
        event.needs_person = Some(failure.needs_person);
        event.next_attempt_at = Some(in_time(failure.next));
        event.detail = Some(failure.error.to_string());
        event.more.next_seconds = Some(failure.next.as_secs() + u64::from(failure.next.subsec_nanos() > 0));
        self.record(event);
    }

    /// Counts a failed token request that another one follows at once.
    pub fn followed_up(&mut self, attempt: Attempt, outcome: &'static str) {
        self.attempted(attempt, outcome, None);
    }

    /// Records that the server now accepts the other client secret, the one of the configuration key `key`.
    pub fn client_secret_in_use(&self, key: &str) {
        let mut event = self.event(Name::ClientSecretInUse);
        event.more.in_use = Some(key.to_owned());
        self.record(event);
    }

    /// Records that the server accepts no refresh token, and that the fallback grant is in use.
    pub fn fallback_used(&self, grant: &'static str, why: &dyn Display) {
        let mut event = self.event(Name::FallbackUsed);
        event.needs_person = Some(false);
        event.detail = Some(why.to_string());
        event.more.fallback = Some(grant);
        self.record(event);
    }

    /// Records that token requests have stopped until a person authorizes the client again.
    pub fn reauthorization_required(&mut self, error: &dyn Display) {
        self.stopped(Name::ReauthorizationRequired, "reauthorization_required", error);
    }

    /// Records that the refresh token has reached `max_rotations`, and that token requests have stopped.
    pub fn rotation_limit_reached(&mut self, error: &dyn Display) {
        self.stopped(Name::RotationLimit, "rotation_limit", error);
    }

    fn stopped(&mut self, name: Name, reason: &'static str, error: &dyn Display) {
        self.is_failing = true;
        let mut event = self.event(name);
        event.reason = Some(reason);
        event.needs_person = Some(true);
        event.detail = Some(error.to_string());
        self.record(event);
    }

    /// Records that the refresh token ends soon, and that no refresh moves its end.
    pub fn grant_expiring(&self, left: Duration) {
        let mut event = self.event(Name::GrantExpiring);
        event.needs_person = Some(true);
        event.more.ends_in_seconds = Some(left.as_secs());
        self.record(event);
    }

    /// Records that another replica may have used the refresh token and not have told the outcome, and that nothing is
    /// requested until the access token ends.
    pub fn at_risk(&self, left: Duration) {
        let mut event = self.event(Name::AtRisk);
        event.needs_person = Some(false);
        event.next_attempt_at = Some(in_time(left));
        self.record(event);
    }

    /// Records that an upstream rejected the current token.
    pub fn token_rejected(&self) {
        self.record(self.event(Name::TokenRejected));
    }

    fn use_token(&mut self, token: Issued) {
        self.history.set_fingerprint(&token.fingerprint);
        self.token = token;
    }

    fn attempted(&mut self, attempt: Attempt, outcome: &'static str, generation: Option<u64>) {
        self.latency = Some(attempt.latency);
        self.history.requested(attempt.cause, outcome, generation.is_some(), attempt.latency);
        if let Some(span) = self.span.take() {
            span.end(&self.subject.name, attempt.cause, outcome, generation);
        }
    }

    /// An event with the members that all events about the credential have.
    fn event(&self, name: Name) -> Event {
        let token = &self.token;
        let has_token = token.generation > 0;
        Event {
            credential: Some(Arc::clone(&self.subject.name)),
            tenant: token.tenant.clone(),
            grant: Some(self.subject.grant),
            generation: Some(token.generation),
            rotations: Some(self.rotations),
            max_rotations: Some(self.subject.max_rotations),
            success_rate: self.history.success_rate(),
            latency: self.latency,
            fingerprint: has_token.then(|| token.fingerprint.clone()),
            scopes: token.scopes.clone(),
            ..Event::now(name)
        }
    }

    fn record(&self, event: Event) {
        self.history.note(&event);
        self.events.record(event);
    }
}

/// The wall-clock time after this wait.
fn in_time(wait: Duration) -> jiff::Timestamp {
    wall_clock().checked_add(wait).map_or_else(|| timestamp(wall_clock()), timestamp)
}

/// An operation that was requested at the admin address.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// The name of the operation.
    pub action: &'static str,
    /// The credential; empty if no credential has the requested name.
    pub credential: &'a str,
    /// The client's address; `None` over a unix socket.
    pub peer: Option<IpAddr>,
}

impl Operation<'_> {
    /// Records an operation that was carried out or begun.
    pub fn done(&self, events: &Events, status: u16) {
        self.record(events, Event::now(Name::OperatorActed), status);
    }

    /// Records a refused operation.
    pub fn refused(&self, events: &Events, status: u16, code: &'static str) {
        let reason = Some(code);
        self.record(events, Event { reason, ..Event::now(Name::OperatorRefused) }, status);
    }

    fn record(&self, events: &Events, mut event: Event, status: u16) {
        event.credential = (!self.credential.is_empty()).then(|| Arc::from(self.credential));
        event.cause = Some(self.action);
        event.actor = Some("operator".to_owned());
        event.client_address = self.peer;
        event.more.status = Some(status);
        if let Some(credential) = &event.credential {
            events.history(credential).note(&event);
        }
        events.record(event);
    }
}
