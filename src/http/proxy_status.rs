//! Why a proxy has no response of the upstream: the error types of `Proxy-Status` (RFC 9209 §2.3).

macro_rules! error_types {
    ($($name:ident => $text:literal,)*) => {
        /// An error type that bearerd reports.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ProxyStatus {
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        impl ProxyStatus {
            /// The error type as registered.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

error_types! {
    ConnectionLimitReached => "connection_limit_reached",
    ConnectionRefused => "connection_refused",
    ConnectionTerminated => "connection_terminated",
    ConnectionTimeout => "connection_timeout",
    DestinationIpProhibited => "destination_ip_prohibited",
    DestinationIpUnroutable => "destination_ip_unroutable",
    DestinationNotFound => "destination_not_found",
    DestinationUnavailable => "destination_unavailable",
    DnsError => "dns_error",
    HttpProtocolError => "http_protocol_error",
    HttpRequestDenied => "http_request_denied",
    HttpRequestError => "http_request_error",
    HttpResponseTimeout => "http_response_timeout",
    ProxyInternalResponse => "proxy_internal_response",
    ProxyLoopDetected => "proxy_loop_detected",
    TlsAlertReceived => "tls_alert_received",
    TlsCertificateError => "tls_certificate_error",
    TlsProtocolError => "tls_protocol_error",
}
