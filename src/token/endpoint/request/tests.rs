//! Token requests, byte for byte.

use super::*;
use crate::config::fixture;
use crate::config::fixture::keys;

const SECRET: &str = "s:%+ é====";

fn request(lines: &str, secret: &str) -> TokenRequest {
    let config = fixture::config("", &format!("client_id = \"id:with%+ ü\"\n{lines}"), secret);
    let credential = &config.credentials[0];
    TokenRequest::new(credential, &credential.identity.initial()).unwrap()
}

fn body(lines: &str) -> String {
    let request = request(lines, SECRET);
    assert!(!request.headers.contains_key(AUTHORIZATION));
    str::from_utf8(&request.body).unwrap().to_owned()
}

fn pair(request: &TokenRequest) -> String {
    let value = request.headers[AUTHORIZATION].to_str().unwrap();
    String::from_utf8(STANDARD.decode(value.strip_prefix("Basic ").unwrap()).unwrap()).unwrap()
}

/// The body with the JWTs in it taken out, and these.
fn without_jwts(body: &str) -> (String, Vec<String>) {
    let mut jwts = Vec::new();
    let parameters = body.split('&').map(|parameter| match parameter.split_once('=') {
        Some((name, jwt)) if jwt.starts_with("eyJ") => {
            jwts.push(jwt.to_owned());
            format!("{name}=JWT")
        }
        _ => parameter.to_owned(),
    });
    (parameters.collect::<Vec<_>>().join("&"), jwts)
}

const CLIENT: &str = "id%3Awith%25%2B+%C3%BC";
const PASSWORD: &str = "s%3A%25%2B+%C3%A9%3D%3D%3D%3D";

#[test]
fn basic_sends_id_and_secret_raw_unless_told_to_encode_them() {
    let raw = request("", SECRET);
    assert_eq!(pair(&raw), "id:with%+ ü:s:%+ é====");
    assert_eq!(raw.body, "grant_type=client_credentials");

    let form = request("basic_encoding = \"form\"", SECRET);
    assert_eq!(pair(&form), "id%3Awith%25%2B+%C3%BC:s%3A%25%2B+%C3%A9%3D%3D%3D%3D");
}

#[test]
fn the_body_is_always_form_encoded() {
    assert_eq!(
        body("client_auth = \"client_secret_post\"\nscopes = [\"a:read\", \"b\"]"),
        format!("grant_type=client_credentials&scope=a%3Aread+b&client_id={CLIENT}&client_secret={PASSWORD}")
    );
}

#[test]
fn a_client_without_a_secret_sends_only_its_id() {
    assert_eq!(body("client_auth = \"none\""), format!("grant_type=client_credentials&client_id={CLIENT}"));
}

#[test]
fn a_password_is_form_encoded_to_the_last_character() {
    let password = "grant = \"password\"\nusername = \"k+y id\"\npassword = { env = \"S\" }";
    let with_basic = request(password, SECRET);
    assert_eq!(with_basic.body, &format!("grant_type=password&username=k%2By+id&password={PASSWORD}"));
    assert_eq!(pair(&with_basic), "id:with%+ ü:s:%+ é====");
    assert_eq!(
        body(&format!("{password}\nclient_auth = \"none\"\nscopes = [\"a\"]")),
        format!("grant_type=password&username=k%2By+id&password={PASSWORD}&scope=a&client_id={CLIENT}")
    );
}

#[test]
fn a_token_is_exchanged_with_its_type() {
    let exchange = "grant = \"token_exchange\"\nclient_auth = \"none\"\nsubject_token = { env = \"S\" }";
    let prefix = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange";
    assert_eq!(
        body(exchange),
        format!(
            "{prefix}&subject_token={PASSWORD}\
             &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token&client_id={CLIENT}"
        )
    );
    assert_eq!(
        body(&format!("{exchange}\nsubject_token_type = \"urn:x\"")),
        format!("{prefix}&subject_token={PASSWORD}&subject_token_type=urn%3Ax&client_id={CLIENT}")
    );
}

#[test]
fn a_jwt_replaces_the_secret_and_is_new_for_each_request() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    std::fs::write(&key, &keys::p256().0[0]).unwrap();
    let assertion = format!("assertion = {{ key = {{ file = \"{}\" }}, alg = \"ES256\" }}", key.display());
    let kind = "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
    let bearer = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=JWT";
    for (lines, expected, count) in [
        (
            "client_auth = \"client_secret_jwt\"".to_owned(),
            format!("grant_type=client_credentials&{kind}&client_assertion=JWT"),
            1,
        ),
        (
            format!("client_auth = \"private_key_jwt\"\n{assertion}"),
            format!("grant_type=client_credentials&{kind}&client_assertion=JWT"),
            1,
        ),
        (
            format!("grant = \"jwt_bearer\"\nclient_auth = \"none\"\n{assertion}"),
            format!("{bearer}&client_id={CLIENT}"),
            1,
        ),
        (
            format!("grant = \"jwt_bearer\"\nclient_auth = \"private_key_jwt\"\n{assertion}"),
            format!("{bearer}&{kind}&client_assertion=JWT"),
            2,
        ),
    ] {
        let (first, jwts) = without_jwts(&body(&lines));
        let (second, others) = without_jwts(&body(&lines));

        assert_eq!((first.as_str(), second.as_str()), (expected.as_str(), expected.as_str()));
        assert_eq!(jwts.len(), count);
        assert!(jwts.iter().all(|jwt| !others.contains(jwt)));
    }
}

