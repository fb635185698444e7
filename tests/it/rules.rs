//! Rules of routes: allowed and denied requests, header rules, and prefixes.

use tokio::io::AsyncWriteExt;

use crate::harness::{Caller, Http2Caller, Reply, Request, World, daemon};
use testkit::harness::raw::{RawPeer, read_head};

/// Spellings of paths that some server reads as `/api/v2/tokens/me` or as another path that revokes tokens.
const SPELLINGS: &[&str] = &[
    "/api/v2/tokens/me",
    "/api/v2/tokens/me/",
    "/api/v2/tokens/me?x=1",
    "/api/v2/tokens/me?",
    "/api/v2/tokens/7f1f2b1e-0000-4000-8000-000000000000",
    "/api/v2/tokens/",
    "/api/v2/tokens",
    "/API/V2/TOKENS/ME",
    "/Api/v2/Tokens/Me",
    "/api/v2/tokenS/mE",
    "/%61pi/v2/tokens/me",
    "/api/v%32/tokens/me",
    "/api/v2/%74okens/me",
    "/api/v2/%54OKENS/me",
    "/api/v2/tokens/%6d%65",
    "/api/v2/tokens/%4D%45",
    "/%61%70%69/%76%32/%74%6f%6b%65%6e%73/%6D%65",
    "/api/v2/tokens/%6d%65/?x",
    "//api/v2/tokens/me",
    "/api//v2/tokens/me",
    "/api/v2//tokens/me",
    "/api/v2/tokens//me",
    "/api/v2/tokens/me//",
    "///api///v2///tokens///me///",
    "/./api/v2/tokens/me",
    "/api/./v2/tokens/me",
    "/api/v2/tokens/./me",
    "/api/v2/tokens/me/.",
    "/x/../api/v2/tokens/me",
    "/api/v2/users/../tokens/me",
    "/api/v2/tokens/x/../me",
    "/api/v2/tokens/me/x/..",
    "/api/v2/users/%2e%2e/tokens/me",
    "/api/v2/users/%2E./tokens/me",
    "/api/v2/users/.%2e/tokens/me",
    "/api/v2/%2e/tokens/me",
    "/api/v2/users/%252e%252e/tokens/me",
    "/api/v2/users%2f..%2ftokens/me",
    "/api/v2/users/..;/tokens/me",
    "/api/v2/users/..;x=1/tokens/me",
    "/api/v2/users/..%20/tokens/me",
    "/api/v2/tokens;/me",
    "/api/v2/tokens/me;",
    "/api/v2/tokens/me;v=1",
    "/api;x/v2;y/tokens;z/me;w",
    "/;x/api/v2/tokens/me",
    "/api/v2/tokens/me%3b",
    "/api/v2/tokens/me%3Bv=1",
    "/api/v2;a%2fb/tokens/me",
    "/api/v2%2ftokens/me",
    "/api/v2/tokens%2fme",
    "/api/v2/tokens%2Fme",
    "%2fapi/v2/tokens/me",
    "/%2fapi%2fv2%2ftokens%2fme",
    "/api%2Fv2%2Ftokens%2Fme",
    "/api/v2/tokens%252fme",
    "/api/v2/tokens%25252fme",
    "/api/v2/tokens%5cme",
    "/api/v2/tokens\\me",
    "/api/v2/tokens%255Cme",
    "/api/v2/tokens/me%3fx",
    "/api/v2/tokens/me%3Fx/y",
    "/api/v2/tokens/me%23x",
    "/api/v2/tokens/me%2523/../../x",
    "/api/v2/tokens/me.",
    "/api/v2/tokens./me",
    "/api/v2/tokens/me...",
    "/api/v2/tokens/me%20",
    "/api/v2/tokens%20/me",
    "/api/v2/%20tokens/me",
    "/api/v2/tokens/me%09",
    "/api/v2/tok%09ens/me",
    "/api/v2/tokens/me%00",
    "/api/v2/tokens/me%0a",
    "/api/v2/tokens/%256d%2565",
    "/api/v2/%2574okens/me",
    "/api/v2/tokens/m%25%36%35",
    "/api/v2/to%E2%84%AAens/me",
    "/api/v2/token%C5%BF/me",
    "/api/v2/tokens/me%c0%af",
    "/api/v2/tokens%c0%afme",
    "/api/v2/tokens%25c0%25afme",
    "/api/v2/tokens/m%u0065",
    "/api/v2/tokens/me%",
    "/platform/api/v2/tokens/me",
];

