//! What a token request may hold, and what is said of the rest.

use std::path::Path;

use crate::config::{Checked, Diagnostics, Environment, parse};

fn read(lines: &str) -> Result<Checked, Box<Diagnostics>> {
    let text = format!(
        "[credentials.c]\ntoken_url = \"https://as.example.com/token\"\nclient_auth = \"none\"\n{lines}\n\
         [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n"
    );
    parse(Path::new("proxy.toml"), text, &Environment::from([("SECRET", "hunter2")]))
}

#[test]
fn what_the_request_has_anyway_is_refused_in_extra() {
    const OURS: &str = "`extra` must not hold what the request has anyway";
    for (lines, title) in [
        ("extra = { grant_type = \"x\" }", OURS),
        ("extra = { client_id = \"x\" }", OURS),
        ("extra = { client_secret = \"x\" }", OURS),
        ("extra = { client_assertion = \"x\" }", OURS),
        ("extra = { client_assertion_type = \"x\" }", OURS),
        ("extra = { scope = \"x\" }", OURS),
        ("extra = { username = \"x\" }", OURS),
        ("extra = { password = \"x\" }", OURS),
        ("extra = { assertion = \"x\" }", OURS),
        ("extra = { refresh_token = \"x\" }", OURS),
        ("extra = { code = \"x\" }", OURS),
        ("extra = { code_verifier = \"x\" }", OURS),
        ("extra = { subject_token = \"x\" }", OURS),
        ("audience = \"a\"\nextra = { audience = \"x\" }", OURS),
        ("resource = [\"urn:a\"]\nextra = { resource = \"x\" }", OURS),
        ("request_fields = { scope = \"scopes\" }\nextra = { scopes = \"x\" }", OURS),
        ("request_fields = { scope = \"x\", audience = \"x\" }", "two parameters would have this name"),
        ("request_fields = { username = \"password\" }", "two parameters would have this name"),
        ("request_fields = { scpoe = \"x\" }", "no parameter that a token request of ours could have"),
        ("resource = [\"urn:a\", \"api\"]", "not a resource (RFC 8707 §2)"),
        ("resource = [\"https://api/#x\"]", "not a resource (RFC 8707 §2)"),
        ("fields = { access_token = \"scope\" }", "two fields of an answer cannot have one name"),
        ("fields = { access_token = \"\" }", "two fields of an answer cannot have one name"),
        ("fields = { token = \"x\" }", "unknown key `token` in `credentials.c.fields`"),
    ] {
        let problems = read(&format!("client_id = \"i\"\n{lines}")).expect_err(lines);
        let errors: Vec<_> =
            problems.problems().iter().filter(|one| !one.title.contains("nothing but its id")).collect();
        let [problem] = errors.as_slice() else { panic!("{lines}: {problems}") };
        assert!(problem.title.starts_with(title) && problems.to_string().contains('^'), "{problems}");
    }
    for good in ["extra = { audience = \"x\", resource = \"y\", redirect_uri = \"z\" }", "audience = \"\""] {
        read(&format!("client_id = \"i\"\n{good}")).unwrap_or_else(|problems| panic!("{problems}"));
    }
}

#[test]
fn only_a_server_with_names_of_its_own_may_know_no_clients() {
    let access_key = "grant = \"password\"\nusername = \"u\"\npassword = { env = \"SECRET\" }";
    let names = "request_fields = { username = \"accessKeyId\" }";
    let checked = read(&format!("{access_key}\n{names}")).unwrap();
    assert_eq!(checked.config.credentials[0].identity.client_id, "");

    let problems = read(access_key).unwrap_err();
    assert!(problems.to_string().contains("`client_id` is missing"), "{problems}");
}