#[test]
fn the_id_is_sent_beside_a_jwt_if_the_parameter_is_named() {
    let body = |fields: &str| {
        let body = body(&format!("client_auth = \"client_secret_jwt\"\nrequest_fields = {{ {fields} }}"));
        without_jwts(&body).0
    };
    let prefix = "grant_type=client_credentials";
    let suffix = "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=JWT";
    let named = format!("{prefix}&client_id={CLIENT}&{suffix}");
    assert_eq!(body("client_id = \"client_id\""), named);
    for fields in ["", "client_id = \"\""] {
        assert_eq!(body(fields), format!("{prefix}&{suffix}"));
    }
}

#[test]
fn every_secret_that_is_sent_must_not_be_quoted() {
    for (lines, expected) in [
        ("", vec![SECRET]),
        ("client_auth = \"client_secret_post\"", vec![SECRET]),
        ("grant = \"password\"\nusername = \"u\"\npassword = \"pass\"", vec!["pass", SECRET]),
        ("grant = \"token_exchange\"\nsubject_token = \"tok\"\nclient_auth = \"none\"", vec!["tok"]),
    ] {
        let request = request(lines, SECRET);
        let secrets: Vec<&str> = request.secrets.iter().map(ExposeSecret::expose_secret).collect();
        assert_eq!(secrets, expected, "{lines}");
    }
    let jwt = request("client_auth = \"client_secret_jwt\"", SECRET);
    assert_eq!(jwt.secrets.len(), 2);
    assert!(jwt.body.ends_with(jwt.secrets[1].expose_secret().as_bytes()));
}

#[test]
fn the_secret_in_a_basic_value_is_not_shown() {
    let request = request("", "hunter2");

    assert!(!format!("{:?}", request.headers).contains("aHVudGVyMg"));
}

/// A buffer that grew would have left a part of the secrets behind.
#[test]
fn the_buffer_of_a_body_never_grows() {
    let parameters = [("n\u{1}", "\u{1f}\u{1f}"), ("n\u{1}", "ü%&\""), ("", "")];
    let capacity = buffer(&parameters).capacity();

    assert!(json(parameters.into_iter()).len() <= capacity);
    assert!(form(parameters.into_iter()).len() <= capacity);
}

const POST: &str = "client_id = \"i\"\nclient_auth = \"none\"\n";

fn plain(lines: &str) -> TokenRequest {
    let config = fixture::config("", &format!("{POST}{lines}"), SECRET);
    let credential = &config.credentials[0];
    TokenRequest::new(credential, &credential.identity.initial()).unwrap()
}

#[test]
fn audience_resources_and_extra_parameters_are_sent_as_configured() {
    let request = plain(
        "audience = \"https://api/+\"\nresource = [\"https://a/?x=1\", \"urn:b\"]\n\
         extra = { redirect_uri = \"http://127.0.0.1/cb\", acr = \"ü &\" }",
    );

    assert_eq!(
        request.body,
        "grant_type=client_credentials&audience=https%3A%2F%2Fapi%2F%2B&resource=https%3A%2F%2Fa%2F%3Fx%3D1\
         &resource=urn%3Ab&client_id=i&acr=%C3%BC+%26&redirect_uri=http%3A%2F%2F127.0.0.1%2Fcb"
    );
}

#[test]
fn a_json_request_is_one_object() {
    let request = plain(
        "request_format = \"json\"\nresource = [\"urn:a\", \"urn:b\", \"urn:c\"]\nscopes = [\"s\", \"t\"]\nextra = { n = \"\\\"\" }",
    );

    assert_eq!(request.headers[CONTENT_TYPE], "application/json");
    let json: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    let expected = serde_json::json!({
        "grant_type": "client_credentials", "scope": "s t", "client_id": "i",
        "resource": ["urn:a", "urn:b", "urn:c"], "n": "\"",
    });
    assert_eq!(json, expected);
}

#[test]
fn parameters_are_renamed_or_left_out_as_configured() {
    let access_key = "grant = \"password\"\nusername = \"key-id\"\npassword = { env = \"S\" }\nrequest_format = \"json\"\n\
        request_fields = { username = \"accessKeyId\", password = \"accessKeySecret\", grant_type = \"\", client_id = \"\" }";
    let request = plain(access_key);
    assert_eq!(request.body, "{\"accessKeyId\":\"key-id\",\"accessKeySecret\":\"s:%+ é====\"}");
    assert_eq!(request.secrets[0].expose_secret(), SECRET);

    let form = plain("scopes = [\"a\"]\nrequest_fields = { scope = \"scopes\", client_id = \"scope\" }");
    assert_eq!(form.body, "grant_type=client_credentials&scopes=a&scope=i");
}

