//! Values that stand for one that was never filled in: `your-client-id`, `<tenant>`, `${TENANT}`, `changeme`.

use std::ops::Range;

use toml::Spanned;

use super::Resolver;
use crate::config::source::key::Key;
use crate::config::source::schema;

const HELP: &str = "write the value that the provider shows; if this is the value, ignore the warning";

/// Names that RFC 2606 and RFC 6761 reserve for documentation, tests and the own machine.
const RESERVED: [&str; 7] =
    ["example.com", "example.net", "example.org", "example", "test", "invalid", "localhost"];

/// What a part of a URL stands for when it is written in capitals.
const PARTS: [&str; 10] = [
    "tenant",
    "domain",
    "subdomain",
    "host",
    "hostname",
    "region",
    "environment",
    "company",
    "realm",
    "instance",
];

/// Words beside a word of [`PARTS`].
const BESIDE_PARTS: [&str; 4] = ["your", "my", "id", "name"];

/// Ids, names and secrets that are placeholders as a whole, without case and separators.
///
/// A scope, a parameter or a part of a URL may have such a name: `prompt = "none"`, `/todo`.
const WHOLE: [&str; 18] = [
    "changethis",
    "changeit",
    "replacethis",
    "fillme",
    "todo",
    "tbd",
    "placeholder",
    "example",
    "null",
    "undefined",
    "none",
    "clientid",
    "myclientid",
    "clientsecret",
    "myclientsecret",
    "tenantid",
    "mytenant",
    "mytenantid",
];

/// Words that a placeholder has and a name hardly ever.
const WORDS: [&str; 3] = ["changeme", "replaceme", "fixme"];

/// Words in this order, one after the other.
const PHRASES: [[&str; 2]; 10] = [
    ["be", "filled"],
    ["fill", "me"],
    ["set", "me"],
    ["change", "me"],
    ["change", "this"],
    ["replace", "me"],
    ["replace", "this"],
    ["replace", "with"],
    ["id", "placeholder"],
    ["goes", "here"],
];

/// What a placeholder or a variable is named after, as in `your-client-id` and `$clientsecret`.
const NOUNS: [&str; 24] = [
    "access",
    "api",
    "app",
    "application",
    "client",
    "company",
    "domain",
    "environment",
    "here",
    "host",
    "id",
    "instance",
    "key",
    "name",
    "org",
    "organization",
    "password",
    "realm",
    "region",
    "secret",
    "tenant",
    "token",
    "user",
    "value",
];

/// The places of a credential's values that were not filled in.
pub(super) fn placeholders(file: &schema::Credential) -> Vec<Range<usize>> {
    let is_name = |text: &&Spanned<String>| is_placeholder(text.get_ref()) || has_marked_part(text.get_ref());
    let names = [&file.client_id, &file.username].into_iter().filter_map(Key::usable).filter(is_name);
    let urls = [&file.token_url, &file.issuer, &file.authorize_url].into_iter().filter_map(Key::usable);
    let urls = urls.filter(|text| has_placeholder(text.get_ref()));
    // Names of permissions and of APIs, and values of the protocol: an address, at most, but not one to connect to.
    let lists = [&file.scopes, &file.resource].into_iter().filter_map(Key::usable).flat_map(Spanned::get_ref);
    let parameters = file.extra.usable().into_iter().flat_map(|extra| extra.get_ref().values());
    let others = file.audience.usable().into_iter().chain(lists.chain(parameters).flatten());
    let others = others.filter(|text| has_unfilled_part(text.get_ref()));
    names.chain(urls).chain(others).map(Spanned::span).collect()
}

impl Resolver<'_> {
    /// Warns of an address of an API that was not filled in.
    pub(super) fn warn_of_placeholder_in_url(&mut self, text: &Spanned<String>) {
        if has_placeholder(text.get_ref()) {
            self.warn_of_placeholder(text.span());
        }
    }

    /// Names a placeholder as the reason of the last problem.
    pub(super) fn name_placeholder(&mut self, text: &Spanned<String>) {
        if let Some(last) = self.problems.last_mut().filter(|_| has_placeholder(text.get_ref())) {
            last.help = Some("replace the placeholder by your own value".to_owned());
        }
    }

    /// Warns of a value that was not filled in, unless another problem of it is known.
    pub(super) fn warn_of_placeholder(&mut self, place: Range<usize>) {
        if self.problems.iter().all(|problem| problem.place.as_ref() != Some(&place)) {
            self.warning(place, "looks like a placeholder", HELP);
        }
    }
}

/// Whether a part of a URL to connect to is a placeholder.
pub(super) fn has_placeholder(text: &str) -> bool {
    let (host, rest) = host_and_rest(text);
    let is_example = |label: &str| label.eq_ignore_ascii_case("example");
    has_unfilled_part(text)
        || host.split('.').chain(rest.split('/')).any(is_named_part)
        || (host.split('.').any(is_example) && !is_reserved(host))
}

