//! The recipes of further vendors, each run against a server that answers as the vendor documents it. Tokens, ids and words
//! for people are made up.

use jsonwebtoken::Algorithm;
use serde_json::json;

use super::contact_centres::Answer;
use super::keys::KEYS;
use super::secret;
use super::vendor_server::{Jwt, Vendor};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const CLIENT_ASSERTION: (&str, &str) =
    ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
const CLIENT: &str = "your-client-id";
const REJECTED: &str = "client_rejected";

fn error(status: u16, body: &'static str) -> Answer {
    Answer(status, vec![], body)
}

/// The JWT of a client, for servers that accept five minutes.
fn client_jwt(algorithm: Algorithm, aud: &'static str) -> Jwt {
    Jwt {
        parameter: "client_assertion",
        algorithm,
        header: json!({ "kid": "your-key-id" }),
        claims: json!({ "iss": CLIENT, "sub": CLIENT, "aud": aud }),
        longest: (300, 300),
    }
}

/// developers.zoom.us: "Server-to-Server OAuth" (request and answer), "OAuth error messages" (4702, 4704), and "Rate limits"
/// (429 of the API).
#[tokio::test]
async fn zoom_account_credentials() {
    let vendor = Vendor {
        recipe: "zoom",
        token: ("zoom.us", "/oauth/token"),
        form: vec![("grant_type", "account_credentials"), ("account_id", "your-account-id")],
        basic: Some((CLIENT, secret("ZOOM_CLIENT_SECRET"))),
        answer: json!({
            "token_type": "bearer",
            "expires_in": 3600,
            "scope": "user:read:admin",
            "api_url": "https://api.zoom.us",
        }),
        prefix: "eyJzdiI6IjAwMDAwMSIs.",
        api: "api.zoom.us",
        unauthorized: "{\"code\":124,\"message\":\"Invalid access token.\"}",
        ..Vendor::default()
    };
    vendor.works().await;
    let wrong = "{\"reason\":\"Invalid client_id or client_secret\",\"error\":\"invalid_client\"}";
    vendor.refuses(error(400, wrong), REJECTED).await;
    let kind = "{\"reason\":\"unsupported grant type\",\"error\":\"unsupported_grant_type\"}";
    vendor.refuses(error(400, kind), REJECTED).await;
    let until = vec![("retry-after", "2026-12-01T00:00:00Z")];
    vendor.passes_on(Answer(429, until, "{\"code\":429,\"message\":\"daily limit\"}")).await;
}

/// help.salesforce.com: "OAuth 2.0 JWT Bearer Flow for Server-to-Server Integration" (claims, request, answer without
/// `expires_in`), "OAuth 2.0 error codes", "Login Rate Exceeded", and the API's `REQUEST_LIMIT_EXCEEDED`.
#[tokio::test]
async fn salesforce_jwt_bearer() {
    let vendor = Vendor {
        recipe: "salesforce",
        token: ("your-domain.my.salesforce.com", "/services/oauth2/token"),
        form: vec![("grant_type", JWT_BEARER)],
        jwt: Some(Jwt {
            parameter: "assertion",
            algorithm: Algorithm::RS256,
            header: json!({}),
            claims: json!({
                "iss": "your-consumer-key",
                "sub": "integration@your-company.com",
                "aud": "https://login.salesforce.com",
            }),
            longest: (180, 180),
        }),
        answer: json!({
            "scope": "api",
            "instance_url": "https://your-domain.my.salesforce.com",
            "id": "https://login.salesforce.com/id/00D/005",
            "token_type": "Bearer",
        }),
        prefix: "00D000000000001!AQ4AQ",
        api: "your-domain.my.salesforce.com",
        unauthorized: "[{\"message\":\"Session expired\",\"errorCode\":\"INVALID_SESSION_ID\"}]",
        ..Vendor::default()
    };
    vendor.works().await;
    for wrong in [
        "{\"error\":\"invalid_grant\",\"error_description\":\"user hasn't approved this consumer\"}",
        "{\"error\":\"invalid_client_id\",\"error_description\":\"client identifier invalid\"}",
    ] {
        vendor.refuses(error(400, wrong), REJECTED).await;
    }
    let limit = "{\"error\":\"invalid_grant\",\"error_description\":\"login rate exceeded\"}";
    vendor.throttles(error(400, limit), 60).await;
    let used_up =
        "[{\"message\":\"TotalRequests Limit exceeded.\",\"errorCode\":\"REQUEST_LIMIT_EXCEEDED\"}]";
    vendor.passes_on(error(403, used_up)).await;
}

