//! Why a TLS connection that bearerd opens fails, and what an operator can do: one table for token endpoints and upstreams.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};

use crate::config::model::certificate::date;
use crate::peer_text::printable;

/// The cause of a failure and its remedy.
#[derive(Debug, PartialEq, Eq)]
pub struct Advice {
    /// The cause, as a part of a sentence.
    pub cause: &'static str,
    /// The cause, as a sentence for callers.
    pub sentence: &'static str,
    /// The remedy, for operators.
    pub remedy: &'static str,
}

macro_rules! table {
    ($($name:ident: $cause:literal, $remedy:literal;)*) => {
        $(static $name: Advice = Advice {
            cause: concat!("the ", $cause),
            sentence: concat!("TLS with the upstream failed: the ", $cause, ". The proxy did not send the request."),
            remedy: $remedy,
        };)*
        static TABLE: &[&Advice] = &[$(&$name),*];
    };
}

table! {
    UNKNOWN_ISSUER: "server's certificate is not of a trusted authority",
        "set `ca_file` to the certificate of the authority that issued it, or of the TLS-inspecting proxy on the way; have \
         the server send its intermediate certificates";
    BAD_SIGNATURE: "server's certificate is of an authority with the name of a trusted one, but with another key",
        "replace `ca_file` by the present certificate of the authority";
    EXPIRED: "server's certificate has expired",
        "have the server's operator renew it; if it is valid, set the clock of this machine";
    NOT_VALID_YET: "server's certificate is not valid yet",
        "set the clock of this machine, or have the server's operator check the certificate";
    WRONG_NAME: "server's certificate is not valid for the host name in the URL",
        "write a host name that the certificate has (`server_name` of a route, if the URL has to stay), or have it issued \
         with this name as a subject alternative name (the common name does not count)";
    NOT_FOR_SERVERS: "server's certificate is not for servers",
        "have it issued with the extended key usage `serverAuth`";
    AUTHORITY_AS_SERVER: "server presents the certificate of an authority (CA:TRUE) as its own",
        "have the server use a certificate that is no authority (CA:FALSE), issued by this one or self-signed, and set \
         `ca_file` to the issuer";
    SERVER_AS_AUTHORITY: "certificate that issued the server's certificate is not of an authority (CA:TRUE)",
        "have the server's certificate issued by an authority";
    VERSION_1: "server's certificate is of X.509 version 1",
        "have it issued as version 3, with the host name as a subject alternative name";
    OUTSIDE_CONSTRAINTS: "authority may not issue certificates for the host name (name constraints)",
        "have the certificate issued by an authority that may";
    WEAK_SIGNATURE: "server's certificate has a signature that is not supported, such as SHA-1 or a short RSA key",
        "have it issued with SHA-256 and an RSA key of at least 2048 bits or an elliptic curve";
    NO_COMMON_PARAMETERS: "server accepts none of the offered protocol versions and cipher suites, or demands a client \
         certificate",
        "enable TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20, at the server; if it demands a client certificate, \
         set `client_certificate` of the credential or, for an API, of the route";
    OLD_VERSION: "server speaks neither TLS 1.2 nor TLS 1.3", "enable TLS 1.2 or later at the server";
    NEEDS_CERTIFICATE: "server demands a client certificate",
        "set `client_certificate` and `client_key` of the credential or, for an API, of the route";
    REFUSED_CERTIFICATE: "server refuses the client certificate",
        "compare `client_certificate` with what the server expects: its authority, its dates, its names";
    UNKNOWN_NAME: "server does not know the host name in the URL (SNI)", "check the host name in the URL";
    NO_PROTOCOL: "server offers none of the HTTP versions",
        "set `http_version` to a version that the server speaks on this port";
    DAMAGED: "data of the connection was damaged on the way",
        "look for a device on the way that changes TLS records; if there is none, update the server";
    INTERNAL: "server reports an internal error", "see the server's log";
    NOT_TLS: "server does not speak TLS on this port",
        "write the port on which the server speaks TLS; http:// is for servers on this machine only";
}

