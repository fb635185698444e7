//! Accepted and refused parameters of a token request.

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
fn parameters_that_the_request_has_anyway_are_refused_in_extra() {
    const OURS: &str = "`extra` must not hold a parameter that the request has anyway";
    const NO_PATH: &str = "not the path of a member: a name in the path is empty";
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
        ("request_fields = { scpoe = \"x\" }", "token requests have no such parameter"),
        ("resource = [\"urn:a\", \"api\"]", "not a resource (RFC 8707 §2)"),
        ("resource = [\"https://api/#x\"]", "not a resource (RFC 8707 §2)"),
        ("fields = { access_token = \"scope\" }", "the members of a response need distinct names"),
        ("fields = { scope = \"token_type\" }", "the members of a response need distinct names"),
        ("fields = { access_token = \"\" }", NO_PATH),
        ("fields = { expires_in = \".x\" }", NO_PATH),
        ("fields = { refresh_token = \"x.\" }", NO_PATH),
        ("fields = { scope = \"a..b\" }", NO_PATH),
        ("token_types = []", "no type of tokens would be accepted"),
        ("token_types = [\"\"]", "no type of tokens would be accepted"),
        ("errors = { dead = [\"\"] }", "an error code has one meaning"),
        ("errors = { dead = [\"x\"], client = [\"X\"] }", "an error code has one meaning"),
        ("errors = { daed = [\"x\"] }", "unknown key `daed` in `credentials.c.errors`"),
        ("fields = { token = \"x\" }", "unknown key `token` in `credentials.c.fields`"),
    ] {
        let problems = read(&format!("client_id = \"i\"\n{lines}")).expect_err(lines);
        let errors: Vec<_> =
            problems.problems().iter().filter(|one| !one.title.contains("does not authenticate")).collect();
        let [problem] = errors.as_slice() else { panic!("{lines}: {problems}") };
        assert!(problem.title.starts_with(title) && problems.to_string().contains('^'), "{problems}");
    }
    for good in ["extra = { audience = \"x\", resource = \"y\", redirect_uri = \"z\" }", "audience = \"\""] {
        read(&format!("client_id = \"i\"\n{good}")).unwrap_or_else(|problems| panic!("{problems}"));
    }
}

#[test]
fn only_a_server_with_other_parameter_names_may_have_no_clients() {
    let access_key = "grant = \"password\"\nusername = \"u\"\npassword = { env = \"SECRET\" }";
    let names = "request_fields = { username = \"accessKeyId\" }";
    let checked = read(&format!("{access_key}\n{names}")).unwrap();
    assert_eq!(checked.config.credentials[0].identity.client_id, "");

    let problems = read(access_key).unwrap_err();
    assert!(problems.to_string().contains("`client_id` is missing"), "{problems}");
}
