//! `POST /reload`: another configuration, or why not.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use http::{Method, Request, StatusCode};

use super::credentials::{Credentials, stopping};
use super::hand_over;
use super::problem::{json, method_not_allowed};
use super::server::Peer;
use crate::http::Problem;
use crate::reload::{NotReloaded, Reloads};
use crate::shared_request::NoOutcome;
use crate::telemetry::audit;

/// How long the outcome is waited for: longer than a reload takes that waits for tokens.
const WAIT: Duration = Duration::from_mins(1);

/// Reloads, for whom the credentials' access lets in.
#[derive(Clone, Debug)]
pub struct Reloading {
    credentials: Credentials,
    /// None where there is no file to read again.
    reloads: Option<Reloads>,
}

impl Reloading {
    /// These.
    pub const fn new(credentials: Credentials, reloads: Option<Reloads>) -> Self {
        Self { credentials, reloads }
    }

    async fn carry_out(&self, request: Request<Body>, peer: SocketAddr) -> Result<Response, Problem> {
        let (head, body) = request.into_parts();
        self.credentials.access().check(&head, peer.ip()).await?;
        if head.method != Method::POST {
            return Err(method_not_allowed("POST"));
        }
        hand_over::nothing(&head, body).await?;
        let Some(reloads) = &self.reloads else {
            let detail = "This daemon was started without a configuration file.";
            let title = "Nothing to reload";
            return Err(Problem::new(StatusCode::CONFLICT, "nothing_to_reload", title, detail));
        };
        match reloads.reload(WAIT).await {
            Ok(outcome) => match &*outcome {
                Ok(reloaded) => Ok(json(StatusCode::OK, reloaded)),
                Err(not) => Err(refused(not)),
            },
            Err(NoOutcome::Stopping) => Err(stopping()),
            Err(NoOutcome::UnderWay) => Err(Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "reload_under_way",
                "Reload under way",
                format!("After {} s there is no outcome yet. The reload goes on.", WAIT.as_secs()),
            )),
        }
    }
}

/// Answers `/reload`.
pub async fn answer(
    State(reloading): State<Reloading>,
    Extension(peer): Peer,
    request: Request<Body>,
) -> Response {
    let operation = audit::Operation { action: "reload", credential: "", peer: peer.ip() };
    match reloading.carry_out(request, peer).await {
        Ok(response) => {
            operation.done(response.status().as_u16());
            response
        }
        Err(problem) => {
            operation.refused(problem.status.as_u16(), problem.code);
            problem.into()
        }
    }
}

/// All is as it was, which the one who asked has to know.
fn refused(not: &NotReloaded) -> Problem {
    let NotReloaded { is_of_the_configuration, problems } = not;
    let detail = format!("Nothing has changed.\n\n{}", problems.trim_end());
    if *is_of_the_configuration {
        let title = "The configuration cannot be used";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "configuration_invalid", title, detail)
    } else {
        Problem::new(StatusCode::CONFLICT, "configuration_not_applied", "Not possible now", detail)
    }
}
