//! Rewriting of message heads: a request's for the upstream, a response's for the caller.

use http::header::{ACCEPT_ENCODING, TRAILER};
use http::request::Parts;
use http::{HeaderValue, Response, Uri, Version};

use super::Service;
use super::exchange::Exchange;
use super::websocket::Handshake;
use crate::config::HeaderCase;
use crate::http::{TRACEPARENT, TRACESTATE};
use crate::proxy::body::replay::ReplayBody;
use crate::proxy::downstream::request_body::ClientBody;
use crate::proxy::error::ProxyError;
use crate::proxy::message::forwarded::ForwardedFields;
use crate::proxy::message::headers::OwnFields;
use crate::proxy::message::json_links::JsonLinks;
use crate::proxy::message::{cookies, headers, json, links, trailers};
use crate::proxy::route::Route;
use crate::proxy::route::guard::Present;
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
        request_body: &ReplayBody<ClientBody>,
        route: &Route,
        destination: &Destination,
        exchange: &Exchange,
        fields: Present,
    ) -> Result<Negotiated, ProxyError> {
        let may_switch = route.allows_websocket && request_body.is_at_end();
        let handshake = if may_switch { Handshake::of(head) } else { None };
        let wants_trailers = fields.has_te() && handshake.is_none() && trailers::are_accepted(&head.headers);
        let is_tls = exchange.caller.is_tls();
        let proxy_origin = route.rewrite_links.json.then(|| json::proxy_origin(head, is_tls)).flatten();
        let negotiated =
            Negotiated { version: head.version, wants_trailers, is_tls, proxy_origin, handshake };

        let fields_for_upstream = ForwardedFields::of(route.forwarded, head, exchange.origin(), is_tls);
        let host = match &route.host {
            Some(host) => host.value.clone(),
            None => self.header_cache.host(route.upstream.index, destination),
        };
        if fields.has_trace() && exchange.trace.is_none() {
            head.headers.remove(TRACEPARENT);
            head.headers.remove(TRACESTATE);
        }
        let own = OwnFields { host, request_id: exchange.request_id.value().clone(), mark: &self.loop_mark };
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
        if request_body.is_of_unknown_length() {
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
        let base_path = route.base_path(destination);
        let origin = destination.origin.as_str();
        let origins = [origin, route.host.as_ref().map_or(origin, |host| &host.origin)];
        let stripped = route.prefix.text();
        links::through_proxy(headers, &route.rewrite_links.fields, &origins, base_path, stripped);
        if route.rewrite_cookies {
            cookies::through_proxy(headers, base_path, stripped, negotiated.is_tls);
        }
        let proxy_origin = negotiated.proxy_origin.as_ref()?;
        if !json::make_rewritable(response) {
            return None;
        }
        // The paths at the API that this route serves.
        let served = if stripped.is_empty() { &*route.path } else { "" };
        let path = format!("{base_path}{served}");
        Some(Box::new(JsonLinks::new(&origins, &path, format!("{proxy_origin}{}", route.path))))
    }
}
