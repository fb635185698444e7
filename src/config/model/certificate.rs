//! Validity and names of a certificate (RFC 5280 §4.1).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::asn1::{
    Ia5StringRef, ObjectIdentifier, PrintableStringRef, TeletexStringRef, Utf8StringRef,
};
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{Any, Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// RFC 5280 appendix A.1, `id-at-commonName`.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The remaining validity below which a warning is due.
pub const EXPIRY_WARNING: Duration = Duration::from_hours(14 * 24);
/// How many certificates a warning names.
const MAX_NAMED: usize = 3;

/// The end of the validity (`notAfter`, §4.1.2.5); `None` if unreadable or unlimited.
pub fn end(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let certificate = Certificate::from_der(certificate).ok()?;
    UNIX_EPOCH.checked_add(certificate.tbs_certificate().validity().not_after.to_unix_duration())
}

/// The begin of the validity (`notBefore`); `None` if unreadable.
pub(in crate::config) fn begin(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let certificate = Certificate::from_der(certificate).ok()?;
    UNIX_EPOCH.checked_add(certificate.tbs_certificate().validity().not_before.to_unix_duration())
}

/// The subject and the alternative names, each as encoded; `None` if the certificate has neither or is unreadable.
pub(in crate::config) fn subject(certificate: &CertificateDer<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let certificate = certificate.tbs_certificate();
    let mut extensions = certificate.extensions().into_iter().flatten();
    let alternatives = extensions.find(|extension| extension.extn_id == SubjectAltName::OID);
    let alternatives = alternatives.map(|extension| extension.extn_value.as_bytes().to_vec());
    if certificate.subject().is_empty() && alternatives.is_none() {
        return None;
    }
    Some((certificate.subject().to_der().ok()?, alternatives.unwrap_or_default()))
}

/// The current time, as certificate verification reads it.
pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(UnixTime::now().as_secs())
}

/// What is wrong with the dates of certificates, or will be within 14 days, as text with the names and the dates.
pub fn validity(certificates: &[CertificateDer<'_>]) -> Option<String> {
    let now = now();
    let mut flaws = certificates.iter().filter_map(|certificate| {
        let flaw = flaw(begin(certificate), end(certificate), now)?;
        Some(format!("{} {flaw}", shown_name(certificate)))
    });
    let named = flaws.by_ref().take(MAX_NAMED).collect::<Vec<_>>().join(", ");
    let text = match flaws.count() {
        0 => named,
        more => format!("{named}, and {more} more"),
    };
    Some(text).filter(|text| !text.is_empty())
}

fn flaw(begin: Option<SystemTime>, end: Option<SystemTime>, now: SystemTime) -> Option<String> {
    if let Some(begin) = begin.filter(|begin| *begin > now) {
        return Some(format!("is not valid before {}", date(begin)));
    }
    let end = end?;
    match end.duration_since(now) {
        Err(_) => Some(format!("expired on {}", date(end))),
        Ok(left) if left.is_zero() => Some(format!("expired on {}", date(end))),
        Ok(left) if left <= EXPIRY_WARNING => {
            let days = left.as_secs() / (24 * 60 * 60);
            Some(format!("expires on {} (in {days} days)", date(end)))
        }
        Ok(_) => None,
    }
}

/// A moment as a date and a time in UTC, for messages.
pub fn date(moment: SystemTime) -> String {
    let moment = jiff::Timestamp::try_from(moment);
    moment.map_or_else(|_| "a date after the year 9999".to_owned(), |moment| moment.to_string())
}

/// A name of the certificate's owner, for messages.
fn shown_name(certificate: &CertificateDer<'_>) -> String {
    let subject = || Some(Certificate::from_der(certificate).ok()?.tbs_certificate().subject().to_string());
    let subject = || subject().filter(|name| !name.is_empty() && !name.chars().any(char::is_control));
    let name = names(certificate).into_iter().next().or_else(subject);
    name.map_or_else(|| "a certificate without a name".to_owned(), |name| format!("`{name}`"))
}

/// The names: `CN=…` for each common name, and `DNS:…`, `URI:…`, `email:…`, `IP:…` for each alternative name
/// (§4.2.1.6). DNS names are lower case; unreadable names are left out.
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let certificate = certificate.tbs_certificate();
    let common = certificate.subject().iter().filter(|attribute| attribute.oid == COMMON_NAME);
    let mut names: Vec<String> =
        common.filter_map(|attribute| text(&attribute.value)).map(|name| format!("CN={name}")).collect();
    if let Ok(Some((_, SubjectAltName(alternatives)))) = certificate.get_extension::<SubjectAltName>() {
        names.extend(alternatives.iter().filter_map(alternative));
    }
    names.retain(|name| !name.chars().any(char::is_control));
    names
}

