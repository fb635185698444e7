//! The real daemon between a scripted authorization server and a scripted API, over real sockets.
//!
//! Every test builds a [`World`](harness::World) and finishes it; finishing checks the invariants that hold in
//! every test: exactly one current token on each request, never the caller's own, the configured `Host`, no
//! ambiguous framing, answers that belong to their requests, one token request at a time, and no secret in any
//! output.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends by panicking, and its tasks end with it"
)]

mod harness;

mod abandoned;
mod access_log;
mod admin_address;
mod api_discovery;
mod audit;
mod book;
mod caller_quota;
mod callers;
mod certificate_files;
mod check_state;
mod client_secret;
mod command_line;
mod configuration;
mod corpus;
mod demo;
mod discovery;
mod drain;
mod explain;
mod faults;
mod forget;
mod framing;
mod golden;
mod grants;
mod header_case;
mod health;
mod http_differences;
mod imports;
mod interim;
mod json_schema;
mod keygen;
mod known_callers;
mod late_tokens;
mod leaving;
mod lifecycle;
mod limits;
mod log_files;
mod log_pipe;
mod login;
mod login_stub;
mod metrics;
mod online;
mod operator;
mod operator_faults;
mod pools;
mod printed;
mod protection;
mod rate_limit;
mod recipes;
mod reload;
mod request_loop;
mod retry;
mod route_keys;
mod route_links;
mod rules;
mod secrets;
mod server_tls;
#[cfg(feature = "redis")]
mod shared_store;
mod shipped;
mod state;
mod status;
mod systemd;
mod tidy;
mod tls_diagnosis;
mod token_endpoint;
mod token_faults;
mod token_request;
#[cfg(feature = "otlp")]
mod traces;
mod trailers;
mod unauthorized;
mod unread_uploads;
mod upstream_answers;
mod upstream_faults;
mod upstream_http2;
mod upstream_pools;
mod upstream_proxy;
mod upstream_tls;
mod webhooks;
mod websocket;
