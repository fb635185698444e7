//! `/credentials/{name}`: shows a credential, refreshes its token, and accepts a new grant for it.
//!
//! [`Access`] authorizes a request before anything else is read of it. The credential's refresher carries operations
//! out. The audit trail records each operation and each refusal, without the content of requests.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Method, Request, StatusCode};
use serde::Serialize;
use tokio::sync::watch;

use super::access::{Access, Need};
use super::confirmation;
use super::hand_over;
use super::html;
use super::problem::{audited, json, method_not_allowed};
use super::server::{Client, Peer};
use super::shown;
use super::shown::Quotas;
use super::status::Credential;
use crate::http::{Problem, whole_seconds};
use crate::lifecycle::Stage;
use crate::shared_request::NoOutcome;
use crate::telemetry::Events;
use crate::telemetry::trail::Operation;
use crate::token::{Adopted, Generation, NotAdopted, Operator, Reason, Refreshed, TokenSource, Unavailable};

/// How long a request waits for the outcome of a refresh.
const REFRESH_WAIT: Duration = Duration::from_secs(30);
/// When to repeat a request that a reload has overtaken.
const AFTER_RELOAD: Duration = Duration::from_secs(1);

/// The credentials that an operator may use, and who may use them.
#[derive(Clone, Debug)]
pub struct Credentials(Arc<ArcSwap<Operated>>);

#[derive(Debug)]
struct Operated {
    access: Arc<Access>,
    events: Events,
    all: Vec<(TokenSource, Operator)>,
    stage: watch::Receiver<Stage>,
    quotas: Arc<dyn Quotas>,
}

/// An operation of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    List,
    Show,
    Grant,
    Refresh,
}

impl Action {
    const fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Show => "show",
            Self::Grant => "grant",
            Self::Refresh => "refresh",
        }
    }

    const fn need(self) -> Need {
        match self {
            Self::List | Self::Show => Need::Read,
            Self::Refresh => Need::Change,
            Self::Grant => Need::Grant,
        }
    }

    const fn method(self) -> &'static str {
        match self {
            Self::List | Self::Show => "GET, HEAD",
            Self::Grant => "GET, HEAD, POST",
            Self::Refresh => "POST",
        }
    }
}

/// The body of a response to [`Action::Refresh`].
#[derive(Debug, Serialize)]
struct RefreshedToken {
    generation: u64,
    expires_in: u64,
    same_token: bool,
    detail: String,
}

impl Credentials {
    /// The credentials, for requests that `access` authorizes.
    pub fn new(
        access: Access,
        all: Vec<(TokenSource, Operator)>,
        stage: watch::Receiver<Stage>,
        events: Events,
        quotas: Arc<dyn Quotas>,
    ) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Operated {
            access: Arc::new(access),
            events,
            all,
            stage,
            quotas,
        })))
    }

    /// The readers of events.
    pub fn events(&self) -> Events {
        self.0.load().events.clone()
    }

    /// The credentials.
    pub fn all(&self) -> Vec<(TokenSource, Operator)> {
        self.0.load().all.clone()
    }

    /// The entries of all credentials in `/status`.
    pub(super) fn entries(&self) -> Vec<Credential> {
        let operated = self.0.load();
        operated.all.iter().map(|one| shown::entry(one, &*operated.quotas)).collect()
    }

    /// Replaces the credentials and the access.
    pub fn change(&self, access: Access, all: Vec<(TokenSource, Operator)>) {
        let before = self.0.load_full();
        let (stage, events, quotas) =
            (before.stage.clone(), before.events.clone(), Arc::clone(&before.quotas));
        self.0.store(Arc::new(Operated { access: Arc::new(access), events, all, stage, quotas }));
    }

    /// Decides which requests are authorized.
    pub fn access(&self) -> Arc<Access> {
        Arc::clone(&self.0.load().access)
    }
}