/// `DirectoryString` (RFC 5280 §4.1.2.4), without its two obsolete forms.
fn text(value: &Any) -> Option<String> {
    let utf8 = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
    let printable = || value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned());
    let teletex = || value.decode_as::<TeletexStringRef<'_>>().map(|text| text.as_str().to_owned());
    let ia5 = || value.decode_as::<Ia5StringRef<'_>>().map(|text| text.as_str().to_owned());
    utf8.or_else(|_| printable()).or_else(|_| teletex()).or_else(|_| ia5()).ok()
}

fn alternative(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(format!("DNS:{}", name.as_str().to_ascii_lowercase())),
        GeneralName::UniformResourceIdentifier(uri) => Some(format!("URI:{}", uri.as_str())),
        GeneralName::Rfc822Name(address) => Some(format!("email:{}", address.as_str())),
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
            let v6 = <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from);
            v4.or(v6).ok().map(|address| format!("IP:{address}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn names_of(params: &CertificateParams) -> Vec<String> {
        names(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    #[test]
    fn a_certificate_ends_when_it_says() {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(1970, 1, 2);
        params.not_after = date_time_ymd(1970, 1, 11);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();

        assert_eq!(begin(certificate.der()), Some(UNIX_EPOCH + Duration::from_hours(24)));
        assert_eq!(end(certificate.der()), Some(UNIX_EPOCH + Duration::from_hours(240)));
        assert_eq!(end(&CertificateDer::from(vec![0x30, 0x00])), None);
    }

    #[test]
    fn certificates_that_end_soon_have_ended_or_are_early_are_named_with_their_dates() {
        let day = Duration::from_hours(24);
        let of = |name: &str, begin: SystemTime, end: SystemTime| {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::OrganizationName, name);
            (params.not_before, params.not_after) = (begin.into(), end.into());
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
        };
        let now = now();
        let (past, future) = (now - 100 * day, now + 100 * day);
        let good = of("good", past, now + 15 * day);
        let soon = of("soon", past, now + 5 * day + day / 2);
        let early = of("early", now + day, future);
        let ended = of("ended", past, now - day);

        assert_eq!(validity(&[]), None);
        assert_eq!(validity(std::slice::from_ref(&good)), None);
        assert_eq!(
            validity(&[good, soon, early.clone(), ended.clone(), ended.clone(), early]).unwrap(),
            format!(
                "`O=soon` expires on {} (in 5 days), `O=early` is not valid before {}, `O=ended` expired on {}, \
                 and 2 more",
                date(now + 5 * day + day / 2),
                date(now + day),
                date(now - day)
            )
        );
        assert!(validity(&[ended]).unwrap().contains(&date(now - day)[..10]));
    }

    #[test]
    fn a_certificate_has_its_common_and_its_alternative_names() {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Billing Ltd");
        params.distinguished_name.push(DnType::CommonName, "billing, DNS:a");
        params.subject_alt_names = vec![
            SanType::DnsName("Billing.Internal".try_into().unwrap()),
            SanType::URI("spiffe://example.org/Billing".try_into().unwrap()),
            SanType::Rfc822Name("a@example.com".try_into().unwrap()),
            SanType::IpAddress([192, 0, 2, 7].into()),
        ];

        assert_eq!(
            names_of(&params),
            [
                "CN=billing, DNS:a",
                "DNS:billing.internal",
                "URI:spiffe://example.org/Billing",
                "email:a@example.com",
                "IP:192.0.2.7"
            ]
        );
    }

    #[test]
    fn a_common_name_is_read_in_every_encoding_but_not_with_control_characters() {
        let named = |value: DnValue| {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, value);
            names_of(&params)
        };

        assert_eq!(named(DnValue::Utf8String("größe".to_owned())), ["CN=größe"]);
        assert_eq!(named(DnValue::PrintableString("billing".try_into().unwrap())), ["CN=billing"]);
        assert_eq!(named(DnValue::Utf8String("billing\0.test".to_owned())), Vec::<String>::new());
        assert_eq!(names(&CertificateDer::from(vec![0x30, 0x00])), Vec::<String>::new());
    }
}
