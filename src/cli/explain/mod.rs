//! `bearerd explain`: what would become of a request. Asks no daemon, no server and no resolver.

mod asked;
mod report;
mod text;

use std::net::IpAddr;

use self::asked::Asked;
use self::report::Report;
use super::config_file::ConfigFile;
use super::exit_code::{BAD_CONFIGURATION, FAILED, OK, USAGE};
use super::{config_file, output};
use crate::app::Daemon;
use crate::causes::in_one_line;
use crate::config::Environment;
use crate::proxy::peer::Peer;
use crate::proxy::service::preview::{Assumed, Outcome, Previews};

/// The text below the options of `--help`.
pub(super) const HELP: &str = "\
The command asks nobody: it needs no running daemon and no network, and decides by the code of the proxy itself.
Assumed are a caller from a network in server.allow_from, HTTP/1.1, no request body, and a usable token. Where callers are
configured, --address, --caller and --key-stdin say whose request it is.

  bearerd explain GET /api/v2/users
  bearerd explain DELETE https://gateway.internal/api/v2/users/7 --caller CN=billing
  bearerd explain POST /api/v2/users -H 'Origin: https://desk.example.com'
  bearerd explain GET /api/v2/users --address 10.1.2.3
  bearerd explain GET /api/v2/users --key-stdin < billing.key

Exit codes: 0 forwarded, 1 refused, 2 the arguments are no request, 78 invalid configuration.";

#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    #[command(flatten)]
    file: ConfigFile,
    /// Method of the request, such as GET
    method: String,
    /// URL that the caller uses, such as <http://localhost:8080/api/v2/users>, or its path
    url: String,
    /// Name of a configured caller, or a name in the caller's client certificate, such as CN=billing; may be repeated
    #[arg(long = "caller", value_name = "NAME")]
    callers: Vec<String>,
    /// Address that the caller connects from
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Read the caller's key from standard input
    #[arg(long)]
    key_stdin: bool,
    /// Header field of the request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Stands for the part of the daemon's pseudonym that each start chooses.
const INSTANCE: &str = "bearerd-<instance>";

pub(super) fn explain(explain: Explain, environment: &Environment) -> u8 {
    let path = match config_file::find(explain.file, environment) {
        Ok(path) => path,
        Err(code) => return code,
    };
    let config = match config_file::load(&path, environment) {
        Ok(checked) => checked.config,
        Err(code) => return code,
    };
    let mut asked = match Asked::new(&explain.method, &explain.url, &explain.headers, &config.server) {
        Ok(asked) => asked,
        Err(error) => {
            output::failure(&error, Some(error.help()));
            return USAGE;
        }
    };
    let previews = match Daemon::settings(&config, INSTANCE) {
        Ok(settings) => Previews::new(settings),
        Err(error) => {
            output::error_line(format_args!("{}: {}", path.display(), in_one_line(&error)));
            return BAD_CONFIGURATION;
        }
    };
    if explain.key_stdin
        && let Err(error) = asked.add_key(std::io::stdin().lock())
    {
        output::failure(&error, Some(error.help()));
        return USAGE;
    }
    let settings = previews.settings();
    let known = |name: &String| settings.callers.as_ref()?.find(name);
    let peer = explain.address.map_or(Peer::UNIX, |address| settings.networks.judge((address, 0).into()));
    let assumed = Assumed { peer, names: &explain.callers, caller: explain.callers.iter().find_map(known) };
    let preview = previews.preview(asked.head.clone(), config.server.tls.is_some(), assumed, "<token>");
    let route = preview.route.and_then(|route| previews.settings().table.position(route));
    let report = Report {
        asked: &asked,
        callers: &explain.callers,
        address: explain.address,
        config: &config,
        route: route.and_then(|index| config.routes.get(index)).zip(preview.route),
        preview: &preview,
    };
    if explain.json {
        output::line(format_args!("{:#}", report.json()));
    } else {
        output::bytes(report.text().as_bytes());
    }
    if matches!(preview.outcome, Outcome::Refused(_)) { FAILED } else { OK }
}