/// Answers `/credentials` and the paths below.
pub(super) async fn answer(
    State(Credentials(operated)): State<Credentials>,
    Extension(client): Peer,
    request: Request<Body>,
) -> Response {
    let operated = operated.load_full();
    let (head, body) = request.into_parts();
    let (name, action) = target(head.uri.path());
    let credential = operated.all.iter().find(|(source, _)| source.name() == name);
    let outcome = operated.carry_out(&head, body, client, credential, action).await;
    // The log does not repeat unknown names.
    let operation = Operation {
        action: action.map_or("none", Action::name),
        credential: credential.map_or("", |(source, _)| source.name()),
        peer: client.ip(),
    };
    let is_read = matches!(head.method, Method::GET | Method::HEAD);
    let changes_nothing = matches!(action, Some(Action::List | Action::Show))
        || (action == Some(Action::Grant) && is_read)
        || is_question(action, &head);
    match outcome {
        Ok(response) if changes_nothing => response,
        // A browser asks its user for the token after a 401.
        Err(problem)
            if action == Some(Action::Refresh)
                && html::is_wanted(&head.headers)
                && problem.status != StatusCode::UNAUTHORIZED =>
        {
            let page = confirmation::refused(operation.credential, &problem);
            audited(&operation, &operated.events, Err(problem));
            page
        }
        outcome => audited(&operation, &operated.events, outcome),
    }
}

/// Whether a browser asks for the page that asks before a refresh.
fn is_question(action: Option<Action>, head: &Parts) -> bool {
    let is_read = matches!(head.method, Method::GET | Method::HEAD);
    action == Some(Action::Refresh) && is_read && html::is_wanted(&head.headers)
}

/// The credential's name and the operation of a path below `/credentials`. Names contain no characters that need
/// escaping.
fn target(path: &str) -> (&str, Option<Action>) {
    if matches!(path, "/credentials" | "/credentials/") {
        return ("", Some(Action::List));
    }
    let rest = path.strip_prefix("/credentials/").unwrap_or_default();
    match rest.split_once('/') {
        None => (rest, Some(Action::Show)),
        Some((name, "grant")) => (name, Some(Action::Grant)),
        Some((name, "refresh")) => (name, Some(Action::Refresh)),
        Some((name, _)) => (name, None),
    }
}

impl Operated {
    async fn carry_out(
        &self,
        head: &Parts,
        body: Body,
        client: Client,
        credential: Option<&(TokenSource, Operator)>,
        action: Option<Action>,
    ) -> Result<Response, Problem> {
        self.access.check(head, client, action.map_or(Need::Change, Action::need)).await?;
        if action == Some(Action::List) {
            return match head.method {
                Method::GET | Method::HEAD => Ok(shown::list(&self.all, &*self.quotas)),
                _ => Err(method_not_allowed(Action::List.method())),
            };
        }
        let one = credential.ok_or_else(|| {
            let names: Vec<&str> = self.all.iter().map(|(source, _)| source.name()).collect();
            let detail = format!(
                "The configuration has no credential of this name. Its credentials: {}.",
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            );
            not_found("credential_not_found", &detail)
        })?;
        let (source, operator) = one;
        let action = action.ok_or_else(|| {
            not_found(
                "path_not_found",
                "The paths are /credentials, /credentials/{name} and below that /grant and /refresh.",
            )
        })?;
        match (action, &head.method) {
            (Action::Show, &Method::GET | &Method::HEAD) => Ok(shown::show(one, &*self.quotas)),
            // Whether this client may hand over a grant: asked before a person logs in.
            (Action::Grant, &Method::GET | &Method::HEAD) if operator.takes_grants => {
                Ok(StatusCode::NO_CONTENT.into_response())
            }
            (Action::Grant, &Method::GET | &Method::HEAD) => Err(other_grant(source.name(), operator.grant)),
            (Action::Grant, &Method::POST) => self.adopt(source.name(), operator, head, body).await,
            (Action::Refresh, &Method::POST) => {
                hand_over::no_content(head, body).await?;
                let outcome = operator.refresh(REFRESH_WAIT).await;
                let token = refresh(source.name(), outcome, *self.stage.borrow())?;
                Ok(if html::is_wanted(&head.headers) {
                    confirmation::refreshed(source.name(), &token.detail)
                } else {
                    json(StatusCode::OK, &token)
                })
            }
            (Action::Refresh, _) if is_question(Some(action), head) => {
                Ok(confirmation::question(source.name()))
            }
            _ => Err(method_not_allowed(action.method())),
        }
    }

