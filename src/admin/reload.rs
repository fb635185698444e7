//! `POST /reload`: reloads the configuration, and reports the changes or the problems.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use http::{Method, Request, StatusCode};

use super::access::Need;
use super::credentials::{Credentials, stopping};
use super::hand_over;
use super::problem::{audited, json, method_not_allowed};
use super::server::{Client, Peer};
use crate::http::Problem;
use crate::reload::{NotReloaded, Reloads};
use crate::shared_request::NoOutcome;
use crate::telemetry::trail::Operation;

/// How long a request waits for the outcome: longer than a reload that waits for token requests.
const RELOAD_WAIT: Duration = Duration::from_mins(1);

/// Requests reloads for clients that [`Credentials::access`] authorizes.
#[derive(Clone, Debug)]
pub struct Reloading {
    credentials: Credentials,
    /// `None` if the daemon was started without a configuration file.
    reloads: Option<Reloads>,
}

impl Reloading {
    /// Reloads with the access of `credentials`.
    pub const fn new(credentials: Credentials, reloads: Option<Reloads>) -> Self {
        Self { credentials, reloads }
    }

    async fn carry_out(&self, request: Request<Body>, client: Client) -> Result<Response, Problem> {
        let (head, body) = request.into_parts();
        self.credentials.access().check(&head, client, Need::Change).await?;
        if head.method != Method::POST {
            return Err(method_not_allowed("POST"));
        }
        hand_over::no_content(&head, body).await?;
        let Some(reloads) = &self.reloads else {
            let detail = "This daemon was started without a configuration file.";
            let title = "Nothing to reload";
            return Err(Problem::new(StatusCode::CONFLICT, "nothing_to_reload", title, detail));
        };
        match reloads.outcome(RELOAD_WAIT).await {
            Ok(outcome) => match &*outcome {
                Ok(reloaded) => Ok(json(StatusCode::OK, reloaded)),
                Err(not) => Err(refused(not)),
            },
            Err(NoOutcome::Gone) => Err(stopping()),
            Err(NoOutcome::UnderWay) => Err(Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "reload_under_way",
                "Reload under way",
                format!("The reload has not finished after {} s, and continues.", RELOAD_WAIT.as_secs()),
            )),
        }
    }
}

/// Answers `/reload`.
pub(super) async fn answer(
    State(reloading): State<Reloading>,
    Extension(client): Peer,
    request: Request<Body>,
) -> Response {
    let operation = Operation { action: "reload", credential: "", peer: client.ip() };
    let events = reloading.credentials.events();
    audited(&operation, &events, reloading.carry_out(request, client).await)
}

/// The response to a reload that changed nothing.
fn refused(not: &NotReloaded) -> Problem {
    let detail = format!("Nothing has changed.\n\n{}", not.problems.trim_end());
    if not.is_of_the_configuration {
        let title = "Invalid configuration";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "configuration_invalid", title, detail)
    } else {
        Problem::new(StatusCode::CONFLICT, "configuration_not_applied", "Configuration not applied", detail)
    }
}
