//! The daemon's condition in one line, for people.

use std::iter;

use super::Daemon;
use crate::token::CredentialState;

impl Daemon {
    /// A line such as `1 of 2 credentials valid; cxone is unusable (client_rejected)`.
    pub fn status_line(&self) -> String {
        let statuses = self.credentials.iter().map(|one| {
            let status = one.operator.status(&one.source);
            (one.config.name.as_str(), status.state, status.reason)
        });
        line(&statuses.collect::<Vec<_>>())
    }
}

fn line(credentials: &[(&str, CredentialState, Option<&str>)]) -> String {
    let (valid, others): (Vec<_>, Vec<_>) =
        credentials.iter().partition(|(_, state, _)| *state == CredentialState::Valid);
    let others = others.iter().map(|(name, state, reason)| {
        let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("{name} is {}{reason}", state.as_str())
    });
    let count = format!("{} of {} credentials valid", valid.len(), credentials.len());
    iter::once(count).chain(others).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_the_credentials_that_are_not_well() {
        use CredentialState::{Acquiring, Unusable, Valid};
        assert_eq!(line(&[]), "0 of 0 credentials valid");
        let all = [("a", Valid, None), ("b", Unusable, Some("client_rejected")), ("c", Acquiring, None)];
        assert_eq!(line(&all), "1 of 3 credentials valid; b is unusable (client_rejected); c is acquiring");
    }
}
