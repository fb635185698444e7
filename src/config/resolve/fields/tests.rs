//! Allowed and refused changes to header fields.

use std::path::Path;

use http::header::{ACCEPT, HeaderName};

use crate::config::{Diagnostics, Environment, Fields, parse};

const PLAIN: &str = "token_url = \"https://as.example.com/t\"";
const GENESYS: &str = "provider = \"genesys\"\nregion = \"mypurecloud.de\"";
const CXONE: &str = "provider = \"cxone\"\nissuer = \"https://cxone.niceincontact.com\"\n\
    username = \"key\"\npassword = { env = \"S\" }";

fn read(credential: &str, route: &str) -> Result<Fields, Box<Diagnostics>> {
    let text = format!(
        "[credentials.c]\nclient_id = \"id\"\nclient_secret = {{ env = \"S\" }}\n{credential}\n\
         [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n{route}\n"
    );
    let environment = Environment::from([("S", "x")]);
    parse(Path::new("proxy.toml"), text, &environment).map(|checked| checked.config.routes[0].fields.clone())
}

fn fields(credential: &str, headers: &str) -> Fields {
    read(credential, &format!("[routes.headers]\n{headers}")).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The title and the remedy of the only problem.
fn refused(credential: &str, route: &str) -> (String, String) {
    let problems = read(credential, route).err().unwrap_or_else(|| panic!("was accepted: {route}"));
    let [problem] = problems.problems() else { panic!("{problems}") };
    (problem.title.clone(), problem.help.clone().unwrap_or_default())
}

#[test]
fn fields_are_set_removed_and_passed_as_written() {
    let fields = fields(
        PLAIN,
        "set = { X-Tenant = \"ours\" }\nset_if_absent = { Accept = \"text/plain\" }\nremove = [\"Cookie\"]\n\
         pass = [\"X-Forwarded-For\", \"X-HTTP-Method-Override\"]",
    );

    assert_eq!(fields.set[0].0, "x-tenant");
    assert_eq!(fields.set[0].1, "ours");
    assert!(!format!("{fields:?}").contains("ours"), "the value is printed");
    assert_eq!(
        (&fields.set_if_absent[0].0, fields.set_if_absent[0].1.as_bytes()),
        (&ACCEPT, &b"text/plain"[..])
    );
    assert_eq!(fields.remove, ["cookie"]);
    assert_eq!(fields.pass, ["x-forwarded-for", "x-http-method-override"]);
    assert_eq!(read(PLAIN, "").unwrap(), Fields::default());
}

#[test]
fn a_route_cannot_change_protected_fields() {
    for name in [
        "Authorization",
        "Host",
        "Content-Length",
        "Via",
        "Expect",
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "Proxy-Authorization",
    ] {
        for headers in [
            format!("set = {{ {name} = \"x\" }}"),
            format!("set_if_absent = {{ {name} = \"x\" }}"),
            format!("remove = [\"{name}\"]"),
            format!("pass = [\"{name}\"]"),
        ] {
            let (title, _) = refused(PLAIN, &format!("[routes.headers]\n{headers}"));
            assert!(title.contains(&name.to_ascii_lowercase()), "{headers}: {title}");
        }
    }
}

#[test]
fn changes_without_effect_and_wrong_fields_are_refused() {
    for (headers, title, help) in [
        ("remove = [\"X-Real-IP\"]", "is always removed unless `pass` names it", "`remove`"),
        ("pass = [\"Accept\"]", "is always forwarded", "X-Forwarded-*"),
        ("pass = [\"X-Forwarded-*\"]", "not the name of a header field", "one name per entry"),
        ("remove = [\"a b\"]", "not the name of a header field", "as in a request"),
        ("set = { \"\" = \"x\" }", "not the name of a header field", ""),
        ("set = { X-A = \"a\\nb\" }", "not the value of a header field", "one line of text"),
        ("set = { X-A = \" a\" }", "not the value of a header field", "blanks"),
        ("set = { X-A = \"\" }", "not the value of a header field", "`remove`"),
        ("set = { X-A = \"1\", x-a = \"2\" }", "`x-a` is changed twice", "once"),
        ("set = { X-A = \"1\" }\nremove = [\"x-a\"]", "`x-a` is changed twice", "once"),
    ] {
        let (said, remedy) = refused(PLAIN, &format!("[routes.headers]\n{headers}"));
        assert!(said.contains(title), "{headers}: {said}");
        assert!(remedy.contains(help), "{headers}: {remedy}");
    }
    assert!(
        refused(PLAIN, "[routes.headers]\nadd = {}").0.contains("unknown key `add` in `routes[0].headers`")
    );
}

#[test]
fn with_rules_a_field_that_replaces_method_or_path_cannot_be_passed() {
    for name in
        ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL"]
    {
        let pass = format!("[routes.headers]\npass = [\"{name}\"]");
        read(PLAIN, &pass).unwrap();
        for (credential, rules) in
            [(PLAIN, "allow = [\"GET /**\"]"), (PLAIN, "deny = [\"GET /x\"]"), (GENESYS, "")]
        {
            let (title, _) = refused(credential, &format!("{rules}\n{pass}"));
            assert!(title.contains("could bypass the rules"), "{title}");
        }
    }
    read(GENESYS, "[routes.headers]\npass = [\"X-Forwarded-For\"]").unwrap();
}

#[test]
fn cxone_gets_an_accept_field_unless_the_route_changes_it() {
    let accept = |fields: &Fields, of: &[(HeaderName, http::HeaderValue)]| {
        assert_eq!(fields.set.len() + fields.set_if_absent.len(), of.len());
        of.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect::<Vec<_>>()
    };

    let preset = read(CXONE, "").unwrap();
    assert_eq!(accept(&preset, &preset.set_if_absent), ["accept: application/json"]);
    let own = fields(CXONE, "set_if_absent = { Accept = \"text/csv\" }");
    assert_eq!(accept(&own, &own.set_if_absent), ["accept: text/csv"]);
    let own = fields(CXONE, "set = { accept = \"text/csv\" }");
    assert_eq!(accept(&own, &own.set), ["accept: text/csv"]);
    assert!(fields(CXONE, "remove = [\"Accept\"]").set_if_absent.is_empty());
    assert_eq!(fields(CXONE, "set = { X-A = \"1\" }").set_if_absent.len(), 1);
}