/// The text of an error with a TLS error among its causes: the error, its cause and the remedy; `None` without such an error. The text
/// of the peer in it is bounded.
pub fn described(error: &(dyn Error + 'static)) -> Option<String> {
    let error = tls_error(error)?;
    let text = printable(&text(error));
    Some(match advice(error) {
        Some(Advice { cause, remedy, .. }) => format!("{text}: {cause}; {remedy}"),
        None => text,
    })
}

/// The text of an alert by which the peer refuses the client certificate, or demands one; `None` for any other error.
pub fn of_client_certificate(error: &(dyn Error + 'static)) -> Option<String> {
    let cause = tls_error(error)?;
    let is_refusal = matches!(cause, rustls::Error::AlertReceived(_))
        && advice(cause).is_some_and(|row| [&NEEDS_CERTIFICATE, &REFUSED_CERTIFICATE].contains(&row));
    if is_refusal { described(error) } else { None }
}

/// The row of the table whose remedy is in a text of [`described`].
pub fn advice_in(text: &str) -> Option<&'static Advice> {
    TABLE.iter().find(|advice| text.contains(advice.remedy)).copied()
}

/// The TLS error among the causes of an error. An `io::Error` does not count the error that it contains among its sources.
fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let contained = || error.downcast_ref::<io::Error>()?.get_ref();
    match (error.downcast_ref(), contained()) {
        (Some(found), _) => Some(found),
        (None, Some(contained)) => tls_error(contained),
        (None, None) => tls_error(error.source()?),
    }
}

/// The text of rustls, with dates in the place of seconds.
fn text(error: &rustls::Error) -> String {
    let at = |seconds: u64| {
        let moment = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds));
        moment.map_or_else(String::new, date)
    };
    match error {
        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
            format!("invalid peer certificate: certificate expired on {}", at(not_after.as_secs()))
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
            format!("invalid peer certificate: certificate not valid before {}", at(not_before.as_secs()))
        }
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            match other.0.downcast_ref::<webpki::Error>() {
                Some(error) => format!("invalid peer certificate: {error:?}"),
                None => error.to_string(),
            }
        }
        error => error.to_string(),
    }
}

fn advice(error: &rustls::Error) -> Option<&'static Advice> {
    use AlertDescription as Alert;
    Some(match error {
        rustls::Error::InvalidCertificate(error) => return of_certificate(error),
        rustls::Error::AlertReceived(alert) => match alert {
            Alert::HandshakeFailure | Alert::InsufficientSecurity => &NO_COMMON_PARAMETERS,
            Alert::ProtocolVersion => &OLD_VERSION,
            Alert::CertificateRequired => &NEEDS_CERTIFICATE,
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied => &REFUSED_CERTIFICATE,
            Alert::UnrecognisedName => &UNKNOWN_NAME,
            Alert::NoApplicationProtocol => &NO_PROTOCOL,
            Alert::BadRecordMac | Alert::DecryptError => &DAMAGED,
            Alert::InternalError => &INTERNAL,
            _ => return None,
        },
        rustls::Error::NoApplicationProtocol => &NO_PROTOCOL,
        rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => &OLD_VERSION,
        rustls::Error::DecryptError => &DAMAGED,
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => &NOT_TLS,
        _ => return None,
    })
}