#[test]
fn a_code_is_sent_with_the_parameters_of_its_authorization_request() {
    let config = fixture::config("", "scopes = [\"s\"]\nextra = { redirect_uri = \"x\", n = \"1\" }", SECRET);
    let credential = &config.credentials[0];
    let grant = Grant::AuthorizationCode {
        code: SecretString::from("c&d"),
        code_verifier: SecretString::from("v"),
        redirect_uri: "http://127.0.0.1:8400/cb".to_owned(),
    };
    let identity = Identity { grant, ..credential.identity.initial() };

    let request = TokenRequest::new(credential, &identity).unwrap();

    assert_eq!(
        request.body,
        "grant_type=authorization_code&code=c%26d&code_verifier=v\
         &redirect_uri=http%3A%2F%2F127.0.0.1%3A8400%2Fcb&n=1"
    );
    let secrets: Vec<&str> = request.secrets.iter().map(ExposeSecret::expose_secret).collect();
    assert_eq!(secrets, ["c&d", "v", SECRET]);
}

#[test]
fn a_servers_own_grant_type_is_sent_except_for_a_refresh() {
    let own = "grant_type = \"account_credentials\"\nclient_auth = \"none\"";
    let expected = format!("grant_type=account_credentials&client_id={CLIENT}");
    assert_eq!(body(own), expected);
    assert_eq!(
        body(&format!("{own}\ngrant = \"token_exchange\"\nsubject_token = {{ env = \"S\" }}"))
            .split('&')
            .next(),
        expected.split('&').next()
    );
    let login = format!(
        "{own}\ngrant = \"authorization_code\"\nauthorize_url = \"https://as.test/a\"\nstate_file = \"s\"\n\
         state_key = \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\""
    );
    let config = fixture::config("", &login, SECRET);
    let identity = config.credentials[0].identity.initial();
    let secret = || SecretString::from("x");
    let code = Grant::AuthorizationCode { code: secret(), code_verifier: secret(), redirect_uri: "r".into() };
    assert_eq!(grant_type(&identity.with_grant(code)), "account_credentials");
    assert_eq!(grant_type(&identity.with_grant(Grant::RefreshToken(Some(secret())))), "refresh_token");
    assert_eq!(
        grant_type(&identity.with_grant(Grant::ClientCredentials)),
        "account_credentials",
        "a fallback"
    );
}

#[test]
fn configured_fields_are_sent_and_no_secret_among_them_may_be_quoted() {
    let headers =
        "X-Key = { env = \"S\" }, User-Agent = \"acme-gateway\", Accept = \"x/y\", X-Tenant = \"17\"";
    let sent = request(&format!("client_auth = \"none\"\nrequest_headers = {{ {headers} }}"), "hunter2");

    for (name, value) in
        [("x-key", "hunter2"), ("user-agent", "acme-gateway"), ("accept", "x/y"), ("x-tenant", "17")]
    {
        let all: Vec<_> = sent.headers.get_all(name).iter().collect();
        assert!(all == [value] && all[0].is_sensitive(), "{name}: {all:?}");
    }
    assert!(!format!("{:?}", sent.headers).contains("hunter2"));
    let secrets: Vec<_> = sent.secrets.iter().map(ExposeSecret::expose_secret).collect();
    assert_eq!(secrets, ["acme-gateway", "hunter2"]);
    assert_eq!(request("", SECRET).headers[ACCEPT], "application/json");
}

#[test]
fn an_assertion_of_another_process_is_sent_as_it_is_and_with_the_client() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwt");
    std::fs::write(&file, "eyJh.eyJi.c2ln\n").unwrap();
    let assertion = format!("assertion = {{ file = \"{}\" }}", file.display());
    let client = request(&format!("client_auth = \"private_key_jwt\"\n{assertion}"), SECRET);
    assert_eq!(
        str::from_utf8(&client.body).unwrap(),
        format!(
            "grant_type=client_credentials&client_id={CLIENT}&client_assertion_type=\
             urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=eyJh.eyJi.c2ln"
        )
    );
    let grant = request(&format!("grant = \"jwt_bearer\"\nclient_auth = \"none\"\n{assertion}"), SECRET);
    assert_eq!(
        str::from_utf8(&grant.body).unwrap(),
        format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=eyJh.eyJi.c2ln\
             &client_id={CLIENT}"
        )
    );
    for request in [client, grant] {
        assert!(request.secrets.iter().any(|secret| secret.expose_secret() == "eyJh.eyJi.c2ln"));
    }
}