/// learn.microsoft.com: "Application authentication certificate credentials" (PS256, `x5t#S256`, audience), "OAuth 2.0 client
/// credentials flow" (request, answer, error), "Authentication and authorization error codes" (AADSTS700027, AADSTS70011),
/// "Client and server throttling" (429 with Retry-After 60 for this grant), and paging of Microsoft Graph.
#[tokio::test]
async fn entra_certificate() {
    let vendor = Vendor {
        recipe: "entra",
        token: ("login.microsoftonline.com", "/your-tenant-id/oauth2/v2.0/token"),
        form: vec![
            ("grant_type", "client_credentials"),
            ("client_id", CLIENT),
            ("scope", "https://graph.microsoft.com/.default"),
            CLIENT_ASSERTION,
        ],
        jwt: Some(Jwt {
            header: json!({ "x5t#S256": KEYS.thumbprint() }),
            ..client_jwt(
                Algorithm::PS256,
                "https://login.microsoftonline.com/your-tenant-id/oauth2/v2.0/token",
            )
        }),
        answer: json!({ "token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599 }),
        prefix: "eyJ0eXAiOiJKV1QiLCJub25jZSI6.",
        api: "graph.microsoft.com",
        unauthorized: "{\"error\":{\"code\":\"InvalidAuthenticationToken\",\"message\":\"expired\"}}",
        ..Vendor::default()
    };
    vendor.works().await;
    for (status, wrong) in [
        (
            401,
            "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS700027\",\"error_codes\":[700027]}",
        ),
        (400, "{\"error\":\"invalid_scope\",\"error_description\":\"AADSTS70011\",\"error_codes\":[70011]}"),
    ] {
        vendor.refuses(error(status, wrong), REJECTED).await;
    }
    vendor.throttles(Answer(429, vec![("retry-after", "60")], "Too Many Requests"), 60).await;
    vendor.links_lead_through_the_proxy(false).await;
}

/// developer.okta.com: "Implement OAuth for Okta with a service app" (request, answer), "Client authentication methods"
/// (claims), "Configure OAuth 2.0 Demonstrating Proof-of-Possession" (`invalid_dpop_proof`), "Rate limits" (429 with
/// X-Rate-Limit-Reset), and "Link header" of the API.
#[tokio::test]
async fn okta_private_key_jwt() {
    let vendor = Vendor {
        recipe: "okta",
        token: ("your-org.okta.com", "/oauth2/v1/token"),
        form: vec![("grant_type", "client_credentials"), ("scope", "okta.users.read"), CLIENT_ASSERTION],
        jwt: Some(client_jwt(Algorithm::RS256, "https://your-org.okta.com/oauth2/v1/token")),
        answer: json!({ "token_type": "Bearer", "expires_in": 3600, "scope": "okta.users.read" }),
        prefix: "eyJraWQiOiJ4In0.",
        api: "your-org.okta.com",
        unauthorized: "{\"errorCode\":\"E0000011\",\"errorSummary\":\"Invalid token provided\"}",
        ..Vendor::default()
    };
    vendor.works().await;
    for (status, wrong) in [
        (
            401,
            "{\"error\":\"invalid_client\",\"error_description\":\"The client_assertion signature is invalid.\"}",
        ),
        (400, "{\"error\":\"invalid_dpop_proof\",\"error_description\":\"The DPoP proof is missing.\"}"),
    ] {
        vendor.refuses(error(status, wrong), REJECTED).await;
    }
    let limit = "{\"errorCode\":\"E0000047\",\"errorSummary\":\"API call exceeded rate limit\"}";
    vendor.throttles(Answer(429, vec![("x-rate-limit-reset", "1796000000")], limit), 60).await;
    vendor.links_lead_through_the_proxy(true).await;
}

/// auth0.com/docs: "Authenticate with Private Key JWT" (claims, at most 5 minutes, audience with a slash), "Call your API
/// using the client credentials flow" (request, answer), and "Rate limit policy" (429 with x-ratelimit-reset).
#[tokio::test]
async fn auth0_private_key_jwt() {
    let vendor = Vendor {
        recipe: "auth0",
        token: ("your-tenant.eu.auth0.com", "/oauth/token"),
        form: vec![
            ("grant_type", "client_credentials"),
            ("audience", "https://your-tenant.eu.auth0.com/api/v2/"),
            CLIENT_ASSERTION,
        ],
        jwt: Some(client_jwt(Algorithm::RS256, "https://your-tenant.eu.auth0.com/")),
        answer: json!({ "scope": "read:users", "expires_in": 86_400, "token_type": "Bearer" }),
        prefix: "eyJhbGciOiJSUzI1NiJ9.",
        api: "your-tenant.eu.auth0.com",
        unauthorized: "{\"statusCode\":401,\"error\":\"Unauthorized\",\"message\":\"Expired token\"}",
        ..Vendor::default()
    };
    vendor.works().await;
    for (status, wrong) in [
        (401, "{\"error\":\"invalid_client\",\"error_description\":\"Failed client authentication\"}"),
        (401, "{\"error\":\"access_denied\",\"error_description\":\"Unauthorized\"}"),
        (403, "{\"error\":\"access_denied\",\"error_description\":\"Client is not authorized\"}"),
    ] {
        vendor.refuses(error(status, wrong), REJECTED).await;
    }
    let limit = "{\"error\":\"too_many_requests\",\"error_description\":\"Global limit has been reached\"}";
    vendor.throttles(Answer(429, vec![("x-ratelimit-reset", "1796000000")], limit), 60).await;

    let with_secret = Vendor {
        changes: vec![
            ("client_auth = \"private_key_jwt\"", "client_secret = { env = \"AUTH0_CLIENT_SECRET\" }"),
            ("assertion = ", "#assertion = "),
        ],
        form: vec![vendor.form[0], vendor.form[1]],
        basic: Some((CLIENT, secret("AUTH0_CLIENT_SECRET"))),
        jwt: None,
        ..vendor
    };
    with_secret.works().await;
}

/// keycloak.org: "Service accounts" of the Server Administration Guide (request by HTTP Basic; the answer has
/// `refresh_expires_in` 0, `not-before-policy` and no refresh token), the error of its client authenticators, and
/// `http-max-queued-requests` (503) of the Server Guide.
#[tokio::test]
async fn keycloak_service_account() {
    let vendor = Vendor {
        recipe: "keycloak",
        token: ("keycloak.example.com", "/realms/your-realm/protocol/openid-connect/token"),
        form: vec![("grant_type", "client_credentials")],
        basic: Some((CLIENT, secret("KEYCLOAK_CLIENT_SECRET"))),
        answer: json!({
            "expires_in": 300,
            "refresh_expires_in": 0,
            "token_type": "Bearer",
            "not-before-policy": 0,
            "scope": "profile email",
        }),
        prefix: "eyJhbGciOiJSUzI1NiIsInR5cCI.",
        api: "api.example.com",
        unauthorized: "",
        ..Vendor::default()
    };
    vendor.works().await;
    let wrong = "{\"error\":\"unauthorized_client\",\"error_description\":\"Invalid client credentials\"}";
    for status in [401, 400] {
        vendor.refuses(error(status, wrong), REJECTED).await;
    }
    vendor.recovers(error(503, "Server not Available")).await;
}

/// developers.google.com: "Using OAuth 2.0 for server to server applications" (header with `kid`, claims with `scope` and
/// without `sub`, request, answer, error codes), and the limits of the APIs (429 with a nested error).
#[tokio::test]
async fn google_service_account() {
    let vendor = Vendor {
        recipe: "google",
        token: ("oauth2.googleapis.com", "/token"),
        form: vec![("grant_type", JWT_BEARER)],
        jwt: Some(Jwt {
            parameter: "assertion",
            algorithm: Algorithm::RS256,
            header: json!({ "kid": "your-key-id" }),
            claims: json!({
                "iss": "your-account@your-project.iam.gserviceaccount.com",
                "aud": "https://oauth2.googleapis.com/token",
                "scope": "https://www.googleapis.com/auth/devstorage.read_only",
            }),
            longest: (3600, 3600),
        }),
        answer: json!({ "expires_in": 3599, "token_type": "Bearer" }),
        // Google fills its tokens with dots.
        prefix: "ya29.c.b0Aa........",
        api: "storage.googleapis.com",
        unauthorized: "{\"error\":{\"code\":401,\"message\":\"Invalid Credentials\"}}",
        ..Vendor::default()
    };
    vendor.works().await;
    for (status, wrong) in [
        (400, "{\"error\":\"invalid_grant\",\"error_description\":\"Invalid JWT Signature.\"}"),
        (401, "{\"error\":\"unauthorized_client\",\"error_description\":\"Client is unauthorized\"}"),
    ] {
        vendor.refuses(error(status, wrong), REJECTED).await;
    }
    let limit =
        "{\"error\":{\"code\":429,\"status\":\"RESOURCE_EXHAUSTED\",\"message\":\"rateLimitExceeded\"}}";
    vendor.passes_on(error(429, limit)).await;
}

/// zoho.com/crm/developer: "Refresh access tokens" (parameters, answer without a refresh token, errors with status 200),
/// "Token validity" (ten access tokens in ten minutes, then "Access Denied"), and "Make API requests" (Zoho-oauthtoken).
#[tokio::test]
async fn zoho_refresh_token_that_stays() {
    let vendor = Vendor {
        recipe: "zoho",
        token: ("accounts.zoho.eu", "/oauth/v2/token"),
        form: vec![
            ("grant_type", "refresh_token"),
            ("refresh_token", secret("ZOHO_REFRESH_TOKEN")),
            ("client_id", CLIENT),
            ("client_secret", secret("ZOHO_CLIENT_SECRET")),
        ],
        answer: json!({
            "scope": "ZohoCRM.modules.READ",
            "api_domain": "https://www.zohoapis.eu",
            "token_type": "Bearer",
            "expires_in": 3600,
        }),
        prefix: "1000.",
        api: "www.zohoapis.eu",
        scheme: "Zoho-oauthtoken",
        unauthorized: "{\"code\":\"INVALID_TOKEN\",\"details\":{},\"status\":\"error\"}",
        ..Vendor::default()
    };
    vendor.works().await;
    vendor.refuses(error(200, "{\"error\":\"invalid_client\"}"), REJECTED).await;
    vendor.refuses(error(200, "{\"error\":\"invalid_code\"}"), "reauthorization_required").await;
    let denied = "{\"error_description\":\"too many requests continuously\",\"error\":\"Access Denied\",\"status\":\"failure\"}";
    for limit in [error(400, denied), error(200, "{\"error\":\"access_denied\"}")] {
        vendor.throttles(limit, 60).await;
    }
}

/// developer.xero.com: "The standard authorization code flow" (login, refresh by HTTP Basic, answer of 30 minutes with a new
/// refresh token), the OAuth FAQ (a used refresh token works for 30 more minutes, an unused one for 60 days), "xero-tenant-id",
/// and "Limits" (429 with Retry-After).
#[tokio::test]
async fn xero_refresh_token_that_rotates() {
    let vendor = Vendor {
        recipe: "xero",
        token: ("identity.xero.com", "/connect/token"),
        form: vec![("grant_type", "refresh_token"), ("scope", "offline_access accounting.transactions")],
        basic: Some((CLIENT, secret("XERO_CLIENT_SECRET"))),
        answer: json!({
            "expires_in": 1800,
            "token_type": "Bearer",
            "scope": "accounting.transactions offline_access",
        }),
        prefix: "eyJhbGciOiJSUzI1NiIsImtpZCI.",
        login: Some("xero"),
        api: "api.xero.com",
        field: Some(("xero-tenant-id", "your-tenant-id")),
        unauthorized: "{\"Title\":\"Unauthorized\",\"Status\":401,\"Detail\":\"TokenExpired\"}",
        ..Vendor::default()
    };
    vendor.works().await;
    vendor.forgives_a_lost_answer().await;
    vendor.refuses(error(400, "{\"error\":\"invalid_client\"}"), REJECTED).await;
    vendor.refuses(error(400, "{\"error\":\"invalid_grant\"}"), "reauthorization_required").await;
    vendor.passes_on(Answer(429, vec![("retry-after", "41")], "")).await;
}

/// servicenow.com/docs: "Client credentials" and "OAuth 2.0 with the password grant" (form, answer of 1799 seconds with the
/// scope useraccount), its error `server_error` (`access_denied`) for a wrong secret, "Inbound REST API rate limiting" (429
/// with Retry-After), and the `Link` of the Table API.
#[tokio::test]
async fn servicenow_client_credentials_and_password() {
    let vendor = Vendor {
        recipe: "servicenow",
        token: ("your-instance.service-now.com", "/oauth_token.do"),
        form: vec![
            ("grant_type", "client_credentials"),
            ("client_id", CLIENT),
            ("client_secret", secret("SERVICENOW_CLIENT_SECRET")),
        ],
        answer: json!({ "scope": "useraccount", "token_type": "Bearer", "expires_in": 1799 }),
        prefix: "Tq7",
        api: "your-instance.service-now.com",
        unauthorized: "{\"error\":{\"message\":\"User Not Authenticated\"},\"status\":\"failure\"}",
        ..Vendor::default()
    };
    vendor.works().await;
    let wrong = "{\"error_description\":\"access_denied\",\"error\":\"server_error\"}";
    vendor.refuses(error(401, wrong), REJECTED).await;
    let limit = "{\"error\":{\"message\":\"Rate limit exceeded\"},\"status\":\"failure\"}";
    vendor.passes_on(Answer(429, vec![("retry-after", "1800")], limit)).await;
    vendor.links_lead_through_the_proxy(true).await;

    let mut form = vendor.form.clone();
    form[0].1 = "password";
    form.extend([("username", "your-user"), ("password", secret("SERVICENOW_PASSWORD"))]);
    let mut answer = vendor.answer.clone();
    answer["refresh_token"] = "refresh-token-that-is-not-needed".into();
    let with_password = Vendor {
        changes: vec![
            ("grant = \"client_credentials\"\n", ""),
            ("#grant = ", "grant = "),
            ("#username = ", "username = "),
            ("#password = ", "password = "),
        ],
        form,
        answer,
        ..vendor
    };
    with_password.works().await;
    with_password.refuses(error(401, wrong), REJECTED).await;
}

/// docs.talkdesk.com: "Client Credentials - JWT" and "Client Credentials - Basic" (account in the host, claims, ES256, `kid`,
/// answer), with the errors of RFC 6749 that it names; the API's links are those of HAL.
#[tokio::test]
async fn talkdesk_client_credentials() {
    let vendor = Vendor {
        recipe: "talkdesk",
        token: ("your-account.talkdeskid.com", "/oauth/token"),
        form: vec![("grant_type", "client_credentials"), ("scope", "reports:read"), CLIENT_ASSERTION],
        jwt: Some(client_jwt(Algorithm::ES256, "https://your-account.talkdeskid.com/oauth/token")),
        answer: json!({ "token_type": "Bearer", "expires_in": 600, "scope": "reports:read" }),
        prefix: "eyJhbGciOiJFUzI1NiJ9.",
        api: "api.talkdeskapp.com",
        unauthorized: "",
        ..Vendor::default()
    };
    vendor.works().await;
    vendor.refuses(error(401, "{\"error\":\"invalid_client\"}"), REJECTED).await;
    vendor.refuses(error(400, "{\"error\":\"invalid_scope\"}"), REJECTED).await;
    vendor.passes_on(Answer(429, vec![("retry-after", "10")], "{\"message\":\"Too many requests\"}")).await;
    vendor.links_lead_through_the_proxy(false).await;

    let with_secret = Vendor {
        changes: vec![
            ("client_auth = \"private_key_jwt\"\n", ""),
            ("assertion = ", "#assertion = "),
            ("#client_secret = ", "client_secret = "),
        ],
        form: vec![vendor.form[0], vendor.form[1]],
        basic: Some((CLIENT, secret("TALKDESK_CLIENT_SECRET"))),
        jwt: None,
        ..vendor
    };
    with_secret.works().await;
}