fn of_certificate(error: &CertificateError) -> Option<&'static Advice> {
    use CertificateError as E;
    Some(match error {
        E::UnknownIssuer => &UNKNOWN_ISSUER,
        E::BadSignature => &BAD_SIGNATURE,
        E::Expired | E::ExpiredContext { .. } => &EXPIRED,
        E::NotValidYet | E::NotValidYetContext { .. } => &NOT_VALID_YET,
        E::NotValidForName | E::NotValidForNameContext { .. } => &WRONG_NAME,
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => &NOT_FOR_SERVERS,
        E::UnsupportedSignatureAlgorithmContext { .. }
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => &WEAK_SIGNATURE,
        E::Other(other) => match other.0.downcast_ref::<webpki::Error>()? {
            webpki::Error::CaUsedAsEndEntity => &AUTHORITY_AS_SERVER,
            webpki::Error::EndEntityUsedAsCa => &SERVER_AS_AUTHORITY,
            webpki::Error::UnsupportedCertVersion => &VERSION_1,
            webpki::Error::NameConstraintViolation => &OUTSIDE_CONSTRAINTS,
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::OtherError;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    /// As the handshake reports it.
    fn said(error: rustls::Error) -> String {
        described(&io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error))).unwrap()
    }

    fn of(error: CertificateError) -> rustls::Error {
        rustls::Error::InvalidCertificate(error)
    }

    fn other(error: webpki::Error) -> rustls::Error {
        of(CertificateError::Other(OtherError(Arc::new(error))))
    }

    #[test]
    fn every_row_of_the_table_is_reached_and_found_again_in_its_text() {
        use rustls::Error::{AlertReceived, InvalidMessage as Message, PeerIncompatible as Incompatible};
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_hours(24));
        let (expected, presented) = (ServerName::try_from("a.test").unwrap(), vec!["b.test".to_owned()]);
        let kind = CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: Vec::new(),
            supported_algorithms: Vec::new(),
        };
        let table: Vec<(rustls::Error, &str, &Advice)> = vec![
            (of(CertificateError::UnknownIssuer), "UnknownIssuer", &UNKNOWN_ISSUER),
            (of(CertificateError::BadSignature), "BadSignature", &BAD_SIGNATURE),
            (
                of(CertificateError::ExpiredContext { time, not_after: time }),
                "certificate expired on 1970-01-02T00:00:00Z",
                &EXPIRED,
            ),
            (
                of(CertificateError::NotValidYetContext { time, not_before: time }),
                "certificate not valid before 1970-01-02T00:00:00Z",
                &NOT_VALID_YET,
            ),
            (
                of(CertificateError::NotValidForNameContext { expected, presented }),
                "not valid for name \"a.test\"; certificate is only valid for b.test",
                &WRONG_NAME,
            ),
            (of(CertificateError::InvalidPurpose), "InvalidPurpose", &NOT_FOR_SERVERS),
            (of(kind), "UnsupportedSignatureAlgorithm", &WEAK_SIGNATURE),
            (other(webpki::Error::CaUsedAsEndEntity), "CaUsedAsEndEntity", &AUTHORITY_AS_SERVER),
            (other(webpki::Error::EndEntityUsedAsCa), "EndEntityUsedAsCa", &SERVER_AS_AUTHORITY),
            (other(webpki::Error::UnsupportedCertVersion), "UnsupportedCertVersion", &VERSION_1),
            (other(webpki::Error::NameConstraintViolation), "NameConstraint", &OUTSIDE_CONSTRAINTS),
            (AlertReceived(AlertDescription::HandshakeFailure), "HandshakeFailure", &NO_COMMON_PARAMETERS),
            (AlertReceived(AlertDescription::ProtocolVersion), "ProtocolVersion", &OLD_VERSION),
            (Incompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13), "Tls12Or13", &OLD_VERSION),
            (AlertReceived(AlertDescription::CertificateRequired), "CertificateRequired", &NEEDS_CERTIFICATE),
            (AlertReceived(AlertDescription::UnknownCA), "UnknownCA", &REFUSED_CERTIFICATE),
            (AlertReceived(AlertDescription::UnrecognisedName), "UnrecognisedName", &UNKNOWN_NAME),
            (AlertReceived(AlertDescription::NoApplicationProtocol), "NoApplicationProtocol", &NO_PROTOCOL),
            (AlertReceived(AlertDescription::BadRecordMac), "BadRecordMac", &DAMAGED),
            (AlertReceived(AlertDescription::InternalError), "InternalError", &INTERNAL),
            (Message(InvalidMessage::InvalidContentType), "InvalidContentType", &NOT_TLS),
        ];
        for (error, words, advice) in &table {
            let text = said(error.clone());
            assert!(text.contains(words), "{text}");
            assert!(text.ends_with(&format!("{}; {}", advice.cause, advice.remedy)), "{text}");
            assert_eq!(advice_in(&text), Some(*advice));
        }
        for advice in TABLE {
            assert!(table.iter().any(|(_, _, reached)| reached == advice), "{advice:?}");
        }
    }

    #[test]
    fn another_error_has_its_own_text_and_a_peers_names_are_bounded() {
        assert_eq!(described(&io::Error::other("x")), None);
        let unexpected = AlertDescription::UnexpectedMessage;
        assert_eq!(said(rustls::Error::AlertReceived(unexpected)), "received fatal alert: UnexpectedMessage");
        let expected = ServerName::try_from("a.test").unwrap();
        let presented = vec!["b\n.test".to_owned(); 10_000];
        let text = said(of(CertificateError::NotValidForNameContext { expected, presented }));
        assert!(text.len() < 500 && !text.contains('\n'), "{text}");
    }
}
