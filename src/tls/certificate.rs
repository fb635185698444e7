//! What a peer's certificate says of itself (RFC 5280 §4.1).

use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// When it ends (`notAfter`, §4.1.2.5); `None` where it cannot be read, or never ends.
pub fn end(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let certificate = Certificate::from_der(certificate).ok()?;
    UNIX_EPOCH.checked_add(certificate.tbs_certificate().validity().not_after.to_unix_duration())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn a_certificate_ends_when_it_says() {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(1970, 1, 11);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();

        assert_eq!(end(certificate.der()), Some(UNIX_EPOCH + Duration::from_hours(240)));
        assert_eq!(end(&CertificateDer::from(vec![0x30, 0x00])), None);
    }
}