    async fn adopt(
        &self,
        name: &str,
        operator: &Operator,
        head: &Parts,
        body: Body,
    ) -> Result<Response, Problem> {
        if !operator.takes_grants {
            return Err(other_grant(name, operator.grant));
        }
        let grant = hand_over::grant(head, body).await?;
        let unprocessable =
            |code, title, detail| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, title, detail);
        match operator.hand_over(grant).await {
            Ok(Adopted { is_durable: true }) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok(response)
            }
            // Not an error: a client that sent the grant again might send a refresh token that has been used by then.
            Ok(Adopted { is_durable: false }) => {
                let detail = "The grant is in use, but NOT on disk: a restart would lose it. The daemon keeps trying to \
                              write it; the log states why that fails, and \"state is durable again\" once it is \
                              written. Do not hand it over a second time.";
                Ok(json(StatusCode::ACCEPTED, &serde_json::json!({ "detail": detail })))
            }
            Err(NotAdopted::OtherGrant) => Err(other_grant(name, operator.grant)),
            Err(NotAdopted::Illegal) => Err(unprocessable(
                "bad_refresh_token",
                "Not a refresh token",
                "A refresh token is one or more printable ASCII characters (RFC 6749, A.17). Nothing has changed.",
            )),
            Err(NotAdopted::OtherOrigin(accepted)) => Err(Problem::new(
                StatusCode::CONFLICT,
                "grant_of_another_client",
                "Grant of another client or server",
                format!(
                    "The grant was issued to another client or by another server: the credential `{name}` accepts those of \
                     {accepted}. Nothing has changed."
                ),
            )),
            Err(NotAdopted::Gone) => Err(gone(name, *self.stage.borrow())),
        }
    }
}

fn refresh(
    name: &str,
    outcome: Result<Refreshed, NoOutcome>,
    stage: Stage,
) -> Result<RefreshedToken, Problem> {
    let token = |generation: Generation, left: Duration, same_token, detail| {
        let generation = generation.number();
        Ok(RefreshedToken { generation, expires_in: left.as_secs(), same_token, detail })
    };
    match outcome {
        Ok(Refreshed::New { generation, left }) => {
            let detail = format!("New token: generation {generation}, valid for {} s.", left.as_secs());
            token(generation, left, false, detail)
        }
        Ok(Refreshed::Same { generation, left, again_in }) => {
            let detail = format!(
                "The authorization server returned the same token: generation {generation}, valid for {} s. The next \
                 token request is possible in {} s.",
                left.as_secs(),
                again_in.as_secs()
            );
            token(generation, left, true, detail)
        }
        Ok(Refreshed::Failed(why)) => {
            let error = why.failure.as_ref().map_or_else(String::new, |failure| format!(": {failure}"));
            Err(no_token(&why, format!("The token request of the credential `{name}` failed{error}.")))
        }
        Ok(Refreshed::Refused(why)) => {
            let error = why.failure.as_ref().map_or_else(String::new, |failure| format!(" Last: {failure}."));
            let barrier = blocked_by(why.reason);
            Err(no_token(&why, format!("No token request was made for `{name}`: {barrier}.{error}")))
        }
        Err(NoOutcome::UnderWay) => Err(Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "refresh_under_way",
            "Refresh under way",
            format!("The refresh has not finished after {} s, and continues.", REFRESH_WAIT.as_secs()),
        )),
        Err(NoOutcome::Gone) => Err(gone(name, stage)),
    }
}

