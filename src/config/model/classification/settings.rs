//! The classification of a credential's tables.

use std::os::unix::ffi::OsStrExt;

use super::{Classified, Decides};
use crate::config::model::credential::{ApiQuota, StatePlace};
use crate::config::model::request::{AnswerFields, ErrorCodes, TokenParameters};

impl Classified {
    pub(super) fn parameters(&mut self, parameters: &TokenParameters) {
        let TokenParameters { format, audience, resources, extra, names } = parameters;
        self.add(Decides::Request, "request_format", format);
        self.add(Decides::Token, "audience", audience);
        self.add(Decides::Token, "resource", resources);
        self.add(Decides::Token, "extra", extra);
        // A server reads a renamed parameter as a different one, or ignores it.
        self.add(Decides::Token, "request_fields", names);
    }

    pub(super) fn answer_fields(&mut self, fields: &AnswerFields) {
        let AnswerFields { access_token, expires_in, refresh_token, scope } = fields;
        self.add(Decides::Request, "fields.access_token", access_token);
        self.add(Decides::Request, "fields.expires_in", expires_in);
        self.add(Decides::Request, "fields.refresh_token", refresh_token);
        self.add(Decides::Request, "fields.scope", scope);
    }

    /// Classifies `errors`. A change of these codes may give the last response another meaning, so the token
    /// request is made again at once.
    pub(super) fn error_codes(&mut self, codes: &ErrorCodes) {
        let ErrorCodes { dead, throttled, client, transient } = codes;
        self.add(Decides::Request, "errors.dead", dead);
        self.add(Decides::Request, "errors.throttled", throttled);
        self.add(Decides::Request, "errors.client", client);
        self.add(Decides::Request, "errors.transient", transient);
    }

    pub(super) fn state_place(&mut self, place: Option<&StatePlace>) {
        let Some(StatePlace { path, key, previous_keys }) = place else { return };
        self.add(Decides::Operation, "state_file", path.as_os_str().as_bytes());
        if let Some(key) = key {
            self.add(Decides::Operation, "state_key", key);
        }
        self.add(Decides::Operation, "state_key_previous", previous_keys);
    }

    /// Bounds requests to the API, whoever the tokens are issued for.
    pub(super) fn api_quota(&mut self, quota: Option<&ApiQuota>) {
        let Some(ApiQuota { requests, per, learn, wait }) = quota else { return };
        self.add(Decides::Operation, "api_quota.requests", &(u64::from(requests.get()), *per));
        self.add(Decides::Operation, "api_quota.learn", &(*learn, *wait));
    }
}
