//! Any address that an issuer's document may name: what is accepted is https, and under the issuer's domain.

use bearerd::token::api_discovery::address::accept;

pub fn run(api_endpoint: &[u8]) {
    let Ok(api_endpoint) = std::str::from_utf8(api_endpoint) else { return };
    let Ok(issuer) = "https://cxone.niceincontact.com".parse() else { return };
    if let Ok(found) = accept(api_endpoint, &issuer) {
        let host = found.address.authority.host();
        assert!(host == "niceincontact.com" || host.ends_with(".niceincontact.com"));
        assert!(found.address.scheme == http::uri::Scheme::HTTPS);
        assert!(found.address.authority.port().is_none());
    }
}