/// Whether a part of a text, such as a scope or a URL, was not filled in.
fn has_unfilled_part(text: &str) -> bool {
    let text = ["%7B", "%7b", "%7D", "%7d", "%3C", "%3c", "%3E", "%3e"]
        .into_iter()
        .zip(["{", "{", "}", "}", "<", "<", ">", ">"])
        .fold(text.to_owned(), |text, (escape, character)| text.replace(escape, character));
    let (host, rest) = host_and_rest(&text);
    // A template in the text may contain what separates the parts.
    has_marked_part(&text)
        || host.split('.').any(is_unfilled)
        || rest.split(['/', '?', '&', '=', '#']).any(is_unfilled)
}

/// The host of a URL, without a user and a port, and what follows it.
fn host_and_rest(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (host, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    (host.rsplit_once(':').map_or(host, |(host, _)| host), rest)
}

/// Whether a whole id, name or secret is a placeholder.
pub(super) fn is_placeholder(text: &str) -> bool {
    is_unfilled(text) || text.trim().starts_with("TODO:") || WHOLE.contains(&words(text).concat().as_str())
}

/// Whether a text asks to be replaced.
fn is_unfilled(text: &str) -> bool {
    let text = text.trim();
    let words = words(text);
    is_marked(text)
        || is_filler(text)
        || words.iter().any(|word| WORDS.contains(&word.as_str()))
        || words.iter().any(|word| word.len() >= 3 && word.bytes().all(|byte| byte == b'x'))
        || words.windows(2).any(|pair| PHRASES.iter().any(|phrase| pair == phrase))
        || is_invitation(&words)
        || words.concat().strip_prefix("your").is_some_and(consists_of_nouns)
}

/// Whether a text in lower case is one of [`NOUNS`] or several, without anything between them.
pub(super) fn consists_of_nouns(text: &str) -> bool {
    // The bound on the length bounds the recursion.
    let mut rests = NOUNS.iter().filter_map(|noun| text.strip_prefix(noun)).filter(|_| text.len() <= 64);
    rests.any(|rest| rest.is_empty() || consists_of_nouns(rest))
}

/// Whether a text refers to a variable: `${NAME}`, `$NAME`, `$(command)`, `%NAME%`, `{{ name }}`.
///
/// A password may begin with `$`: without braces, the name must be in upper case, have an underscore, or consist of words
/// such as `client` and `secret`.
pub(super) fn is_reference(text: &str) -> bool {
    let within = |open: &str, close: &str| {
        let inner = text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        inner.is_some_and(|inner| !inner.trim().is_empty())
    };
    let is_name = |name: &str| {
        name.len() >= 2
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let is_variable = |name: &str| {
        !name.contains(|c: char| c.is_ascii_lowercase())
            || name.contains('_')
            || consists_of_nouns(&name.to_ascii_lowercase())
    };
    let plain = text.strip_prefix('$').or_else(|| text.strip_prefix('%')?.strip_suffix('%'));
    within("${", "}")
        || within("$(", ")")
        || within("{{", "}}")
        || within("{%", "%}")
        || within("<%", "%>")
        || within("#{", "}")
        || plain.is_some_and(|name| is_name(name) && is_variable(name))
}

/// Whether brackets around the whole text mark a placeholder, or the text refers to a variable.
fn is_marked(text: &str) -> bool {
    let pairs = [("<", ">"), ("{", "}"), ("[", "]"), ("__", "__"), ("@@", "@@")];
    let within = |(open, close)| text.strip_prefix(open).and_then(|rest: &str| rest.strip_suffix(close));
    is_reference(text) || pairs.into_iter().filter_map(within).any(is_label)
}

/// Whether a part of the text is marked, such as `acme-{environment}`.
fn has_marked_part(text: &str) -> bool {
    [('<', '>'), ('{', '}')].into_iter().any(|(open, close)| {
        text.match_indices(open).any(|(start, _)| {
            let inner = &text[start + 1..];
            inner.find(close).is_some_and(|end| is_label(inner[..end].trim_start_matches(open)))
        })
    })
}

/// Words, as between the brackets of a placeholder, and not the digits of a GUID.
fn is_label(text: &str) -> bool {
    let text = text.trim().trim_start_matches(['.', '$']);
    let is_guid = text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" _-.'".contains(&byte))
        && !is_guid
}

/// `TENANT` or `:tenant` in a URL.
fn is_named_part(part: &str) -> bool {
    let name = part.strip_prefix(':').unwrap_or(part);
    let is_marked = name.len() < part.len() || !part.contains(|c: char| c.is_ascii_lowercase());
    let words = words(name);
    let is_among = |list: &[&str], word: &String| list.contains(&word.as_str());
    is_marked
        && words.iter().any(|word| is_among(&PARTS, word))
        && words.iter().all(|word| is_among(&PARTS, word) || is_among(&BESIDE_PARTS, word))
}

/// Only crosses, stars or dots, or the GUID of zeros.
fn is_filler(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).collect();
    let is_only =
        |one: char| plain.chars().count() >= 3 && plain.chars().all(|c| c.eq_ignore_ascii_case(&one));
    ['x', '*', '.', '?', '…', '#'].into_iter().any(is_only)
        || text == "…"
        || (plain.len() == 32 && plain.bytes().all(|byte| byte == b'0'))
}