fn delete(target: &str) -> Request {
    Request::get(target).method("DELETE")
}

async fn delete_raw(world: &World, target: &str, more: &str) -> Reply {
    send_raw(world, "DELETE", target, more).await
}

async fn send_raw(world: &World, method: &str, target: &str, more: &str) -> Reply {
    let mut caller = Caller::connect(world.address).await;
    let host = world.address;
    caller.write(format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n{more}\r\n").as_bytes()).await;
    caller.read().await.unwrap()
}

/// Sends every spelling in several ways; none may reach the API.
async fn walk(world: &World, prefix: &str) {
    let host = world.address;
    let mut http2 = Http2Caller::connect(world.address).await;
    for path in SPELLINGS {
        let target = format!("{prefix}{path}");
        for reply in [
            delete_raw(world, &target, "").await,
            send_raw(world, "dElete", &target, "").await,
            delete_raw(world, &format!("http://{host}{target}"), "").await,
            delete_raw(world, &target, "x-http-method-override: GET\r\n").await,
        ] {
            let code = reply.code();
            assert!(
                matches!(code.as_deref(), Some("request_denied" | "bad_request" | "route_not_found")),
                "{target}: {} {code:?}",
                reply.status
            );
        }
        // Spellings that a client library can send.
        if format!("http://{host}{target}").parse::<http::Uri>().is_ok_and(|uri| uri.path().starts_with('/'))
        {
            let reply = http2.send(&delete(&target)).await;
            assert!(reply.code().is_some(), "HTTP/2 {target}: {}", reply.status);
        }
    }
    assert!(world.upstream.requests().is_empty(), "{:#?}", world.upstream.requests());
}

#[tokio::test]
async fn no_spelling_of_a_revocation_path_reaches_the_api() {
    assert!(SPELLINGS.len() >= 60);
    for (prefix, route) in [
        ("", ""),
        ("", "encoded = \"opaque\"\nallow = [\"* /**\"]"),
        ("", "deny = [\"GET /x\"]"),
        ("/gen", "path = \"/gen\"\nstrip_prefix = true\nencoded = \"opaque\""),
        ("/gen", "path = \"/gen\"\nstrip_prefix = true"),
        ("", "path = \"/api\"\nencoded = \"opaque\""),
    ] {
        let world = daemon().quiet().credential("provider = \"genesys\"").route(route).start().await;
        walk(&world, prefix).await;
        // Other paths are forwarded.
        let target = if route.contains("/gen") { "/gen/api/v2/users/me" } else { "/api/v2/users/me" };
        assert_eq!(world.send(&delete(target)).await.status, 200, "{route}");
        world.finish().await;
    }
}

#[tokio::test]
async fn no_spelling_circumvents_a_configured_deny() {
    let world = daemon()
        .quiet()
        .route("deny = [\"DELETE /**/api/v2/tokens/**\"]\nencoded = \"opaque\"")
        .start()
        .await;

    walk(&world, "").await;
    assert_eq!(world.get("/api/v2/tokens/me").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn another_route_does_not_circumvent_a_routes_rules() {
    let below = |rule: &str| {
        format!(
            "[[routes]]\npath = \"/api\"\nupstream = \"{{upstream}}\"\ncredential = \"api\"\nca_file = \"ca.pem\"\n{rule}\n"
        )
    };
    for rule in ["deny = [\"* /api/admin/**\"]", "allow = [\"GET /api/users\"]"] {
        let world = daemon().quiet().route(&below(rule)).start().await;
        for path in ["//api/admin/x", "/;a/api/admin/x", "/api%2fadmin/x", "/%2fapi/admin/x"] {
            assert_eq!(world.get(path).await.code().as_deref(), Some("bad_request"), "{rule}: {path}");
        }
        assert_eq!(world.get("/api/admin/x").await.code().as_deref(), Some("request_denied"), "{rule}");
        assert_eq!(world.get("/elsewhere").await.status, 200, "{rule}");
        world.finish().await;
    }
    // Without a rule of another route the path is forwarded.
    let world = daemon().quiet().route(&below("")).start().await;
    assert_eq!(world.get("//api/admin/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_method_override_field_is_refused() {
    let world = daemon().quiet().credential("provider = \"genesys\"").start().await;
    let names =
        ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL"];

    for name in names {
        let replaces_path = name.ends_with("URL");
        let value = if replaces_path { "/api/v2/tokens/me" } else { "DELETE" };
        let reply = world.send(&Request::post("/api/v2/tokens/me", b"").field(name, value)).await;
        // A path is matched and sent as it is, whatever the field says. Without its field, the method would be another.
        let code = if replaces_path { None } else { Some("bad_request") };
        assert_eq!(reply.code().as_deref(), code, "{name}");
        let spelt = name.replace('-', "_");
        for spelt in
            [spelt.clone(), spelt.to_lowercase(), name.replacen('-', "_", 1), name.replacen('-', ".", 1)]
        {
            let reply = world.send(&Request::post("/api/v2/tokens/me", b"").field(&spelt, value)).await;
            assert_eq!(reply.code().as_deref(), Some("bad_request"), "{spelt}");
        }
    }

    let requests = world.upstream.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.method, "POST");
        assert!(names.iter().all(|name| request.get(&name.to_lowercase()).is_none()), "{request:?}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_method_override_field_is_passed_where_the_route_lists_it() {
    let world = daemon().quiet().route("[routes.headers]\npass = [\"X-HTTP-Method\"]").start().await;
    for (name, code) in [("X-Http-Method", None), ("X-HTTP-Method-Override", Some("bad_request"))] {
        let reply = world.send(&Request::post("/x", b"").field(name, "DELETE")).await;
        assert_eq!(reply.code().as_deref(), code, "{name}");
    }
    assert_eq!(world.upstream.requests()[0].get("x-http-method"), Some("DELETE"));
    world.finish().await;
}

#[tokio::test]
async fn a_request_that_is_not_allowed_gets_403_and_its_connection_closes() {
    let world = daemon()
        .quiet()
        .route(
            "allow = [\"GET /api/**\", \"POST /api/users/search\"]\ndeny = [\"GET /api/secret-reports/**\"]",
        )
        .start()
        .await;

    for request in [
        Request::get("/api/users?x"),
        Request::get("/%61pi/users"),
        Request::get("/api/users").method("HEAD"),
        Request::post("/api/users/search", b"{}"),
    ] {
        assert_eq!(world.send(&request).await.status, 200, "{request:?}");
    }
    for (request, why) in [
        (Request::get("/other"), "No pattern in `allow`"),
        (Request::get("/API/users"), "No pattern in `allow`"),
        (Request::post("/api/users", b"a body"), "No pattern in `allow`"),
        (Request::get("/api/users").method("DELETE"), "No pattern in `allow`"),
        (Request::get("/api/secret-reports/7"), "A pattern in `deny`"),
        (Request::get("/api/Secret-Reports/"), "A pattern in `deny`"),
    ] {
        let mut caller = world.caller().await;
        let reply = caller.send(&request).await;
        assert_eq!((reply.status, reply.code().as_deref()), (403, Some("request_denied")), "{request:?}");
        assert!(reply.text().contains(why), "{}", reply.text());
        assert!(
            !reply.text().contains("search") && !reply.text().contains("secret-reports"),
            "no list of rules"
        );
        assert_eq!(reply.get("proxy-status"), Some("bearerd; error=http_request_denied"));
        assert!(caller.is_closed().await);

        let mut http2 = Http2Caller::connect(world.address).await;
        assert_eq!(http2.send(&request).await.code().as_deref(), Some("request_denied"));
        assert_eq!(http2.send(&Request::get("/api/x")).await.status, 200, "the connection goes on");
    }
    assert_eq!(world.get("/api/a%2fb").await.code().as_deref(), Some("bad_request"));
    world.finish().await;
}

#[tokio::test]
async fn a_login_is_answered_whatever_the_routes_rules_and_prefix() {
    let world = daemon()
        .quiet()
        .credential("provider = \"genesys\"")
        .route("path = \"/gen\"\nstrip_prefix = true\nallow = [\"GET /gen/api/**\"]")
        .start()
        .await;

    let reply = world.send(&Request::post("/gen/oauth/token", b"grant_type=client_credentials")).await;
    assert!(reply.is_stub());
    assert!(world.upstream.requests().is_empty());
    world.finish().await;
}

#[tokio::test]
async fn encoded_ids_arrive_unchanged_where_encoding_is_opaque() {
    let world = daemon()
        .quiet()
        .route("path = \"/ids\"\nallow = [\"GET /ids/*\"]\nencoded = \"opaque\"")
        .start()
        .await;
    let ids = ["/ids/a%2Fb", "/ids/a%252fb", "/ids/a%20b", "/ids/a;b=c", "/ids/100%25", "/ids/a%3Fb%23c"];

    for id in ids {
        assert_eq!(world.get(id).await.status, 200, "{id}");
    }
    for (path, code) in [
        ("/ids/a/b", "request_denied"),
        ("/ids//a", "request_denied"),
        ("/ids/a%2f..%2fb", "bad_request"),
        ("/ids/../x", "bad_request"),
    ] {
        assert_eq!(world.get(path).await.code().as_deref(), Some(code), "{path}");
    }

    let arrived: Vec<String> = world.upstream.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(arrived, ids);
    world.finish().await;

    let strict = daemon().quiet().route("encoded = \"refuse\"").start().await;
    assert_eq!(strict.get("/ids/a%2Fb").await.code().as_deref(), Some("bad_request"));
    assert_eq!(strict.get("/ids/a%C3%A9").await.status, 200);
    strict.finish().await;
}

#[tokio::test]
async fn a_stripped_prefix_is_restored_in_locations() {
    let peer = RawPeer::tcp(|mut stream| async move {
        let host = stream.local_addr().unwrap();
        let head = String::from_utf8(read_head(&mut stream).await).unwrap();
        let target = head.split(' ').nth(1).unwrap().to_owned();
        let location = match target.as_str() {
            "/base/absolute" => format!("http://{host}/base/users?page=2"),
            "/base/path" => "/base/users".to_owned(),
            "/base/root" => "/base".to_owned(),
            "/base/relative" => "users?page=2".to_owned(),
            "/base/beside" => "/other".to_owned(),
            "/base/away" => "https://elsewhere.test/base/users".to_owned(),
            other => format!("seen:{other}"),
        };
        let head =
            "HTTP/1.1 302 Found\r\ncontent-length: 0\r\nconnection: close\r\nset-cookie: a=1; Path=/base";
        stream.write_all(format!("{head}\r\nlocation: {location}\r\n\r\n").as_bytes()).await.unwrap();
    })
    .await;
    let world = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .upstream(format!("http://{}/base", peer.address))
        .route("path = \"/desk/api\"\nstrip_prefix = true")
        .start()
        .await;
    let ask = async |target: &str| {
        let mut caller = world.caller().await;
        caller.write(format!("GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
        let reply = caller.read().await.unwrap();
        assert_eq!(reply.get("set-cookie"), Some("a=1; Path=/base"));
        reply.get("location").unwrap().to_owned()
    };

    for (target, location) in [
        ("/desk/api/absolute", "/desk/api/users?page=2"),
        ("/desk/api/path", "/desk/api/users"),
        ("/desk/api/root", "/desk/api"),
        ("/desk/api/relative", "users?page=2"),
        ("/desk/api/beside", "/other"),
        ("/desk/api/away", "https://elsewhere.test/base/users"),
        ("/desk/api", "seen:/base"),
        ("/desk/api/", "seen:/base/"),
        ("/desk/api?q=/a", "seen:/base?q=/a"),
        ("/%64esk/api/%61?q=/a", "seen:/base/%61?q=/a"),
        ("/desk/api/desk/api/x", "seen:/base/desk/api/x"),
    ] {
        assert_eq!(ask(target).await, location, "{target}");
    }
    world.finish().await;
}

#[tokio::test]
async fn the_routes_header_rules_are_applied() {
    let world = daemon()
        .quiet()
        .route(
            "[routes.headers]\npass = [\"X-Real-IP\", \"X-Original-URL\"]\nremove = [\"Cookie\", \"X-Debug\"]\n\
             set_if_absent = { Accept = \"application/json\", X-Locale = \"de\" }\nset = { X-Tenant = \"ours\" }",
        )
        .start()
        .await;
    let request = Request::get("/x")
        .field("cookie", "a=1")
        .field("x-debug", "1")
        .field("x-real-ip", "192.0.2.1")
        .field("x-original-url", "/y")
        .field("x-rewrite-url", "/z")
        .field("x-forwarded-for", "192.0.2.1")
        .field("x-locale", "fr")
        .field("x-tenant", "theirs")
        .field("x-tenant", "another")
        .field("X_Tenant", "theirs")
        .field("X_Debug", "1")
        .field("x.debug", "1")
        .field("client_id", "mulesoft")
        .field("connection", "x-tenant, accept");
    assert_eq!(world.send(&request).await.status, 200);

    // The replay has the same fields.
    world.authorization.revoke_all();
    assert_eq!(world.send(&request).await.status, 200);

    let requests = world.upstream.requests();
    assert_eq!(requests.len(), 3);
    for seen in requests {
        let tenants = seen.fields.iter().filter(|(name, _)| name == "x-tenant").count();
        assert_eq!((tenants, seen.get("x-tenant")), (1, Some("ours")));
        assert_eq!(seen.get("accept"), Some("application/json"));
        assert_eq!(seen.get("x-locale"), Some("fr"));
        assert_eq!(seen.get("x-real-ip"), Some("192.0.2.1"));
        assert_eq!(seen.get("x-original-url"), Some("/y"));
        assert_eq!(seen.get("client_id"), Some("mulesoft"));
        for gone in
            ["cookie", "x-debug", "x_debug", "x.debug", "x_tenant", "x-rewrite-url", "x-forwarded-for"]
        {
            assert_eq!(seen.get(gone), None, "{gone}");
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn routes_of_cxone_have_an_accept_field() {
    let preset = "provider = \"cxone\"\ngrant = \"client_credentials\"";
    let world = daemon().quiet().credential(preset).start().await;
    world.get("/x").await;
    world.send(&Request::get("/x").field("accept", "text/csv")).await;
    world.send(&Request::get("/x").field("connection", "accept").field("accept", "text/csv")).await;

    let accepts = world.upstream.requests();
    let accepts: Vec<_> = accepts.iter().map(|request| request.get("accept").unwrap()).collect();
    assert_eq!(accepts, ["application/json", "text/csv", "application/json"]);
    world.finish().await;

    let own = daemon()
        .quiet()
        .credential(preset)
        .route("[routes.headers]\nset_if_absent = { Accept = \"text/xml\" }")
        .start()
        .await;
    own.get("/x").await;
    assert_eq!(own.upstream.requests()[0].get("accept"), Some("text/xml"));
    own.finish().await;
}
