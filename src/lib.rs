//! bearerd is a reverse proxy that adds OAuth 2.0 bearer tokens to requests.
//!
//! Applications without OAuth support send plain requests to bearerd. bearerd adds an access token that it keeps
//! fresh, and forwards the request to a protected API. The modules in reading order:
//!
//! - [`proxy`] accepts requests, authorizes and forwards them; start with [`proxy::service`].
//! - [`token`] requests access tokens and refreshes them; start with [`token::refresher`].
//! - [`config`] reads the configuration and validates it.
//! - [`tls`] builds the TLS configurations of clients and servers.
//! - [`http`] holds what every HTTP server and client of the daemon needs.
//! - [`clock`] measures the age of tokens.
//! - [`backoff`] computes the waits between attempts.
//! - [`network`] decides which addresses count as one client, and which are public.
//! - [`webhooks`] sends events to receivers over HTTP.
//! - [`unix_socket`] binds unix sockets that only the daemon's own user can open.
//! - [`judged_as`] tells as whom the files of a folder are judged.
//! - [`blocking`] runs work that may block for ever, and waits for it within a bound.
//! - [`shared_request`] merges requests that many make at once.
//! - [`telemetry`] writes the log and the audit trail.
//! - [`documentation`] has the addresses of the documentation that texts name.
//! - [`causes`] lists the causes of an error.
//! - [`peer_text`] makes a peer's text fit for the log.
//! - [`admin`] serves health checks and the operator's API at an address of its own.
//! - [`app`] builds the daemon from a configuration, reloads and stops it.
//! - [`reload`] carries reload requests to the daemon and outcomes back.
//! - [`lifecycle`] defines the stages from start to stop, and receives signals.
//! - [`systemd`] takes sockets from systemd, and reports to it.
//! - [`memory`] keeps the process's memory from other processes and from core dumps.
//! - [`descriptors`] divides the file descriptors between client and upstream connections.
//! - [`version`] is the version and the commit of the build.
//! - [`cli`] parses the command line and runs the commands.
//! - [`demo`] contains the authorization server and the API of `bearerd demo`.
//!
//! In this crate *upstream* is the API and *caller* the application; RFC 9110 uses "upstream" in the opposite sense.

pub mod proxy;

pub mod token;

pub mod backoff;
pub mod blocking;
pub mod causes;
pub mod clock;
pub mod config;
pub mod documentation;
pub mod http;
pub mod judged_as;
pub mod network;
pub mod peer_text;
pub mod shared_request;
pub mod telemetry;
pub mod tls;
pub mod unix_socket;
pub mod webhooks;

pub mod admin;

pub mod app;
pub mod cli;
pub mod descriptors;
pub mod lifecycle;
pub mod memory;
pub mod reload;
pub mod systemd;
pub mod version;

pub mod demo;