/// Why no token request is made.
const fn blocked_by(reason: Reason) -> &'static str {
    match reason {
        Reason::WaitingForFirstToken | Reason::EndpointUnavailable => {
            "the wait after a failed token request is not over"
        }
        Reason::EndpointRateLimited => "the token endpoint limits the rate of requests",
        Reason::QuotaExhausted => "the quota of token requests is used up",
        Reason::SharedStoreUnavailable => "the store that the replicas share is away",
        Reason::ClientRejected => "the authorization server rejects the client",
        Reason::ReauthorizationRequired => "a person must authorize the client and hand over the grant",
        Reason::RotationLimit => "max_rotations is reached: a person must authorize the client again",
        Reason::ScopeMissing => "the authorization server does not grant all of require_scopes",
    }
}

fn no_token(why: &Unavailable, mut detail: String) -> Problem {
    if let Some(wait) = why.retry_after {
        let _ = write!(detail, " The next token request is possible in {} s.", whole_seconds(wait));
    }
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, why.reason.code(), "No new token", detail);
    problem.after(why.retry_after)
}

fn not_found(code: &'static str, detail: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, code, "Not found", detail)
}

fn other_grant(name: &str, grant: &str) -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "grant_not_taken",
        "Grant not accepted",
        format!("The credential `{name}` has grant = \"{grant}\", which uses no refresh token."),
    )
}

/// The response to an order whose refresher has ended before it carried the order out.
fn gone(name: &str, stage: Stage) -> Problem {
    if stage != Stage::Running {
        return stopping();
    }
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "credential_replaced",
        "Credential replaced",
        format!(
            "A reload has replaced or removed the credential `{name}` before the request was carried out. Send the \
             request again."
        ),
    )
    .after(Some(AFTER_RELOAD))
}

pub(super) fn stopping() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "Stopping", "The daemon is stopping.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_credential_and_an_operation() {
        for (path, expected) in [
            ("/credentials/api", ("api", Some(Action::Show))),
            ("/credentials/api/grant", ("api", Some(Action::Grant))),
            ("/credentials/api/refresh", ("api", Some(Action::Refresh))),
            ("/credentials/api/", ("api", None)),
            ("/credentials/api/grant/", ("api", None)),
            ("/credentials/api/GRANT", ("api", None)),
            ("/credentials//refresh", ("", Some(Action::Refresh))),
            ("/credentials", ("", Some(Action::List))),
            ("/credentials/", ("", Some(Action::List))),
        ] {
            assert_eq!(target(path), expected, "{path}");
        }
    }

    #[test]
    fn a_refused_refresh_states_how_long_to_wait_if_the_wait_has_an_end() {
        let why = |reason, retry_after| Unavailable { reason, retry_after, failure: None };
        let quota = why(Reason::QuotaExhausted, Some(Duration::from_millis(4200)));
        let response: Response =
            refresh("c", Ok(Refreshed::Refused(quota)), Stage::Running).unwrap_err().into();
        assert_eq!(
            (response.status(), &response.headers()["retry-after"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"5".parse().unwrap())
        );

        let person = why(Reason::ReauthorizationRequired, None);
        let problem = refresh("c", Ok(Refreshed::Refused(person)), Stage::Running).unwrap_err();
        assert_eq!(problem.code, "reauthorization_required");
        assert!(!Response::from(problem).headers().contains_key("retry-after"));
    }

    #[test]
    fn an_order_to_a_replaced_credential_is_to_be_sent_again_unless_the_daemon_stops() {
        let problem = refresh("c", Err(NoOutcome::Gone), Stage::Running).unwrap_err();
        assert_eq!(problem.code, "credential_replaced");
        let response: Response = problem.into();
        assert_eq!(
            (response.status(), &response.headers()["retry-after"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
        );

        for stage in [Stage::Leaving, Stage::Cut] {
            let problem = refresh("c", Err(NoOutcome::Gone), stage).unwrap_err();
            assert_eq!(problem.code, "stopping", "{stage:?}");
        }
    }
}