/// `insert-id-here`, `client secret here`.
fn is_invitation(words: &[String]) -> bool {
    let wanted =
        ["insert", "enter", "put", "paste", "id", "secret", "tenant", "token", "key", "password", "url"];
    let is_wanted = |word: &String| wanted.contains(&word.as_str());
    words.last().is_some_and(|last| last == "here") && words.iter().any(is_wanted)
}

/// Whether a host is one of the reserved names, or lies below one.
fn is_reserved(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host.contains('.')
        && RESERVED.iter().any(|name| {
            host.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        })
}

/// The words of a text in lower case, also of `camelCase`.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut is_inside, mut is_after_lower) = (false, false);
    for character in text.chars() {
        let begins = !is_inside || (is_after_lower && character.is_uppercase());
        is_inside = character.is_alphanumeric();
        is_after_lower = character.is_lowercase();
        if !is_inside {
            continue;
        }
        if begins {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(character.to_lowercase());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Environment, parse};

    #[test]
    fn a_value_that_was_not_filled_in_is_recognised() {
        for text in [
            "your-client-id",
            "YOUR_CLIENT_ID",
            "yourClientId",
            "yourclientid",
            "<client-id>",
            "<CLIENT ID>",
            "{tenant}",
            "{{ .Values.clientId }}",
            "${CLIENT_ID}",
            "$CLIENT_ID",
            "$client_id",
            "$clientid",
            "$password",
            "your-api",
            "$(pass show x)",
            "%CLIENT_ID%",
            "__CLIENT_ID__",
            "[client-id]",
            "changeme",
            "CHANGE_ME",
            "change-me",
            "ChangeMe",
            "change this",
            "replace-me",
            "REPLACE_WITH_ID",
            "todo",
            "TODO: id",
            "xxx",
            "XXXXXXXX",
            "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx",
            "00000000-0000-0000-0000-000000000000",
            "***",
            "...",
            "…",
            "example",
            "placeholder",
            "insert-client-id-here",
            "client-id-placeholder",
            "null",
            "undefined",
            "None",
            "my-client-id",
            "client_id",
            "<no value>",
            "acme-{environment}",
            "client-id-here",
            "FILL_ME_IN",
            "dev-xxxxxx",
            "to be filled",
        ] {
            assert!(is_placeholder(text) || has_marked_part(text), "{text}");
        }
    }

    #[test]
    fn a_value_that_may_be_real_is_not_called_a_placeholder() {
        for text in [
            "id",
            "client",
            "x",
            "xx",
            "acme",
            "billing-service",
            "4b6c2d9e-7f11-4c3a-9a55-0d8c3f0e5b21",
            "{4b6c2d9e-7f11-4c3a-9a55-0d8c3f0e5b21}",
            "service@example.com",
            "alice@corp.example",
            "s3cr3t",
            "p$ssword",
            "$ecret1",
            "$1$salt$hash",
            "yourk",
            "hereford",
            "youre",
            "tokyo-here",
            "50%off%",
            "a<b",
            "QWNjZXNzS2V5U2VjcmV0T2ZGaWZ0eVNpeENoYXJhY3RlcnMrLw====",
            "{}",
            "[1]",
            "maxxx",
            "kid{1}",
            "todo-service",
            "example-app",
            "example-client",
            "client.example.id",
            "placeholder-images",
            "fill-in-forms",
            "register-your-trust",
            "your-energy",
            "yourapple",
            "$dollar",
            "$money",
        ] {
            assert!(!is_placeholder(text) && !has_marked_part(text), "{text}");
        }
    }

    #[test]
    fn a_url_is_searched_in_parts() {
        for text in [
            "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token",
            "https://login.microsoftonline.com/%7Btenant%7D/oauth2/v2.0/token",
            "https://login.microsoftonline.com/<tenant-id>/oauth2/v2.0/token",
            "https://login.microsoftonline.com/YOUR_TENANT/v2.0",
            "https://your-domain.auth0.com/oauth/token",
            "https://your-tenant.example.com/token",
            "https://${TENANT}.auth0.com/oauth/token",
            "https://xxx.okta.com/oauth2/default/v1/token",
            "https://example.okta.com/oauth2/default",
            "https://acme.auth0.com/oauth/token?tenant=changeme",
            "https://{{ tenant }}.auth0.com:443/t",
            "https://dev-xxxxxx.okta.com/oauth2/default",
            "https://login.microsoftonline.com/TENANT/v2.0",
            "https://SUBDOMAIN.auth0.com/",
            "https://login.microsoftonline.com/:tenant/v2.0",
            "https://login.microsoftonline.com/TENANT_ID/v2.0",
        ] {
            assert!(has_placeholder(text), "{text}");
        }
        for text in [
            "https://as.example.com/token",
            "https://example.com/example/token",
            "https://as.example/token",
            "http://localhost:8080/realms/acme",
            "http://[::1]:8080/t",
            "https://login.microsoftonline.com/common/oauth2/v2.0/token",
            "https://login.microsoftonline.com/4b6c2d9e-7f11-4c3a-9a55-0d8c3f0e5b21/v2.0",
            "https://cxone.niceincontact.com",
            "https://login.test/realms/ACME/tenant/REST",
            "https://host.test:8443/domain",
            "https://todo.acme.com/todo/api",
            "https://todo-app.acme.com/example/none",
            "https://login.test/authorize?prompt=none&client_id=abc",
            "https://login.test/realms/ACME-DOMAIN/token",
        ] {
            assert!(!has_placeholder(text), "{text}");
        }
    }

    #[test]
    fn names_of_apis_and_permissions_and_values_of_the_protocol_are_no_placeholders() {
        for lines in [
            "client_id = \"todo-service\"",
            "client_id = \"i\"\nextra = { prompt = \"none\", display = \"undefined\", realm = \"REALM\" }",
            "client_id = \"i\"\nscopes = [\"api://todo-app/.default\", \"DOMAIN_READ\", \"TENANT\", \"client_id\"]",
            "client_id = \"i\"\naudience = \"example\"\nresource = [\"https://api.acme.com/HOST\"]",
        ] {
            let text = format!(
                "[credentials.c]\n{lines}\nclient_secret = {{ env = \"S\" }}\ntoken_url = \"https://login.test/t\"\n\
                 [[routes]]\nupstream = \"https://todo.acme.com\"\ncredential = \"c\"\n"
            );
            let checked = parse(Path::new("proxy.toml"), text, &Environment::from([("S", "s")]));
            let warnings = checked.unwrap_or_else(|problems| panic!("{problems}")).warnings;
            assert!(warnings.problems().is_empty(), "{warnings}");
        }
    }

    #[test]
    fn a_placeholder_that_makes_a_text_no_url_is_named() {
        for (upstream, help) in [
            ("https://<host>/api", "replace the placeholder by your own value"),
            ("api.test", "write a whole URL, such as \"https://api.example.com\""),
        ] {
            let text = format!("[[routes]]\nupstream = \"{upstream}\"\ncredential = \"none\"\n");
            let problems = parse(Path::new("proxy.toml"), text, &Environment::from([])).unwrap_err();
            let [problem] = problems.problems() else { panic!("{problems}") };
            assert_eq!((problem.title.as_str(), problem.help.as_deref()), ("not a URL", Some(help)));
        }
    }

    #[test]
    fn each_placeholder_of_a_configuration_causes_one_warning_at_its_place() {
        let text = "[credentials.c]\ngrant = \"password\"\nclient_id = \"<client-id>\"\nusername = \"changeme\"\n\
                    password = { env = \"S\" }\nclient_secret = { env = \"S\" }\naudience = \"your-api\"\n\
                    token_url = \"https://login.test/{tenant}/token\"\nscopes = [\"api://your-api/.default\", \"a\"]\n\
                    [[routes]]\nupstream = \"https://xxx.api.test\"\ncredential = \"c\"\n";

        let checked = parse(Path::new("proxy.toml"), text.to_owned(), &Environment::from([("S", "s")]));

        let warnings = checked.unwrap_or_else(|problems| panic!("{problems}")).warnings;
        let places: Vec<&str> = warnings
            .problems()
            .iter()
            .map(|problem| {
                assert_eq!(problem.title, "looks like a placeholder", "{warnings}");
                &text[problem.place.clone().unwrap()]
            })
            .collect();
        assert_eq!(
            places,
            [
                "\"<client-id>\"",
                "\"changeme\"",
                "\"your-api\"",
                "\"https://login.test/{tenant}/token\"",
                "\"api://your-api/.default\"",
                "\"https://xxx.api.test\"",
            ]
        );
    }
}
