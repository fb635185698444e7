//! A checked configuration as TOML: every key that has a value, defaults and overrides included, secrets masked.
//!
//! A key that is written keeps its value. An absent key has the default of the shipped file, or what [`Absent`] says where
//! the default depends on other keys.

use std::fmt::Write as _;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::overrides;
use super::problem::Sources;
use super::schema::File;
use super::shape::{Property, Shape, Shaped};
use super::shipped;
use super::shipped::ShippedKey;
use crate::config::model::config::Config;
use crate::config::model::credential::{ApiQuota, Credential, HttpVersion};
use crate::config::model::endpoint::Endpoint;
use crate::config::model::environment::Environment;
use crate::config::model::identity::{ClientAuth, Grant};
use crate::config::model::route::Route;

/// The head of the text.
const HEAD: &str = "\
# The configuration as bearerd reads it, with defaults and overrides of the environment. Relative paths start at the
# folder of the file. \"***\" stands for a secret in clear text.
";
/// The mask of a secret.
const MASK: &str = "\"***\"";

/// The value of an absent key.
enum Absent {
    /// The default of the shipped file.
    Default,
    /// This value, as TOML.
    Value(String),
    /// None: the key would have another meaning, or none.
    Nothing,
}

/// What the defaults of a table depend on.
#[derive(Clone, Copy)]
enum Of<'c> {
    Whole(&'c Config),
    Credential(&'c Credential),
    Route(&'c Route),
}

/// Prints the text of a configuration that was checked as `config`.
pub(in crate::config) fn print(text: &str, config: &Config, environment: &Environment) -> String {
    let (root, _) = DeTable::parse_recoverable(text);
    let mut root = root.into_inner();
    let mut sources = Sources::new("proxy.toml".as_ref(), text.to_owned());
    overrides::apply(&mut root, &mut sources, environment, &mut Vec::new());
    let mut printer = Printer { keys: shipped::keys(), sources: &sources, text: HEAD.to_owned() };
    printer.file(&root, config);
    printer.text
}

struct Printer<'p> {
    keys: Vec<ShippedKey>,
    sources: &'p Sources,
    text: String,
}

impl Printer<'_> {
    fn file(&mut self, root: &DeTable<'_>, config: &Config) {
        let whole = File::shape();
        let shape = |path: &[&str]| path.iter().try_fold(&whole, |shape, key| entry(shape, key));
        let empty = DeTable::new();
        let table =
            |path: &[&str]| path.iter().try_fold(root, |table, key| table.get(*key)?.get_ref().as_table());
        for path in [&["server"][..], &["server", "tls"], &["server", "limits"], &["admin"]] {
            let written = table(path);
            if written.is_some() || path != ["server", "tls"] {
                let name = path.join(".");
                self.section(
                    &format!("[{name}]"),
                    &name,
                    shape(path),
                    written.unwrap_or(&empty),
                    Of::Whole(config),
                );
            }
        }
        for caller in &config.callers {
            let written = table(&["callers", &caller.name]).unwrap_or(&empty);
            let header = format!("[callers.{}]", key_text(&caller.name));
            self.section(&header, "callers", shape(&["callers", &caller.name]), written, Of::Whole(config));
        }
        for pool in &config.pools {
            let written = table(&["pools", &pool.name]).unwrap_or(&empty);
            let header = format!("[pools.{}]", key_text(&pool.name));
            self.section(&header, "pools", shape(&["pools", &pool.name]), written, Of::Whole(config));
        }
        if config.shared.is_some() {
            let written = table(&["shared"]).unwrap_or(&empty);
            self.section("[shared]", "shared", shape(&["shared"]), written, Of::Whole(config));
        }
        for credential in &config.credentials {
            let written = table(&["credentials", &credential.name]).unwrap_or(&empty);
            let header = format!("[credentials.{}]", key_text(&credential.name));
            let shape = shape(&["credentials", &credential.name]);
            self.section(&header, "credentials", shape, written, Of::Credential(credential));
        }
        let routes = root.get("routes").and_then(|routes| routes.get_ref().as_array());
        for (written, route) in routes.into_iter().flat_map(|routes| routes.iter()).zip(&config.routes) {
            let written = written.get_ref().as_table().unwrap_or(&empty);
            self.section("[[routes]]", "routes", shape(&["routes", "entry"]), written, Of::Route(route));
        }
        let webhooks = root.get("webhooks").and_then(|webhooks| webhooks.get_ref().as_array());
        for written in webhooks.into_iter().flat_map(|webhooks| webhooks.iter()) {
            let written = written.get_ref().as_table().unwrap_or(&empty);
            let shape = shape(&["webhooks", "entry"]);
            self.section("[[webhooks]]", "webhooks", shape, written, Of::Whole(config));
        }
        for name in ["audit", "log", "tracing"] {
            let written = table(&[name]).unwrap_or(&empty);
            self.section(&format!("[{name}]"), name, shape(&[name]), written, Of::Whole(config));
        }
    }

    /// Prints a section with its keys, in the order of the shipped file.
    fn section(
        &mut self,
        header: &str,
        path: &str,
        shape: Option<&Shape>,
        written: &DeTable<'_>,
        of: Of<'_>,
    ) {
        let Some(Shape::Table(own)) = shape else { return };
        let _ = writeln!(self.text, "\n{header}");
        let place = |key: &str| {
            let path = format!("{path}.{key}");
            self.keys.iter().position(|known| known.path == path).unwrap_or(usize::MAX)
        };
        let mut ordered: Vec<&Property> = own.iter().collect();
        ordered.sort_by_key(|property| place(property.key));
        for Property { key, shape, .. } in ordered {
            // Sections of their own.
            if path == "server" && matches!(shape, Shape::Table(_)) {
                continue;
            }
            let value = match written.get(*key) {
                Some(value) => Some(self.written(&format!("{path}.{key}"), value, shape)),
                None => match absent(path, key, of) {
                    Absent::Default => self.default(&format!("{path}.{key}"), shape),
                    Absent::Value(value) => Some(value),
                    Absent::Nothing => None,
                },
            };
            if let Some(value) = value {
                let _ = writeln!(self.text, "{key} = {value}");
            }
        }
    }

    fn default(&self, path: &str, shape: &Shape) -> Option<String> {
        let shipped = self.keys.iter().find(|key| key.path == path && key.is_default)?;
        let value = DeValue::parse(&shipped.value).ok()?;
        Some(rendered(value.get_ref(), shape))
    }

    /// A value that is written in the file or in a variable.
    fn written(&self, path: &str, value: &Spanned<DeValue<'_>>, shape: &Shape) -> String {
        // A variable with a number is text where only text fits.
        if let Some(text) = self.sources.whole_override(&value.span())
            && !accepts(shape, value.get_ref())
        {
            return rendered(&DeValue::String(text.into()), shape);
        }
        match (path, value.get_ref(), shape) {
            ("server.required_header", DeValue::String(field), _) => match field.split_once(':') {
                Some((name, value)) if !value.trim().is_empty() => string(&format!("{name}: ***")),
                _ => string(field),
            },
            ("credentials.proxy" | "routes.proxy", DeValue::String(url), _) => string(&without_user(url)),
            (_, DeValue::Table(table), shape) => {
                self.with_defaults(path, table, shape).unwrap_or_else(|| rendered(value.get_ref(), shape))
            }
            (_, value, shape) => rendered(value, shape),
        }
    }

    /// An inline table with the defaults of its absent keys, if the table has defaults.
    fn with_defaults(&self, path: &str, table: &DeTable<'_>, shape: &Shape) -> Option<String> {
        let own = keys_of(shape)?;
        let shipped = self.keys.iter().find(|key| key.path == path && key.is_default)?;
        let defaults = DeValue::parse(&shipped.value).ok()?;
        let defaults = defaults.get_ref().as_table()?;
        let entries = own.iter().filter_map(|Property { key, shape, .. }| {
            // `open_max` is at least `open`.
            let depends = *key == "open_max" && table.contains_key("open");
            let value = table.get(*key).or_else(|| defaults.get(*key).filter(|_| !depends))?;
            Some(format!("{key} = {}", rendered(value.get_ref(), shape)))
        });
        Some(braces(entries))
    }
}

