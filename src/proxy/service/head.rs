//! Rewriting of message heads: a request's for the upstream, a response's for the caller.

use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, TRAILER};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, Version};

use super::Service;
use super::exchange::Exchange;
use super::received::Received;
use super::websocket::Handshake;
use crate::config::HeaderCase;
use crate::http::{TRACEPARENT, TRACESTATE};
use crate::proxy::error::ProxyError;
use crate::proxy::message::forwarded::ForwardedFields;
use crate::proxy::message::headers::OwnFields;
use crate::proxy::message::json_links::JsonLinks;
use crate::proxy::message::{cookies, headers, json, links, trailers};
use crate::proxy::route::Route;
use crate::proxy::upstream::Destination;

/// The properties of a request head that the response head depends on, and that rewriting the request head removes.
pub(super) struct Negotiated {
    version: Version,
    wants_trailers: bool,
    /// The caller's connection is encrypted.
    is_tls: bool,
    /// Scheme and authority of the request, where links in JSON are rewritten.
    proxy_origin: Option<String>,
    /// The caller's WebSocket handshake, where the route allows one.
    pub handshake: Option<Handshake>,
}

impl Service {
    /// Turns the caller's request head into the upstream's, except for the token.
    ///
    /// # Errors
    ///
    /// [`ProxyError::BadRequest`] if the target is too long with the upstream's path in front of it.
    pub(super) fn rewrite_request(
        &self,
        head: &mut Parts,
        received: Received,
        route: &Route,
        destination: &Destination,
    ) -> Result<Negotiated, ProxyError> {
        let Received {
            client_address,
            request_id,
            has_trace,
            is_tls,
            has_body,
            is_of_unknown_length,
            fields,
        } = received;
        let may_switch = route.allows_websocket && !has_body;
        let handshake = if may_switch { Handshake::of(head) } else { None };
        let wants_trailers = fields.has_te() && handshake.is_none() && trailers::are_accepted(&head.headers);
        let proxy_origin = route.rewrite_links.json.then(|| json::proxy_origin(head, is_tls)).flatten();
        let negotiated =
            Negotiated { version: head.version, wants_trailers, is_tls, proxy_origin, handshake };

        if let Some(callers) = &self.shared.callers {
            callers.remove_key(&mut head.headers, fields.has_odd_name());
        }
        let fields_for_upstream = ForwardedFields::of(route.forwarded, head, client_address, is_tls);
        let host = match &route.host {
            Some(host) => host.value.clone(),
            None => self.header_cache.host(route.upstream.index, destination),
        };
        if fields.has_trace() && !has_trace {
            head.headers.remove(TRACEPARENT);
            head.headers.remove(TRACESTATE);
        }
        let own = OwnFields { host, request_id, mark: &self.loop_mark };
        headers::for_upstream(&mut head.headers, own, &route.fields, fields.has_odd_name());
        if route.fields.sends_via {
            self.via.add(&mut head.headers, head.version);
        }
        if let Some(fields_for_upstream) = fields_for_upstream {
            fields_for_upstream.write(&mut head.headers);
        }
        let target = route
            .target(head.uri.path_and_query(), destination)
            .map_err(|_| ProxyError::BadRequest("the path is too long for the upstream"))?;
        head.uri = Uri::from(target);
        head.version = Version::HTTP_11;
        if self.shared.http1.header_case == HeaderCase::Lower {
            head.extensions.clear();
        }

        if negotiated.proxy_origin.is_some() {
            head.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if negotiated.wants_trailers {
            trailers::ask(&mut head.headers);
        }
        if negotiated.handshake.is_some() {
            Handshake::ask(&mut head.headers);
        }
        if is_of_unknown_length {
            headers::frame_in_chunks(&mut head.headers);
        }
        Ok(negotiated)
    }

    /// Turns the upstream's response head into the caller's. Returns the links in the body that are to be rewritten.
    pub(super) fn rewrite_response<B>(
        &self,
        response: &mut Response<B>,
        negotiated: &Negotiated,
        route: &Route,
        destination: &Destination,
    ) -> Option<Box<JsonLinks>> {
        let received_in = std::mem::replace(response.version_mut(), negotiated.version);
        let headers = response.headers_mut();
        let trailers = negotiated.wants_trailers.then(|| trailers::announced(headers)).flatten();
        headers::for_caller(headers, received_in, &self.via);
        headers.extend(trailers.map(|trailers| (TRAILER, trailers)));
        rewrite_fields(headers, route, destination, negotiated.is_tls);
        let proxy_origin = negotiated.proxy_origin.as_ref()?;
        if !json::make_rewritable(response) {
            return None;
        }
        // The paths at the API that this route serves.
        let (base_path, stripped) = (route.base_path(destination), route.prefix.text());
        let served = if stripped.is_empty() { &*route.path } else { "" };
        let path = format!("{base_path}{served}");
        Some(Box::new(JsonLinks::new(
            &origins(route, destination),
            &path,
            format!("{proxy_origin}{}", route.path),
        )))
    }
    /// Sends an interim response of the upstream to the caller. A 100 says nothing to the caller, who gets one from bearerd; a
    /// caller of HTTP/1.0 gets none.
    pub(super) fn relay_interim(
        &self,
        mut interim: Response<()>,
        route: &Route,
        destination: &Destination,
        exchange: &Exchange,
    ) {
        if interim.status() == StatusCode::CONTINUE {
            return;
        }
        let received_in = std::mem::replace(interim.version_mut(), exchange.version);
        let headers = interim.headers_mut();
        headers::for_caller(headers, received_in, &self.via);
        // An interim response has no body (RFC 9110 §15.2).
        headers.remove(CONTENT_LENGTH);
        rewrite_fields(headers, route, destination, exchange.caller.is_tls());
        exchange.caller.send_interim(&exchange.progress, interim);
    }
}

/// Scheme and authority of the API, and of the `Host` that the route sends.
fn origins<'a>(route: &'a Route, destination: &'a Destination) -> [&'a str; 2] {
    let origin = destination.origin.as_str();
    [origin, route.host.as_ref().map_or(origin, |host| &host.origin)]
}

/// Rewrites links and cookies in the fields of a response.
fn rewrite_fields(headers: &mut HeaderMap, route: &Route, destination: &Destination, is_tls: bool) {
    let (base_path, stripped) = (route.base_path(destination), route.prefix.text());
    let origins = origins(route, destination);
    links::through_proxy(headers, &route.rewrite_links.fields, &origins, base_path, stripped);
    if route.rewrite_cookies {
        cookies::through_proxy(headers, base_path, stripped, is_tls);
    }
}
