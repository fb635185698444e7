//! The daemon's condition in one line, for people.

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
    let is_valid = |state| state == CredentialState::Valid;
    let valid = credentials.iter().filter(|(_, state, _)| is_valid(*state)).count();
    let mut line = format!("{valid} of {} credentials valid", credentials.len());
    for (name, state, reason) in credentials.iter().filter(|(_, state, _)| !is_valid(*state)) {
        let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        line += &format!("; {name} is {}{reason}", state.as_str());
    }
    line
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