/// What an absent key means where this depends on other keys.
fn absent(section: &str, key: &str, of: Of<'_>) -> Absent {
    match (section, key, of) {
        ("server", "allow_from", Of::Whole(config)) => {
            Absent::Value(list(config.server.allow_from.iter().map(ToString::to_string)))
        }
        ("routes", "name", Of::Route(route)) => Absent::Value(string(&route.name)),
        ("routes", "token_field" | "token_scheme", Of::Route(route)) if route.credential.is_none() => {
            Absent::Nothing
        }
        (_, key, Of::Credential(credential)) => absent_of_credential(key, credential),
        _ => Absent::Default,
    }
}

/// Keys that the provider fills in, and keys that belong to some grants and authentications.
fn absent_of_credential(key: &str, credential: &Credential) -> Absent {
    let url = |endpoint: &Endpoint| match endpoint {
        Endpoint::Written(url) | Endpoint::OfPreset { url, .. } => Absent::Value(string(url.as_str())),
        Endpoint::OfIssuer(_) => Absent::Nothing,
    };
    let only_if = |is_used: bool| if is_used { Absent::Default } else { Absent::Nothing };
    let grants = || std::iter::once(&credential.identity.grant).chain(&credential.identity.fallback);
    let is_rotating = || grants().any(|grant| matches!(grant, Grant::RefreshToken(_)));
    match key {
        "token_url" => url(&credential.token_url),
        "authorize_url" => {
            credential.login.as_ref().map_or(Absent::Nothing, |login| url(&login.authorize_url))
        }
        "redirect_uri" => only_if(credential.login.is_some()),
        "grant" => match credential.identity.grant {
            Grant::Password { .. } => Absent::Value(string("password")),
            _ => Absent::Default,
        },
        "http_version" => Absent::Value(string(match credential.http_version {
            HttpVersion::Auto => "auto",
            HttpVersion::Http1 => "1.1",
            HttpVersion::Http2 => "2",
        })),
        "refresh_margin" => Absent::Value(duration(credential.refresh_margin)),
        "api_quota" => credential.api_quota.map_or(Absent::Default, |quota| Absent::Value(api_quota(&quota))),
        "login_stub" => Absent::Value(list(credential.login_stub.iter().cloned())),
        "basic_encoding" => only_if(matches!(credential.identity.client_auth, ClientAuth::Basic { .. })),
        "subject_token_type" => only_if(grants().any(|grant| matches!(grant, Grant::TokenExchange { .. }))),
        "max_rotations" => only_if(is_rotating()),
        // Without the key, requests that spend a refresh token have more time than others.
        "timeout" => only_if(!is_rotating()),
        "state_key_previous" => Absent::Nothing,
        _ => Absent::Default,
    }
}

/// The form of an entry of a table, a map or a list.
fn entry<'s>(shape: &'s Shape, key: &str) -> Option<&'s Shape> {
    match shape {
        Shape::Table(_) => shape.property(key).map(|property| &property.shape),
        Shape::Map(entry) | Shape::List(entry) => Some(entry),
        _ => None,
    }
}

fn keys_of(shape: &Shape) -> Option<&[Property]> {
    match shape {
        Shape::Table(own) => Some(own),
        Shape::OneOf(shapes) => shapes.iter().find_map(keys_of),
        _ => None,
    }
}

/// Whether a value has this form, by its type.
fn accepts(shape: &Shape, value: &DeValue<'_>) -> bool {
    match shape {
        Shape::Text | Shape::Duration | Shape::Size | Shape::Choice(_) => value.is_str(),
        Shape::Bool => value.is_bool(),
        Shape::Whole(_) => value.is_integer(),
        Shape::Share => value.is_integer() || value.is_float(),
        Shape::Secret => value.is_str() || value.is_table(),
        Shape::Claim => !value.is_table(),
        Shape::List(_) => value.is_array(),
        Shape::Map(_) | Shape::Table(_) => value.is_table(),
        Shape::OneOf(shapes) => shapes.iter().any(|shape| accepts(shape, value)),
    }
}

/// A value as TOML in one line.
fn rendered(value: &DeValue<'_>, shape: &Shape) -> String {
    let shape = match shape {
        Shape::OneOf(shapes) => shapes.iter().find(|shape| accepts(shape, value)).unwrap_or(shape),
        shape => shape,
    };
    match (value, shape) {
        (DeValue::String(_), Shape::Secret) => MASK.to_owned(),
        (DeValue::String(text), _) => string(text),
        (DeValue::Integer(number), _) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| number.as_str().to_owned(), |number| number.to_string()),
        (DeValue::Float(number), _) => number.as_str().to_owned(),
        (DeValue::Boolean(is), _) => is.to_string(),
        (DeValue::Datetime(time), _) => time.to_string(),
        (DeValue::Array(entries), shape) => {
            let entries = entries.iter().map(|value| {
                let shape = entry(shape, "").unwrap_or(&Shape::Claim);
                rendered(value.get_ref(), shape)
            });
            format!("[{}]", entries.collect::<Vec<_>>().join(", "))
        }
        (DeValue::Table(table), Shape::Table(own)) => {
            braces(own.iter().filter_map(|Property { key, shape, .. }| {
                let value = table.get(*key)?;
                Some(format!("{key} = {}", rendered(value.get_ref(), shape)))
            }))
        }
        (DeValue::Table(table), shape) => braces(table.iter().map(|(key, value)| {
            let key = key.get_ref();
            // The source of a secret is not secret.
            let shape = entry(shape, key).unwrap_or(&Shape::Claim);
            format!("{} = {}", key_text(key), rendered(value.get_ref(), shape))
        })),
    }
}

/// An inline table.
fn braces(entries: impl Iterator<Item = String>) -> String {
    match entries.collect::<Vec<_>>() {
        entries if entries.is_empty() => "{}".to_owned(),
        entries => format!("{{ {} }}", entries.join(", ")),
    }
}

/// A list of strings.
fn list(texts: impl Iterator<Item = String>) -> String {
    format!("[{}]", texts.map(|text| string(&text)).collect::<Vec<_>>().join(", "))
}

/// A basic string: of JSON's escapes TOML has all, and demands one more.
fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// A key, quoted unless bare.
fn key_text(key: &str) -> String {
    let is_bare =
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if is_bare { key.to_owned() } else { string(key) }
}

/// A quota of an API as it can be written.
fn api_quota(ApiQuota { requests, per, learn, wait }: &ApiQuota) -> String {
    let (per, wait) = (duration(*per), duration(*wait));
    format!("{{ requests = {requests}, per = {per}, learn = {learn}, wait = {wait} }}")
}

/// A duration as it can be written.
fn duration(duration: Duration) -> String {
    let text = if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ns", duration.as_nanos())
    };
    string(&text)
}

/// A URL with stars for user and password.
fn without_user(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    match url[start..].rfind('@') {
        Some(at) => format!("{}***{}", &url[..start], &url[start + at..]),
        None => url.to_owned(),
    }
}
