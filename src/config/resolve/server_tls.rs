//! `[server.tls]` and `admin.tls`: the server's certificate, and the authorities of clients' certificates.

use std::path::PathBuf;

use toml::Spanned;

use super::{Resolver, with_cause};
use crate::config::model::server_tls::{ServerTls, TlsFiles, TlsKey};
use crate::config::source::key::Key;
use crate::config::source::schema::Tls;

impl Resolver<'_> {
    /// The files, if they are usable now.
    pub(super) fn server_tls(&mut self, tls: Key<Tls>) -> Option<ServerTls> {
        self.asks_for_certificates =
            tls.usable().map_or(!tls.is_absent(), |tls| !tls.get_ref().client_ca.is_absent());
        self.tls_files("server.tls", tls)
    }

    /// The files of the table, if they are usable now.
    pub(super) fn tls_files(&mut self, table: &str, tls: Key<Tls>) -> Option<ServerTls> {
        let tls = tls.into_usable()?;
        let owner = tls.span();
        let Tls { certificate, private_key, client_ca } = tls.into_inner();
        let help = format!("[{table}] needs `certificate` and `private_key`, each the path of a PEM file");
        let certificate = self.required(&owner, "certificate", &certificate, &help);
        let private_key = self.required(&owner, "private_key", &private_key, &help);
        let (certificate, private_key) = (certificate?, private_key?);
        let absolute = |path: &Spanned<PathBuf>| self.folder.join(path.get_ref());
        let files = TlsFiles {
            certificate: absolute(certificate),
            private_key: absolute(private_key),
            client_ca: client_ca.usable().map(absolute),
        };
        let (fingerprint, read) = files.read();
        let initial = match read {
            Ok(initial) => initial,
            Err(errors) => {
                for error in errors {
                    let place = match error.key {
                        TlsKey::Certificate => certificate.span(),
                        TlsKey::PrivateKey => private_key.span(),
                        TlsKey::ClientCa => client_ca.place().unwrap_or_else(|| owner.clone()),
                    };
                    self.error(place, with_cause(&error), error.help());
                }
                return None;
            }
        };
        self.warn_of_validity(certificate.span(), "certificate", &initial.certified.cert);
        if let Some(place) = client_ca.place() {
            self.warn_of_validity(place, "client_ca", &initial.client_ca);
        }
        Some(ServerTls { files, initial, fingerprint })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Checked, Diagnostics, Environment, parse};

    fn read(folder: &Path, server: &str) -> Result<Checked, Box<Diagnostics>> {
        let text =
            format!("{server}\n[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\n");
        parse(&folder.join("proxy.toml"), text, &Environment::from([]))
    }

    /// The titles of what is wrong with this, where there are no files.
    fn refused(server: &str) -> Vec<String> {
        let problems = read(Path::new("/nowhere"), server).unwrap_err();
        problems.problems().iter().map(|problem| problem.title.clone()).collect()
    }

    const OFF_LOOPBACK: &str = "[server]\nlisten = \"0.0.0.0:1\"\nhosts = [\"gw\"]";

    /// Certificate, key and authority.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let pki = testkit::pki::Pki::new(&["localhost"]).unwrap();
        for (name, content) in [
            ("server.pem", &pki.server().certificate),
            ("key.pem", &pki.server().key),
            ("ca.pem", &pki.authority_pem().to_owned()),
        ] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    #[test]
    fn a_wrong_key_causes_no_further_errors() {
        assert_eq!(
            refused(&format!(
                "{OFF_LOOPBACK}\n[server.tls]\ncertificate = 5\nprivate_key = \"x\"\nclient_ca = 7"
            )),
            [
                "`server.tls.certificate` must be the path of a file, as a string, not a number",
                "`server.tls.client_ca` must be the path of a file, as a string, not a number"
            ]
        );
        assert_eq!(refused(&format!("{OFF_LOOPBACK}\ntls = 5")), ["`server.tls` must be a table"]);
        assert_eq!(
            refused("[server.tls]\nclient_ca = \"x\""),
            ["`certificate` is missing", "`private_key` is missing"]
        );
    }

    #[test]
    fn every_unusable_file_is_reported_at_once() {
        let folder = folder();
        std::fs::write(folder.path().join("empty.pem"), "").unwrap();
        let pem = |name: &str| format!("{}/{name}", folder.path().display());
        let titles = |[certificate, key, ca]: [&str; 3], section: &str| {
            let tls = format!(
                "{section} {{ certificate = \"{certificate}\", private_key = \"{key}\", client_ca = \"{ca}\" }}"
            );
            let problems = read(folder.path(), &tls).unwrap_err();
            problems.problems().iter().map(|problem| problem.title.clone()).collect::<Vec<_>>()
        };
        for section in ["server.tls =", "admin.tls ="] {
            let found = titles(["none.pem", "no.pem", "not.pem"], section);
            for (title, name) in found.iter().zip(["none.pem", "no.pem", "not.pem"]) {
                assert!(title.starts_with(&format!("cannot read {}: No such file", pem(name))), "{found:?}");
            }
            assert_eq!(found.len(), 3);
            assert_eq!(
                titles(["server.pem", "empty.pem", "empty.pem"], section),
                [
                    format!("{} holds no private key in PEM form", pem("empty.pem")),
                    format!("{} holds no certificate in PEM form", pem("empty.pem")),
                ]
            );
            assert_eq!(titles(["empty.pem", "none.pem", "ca.pem"], section).len(), 2);
        }
    }

    #[test]
    fn client_certificate_and_key_are_reported_at_once() {
        let folder = folder();
        std::fs::write(folder.path().join("empty.pem"), "").unwrap();
        for (certificate, key, count) in [
            ("none.pem", "no.pem", 2),
            ("empty.pem", "no.pem", 2),
            ("none.pem", "empty.pem", 2),
            ("server.pem", "empty.pem", 1),
            ("ca.pem", "key.pem", 1),
            ("server.pem", "key.pem", 0),
        ] {
            let route = format!(
                "[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\npath = \"/x\"\n\
                 client_certificate = \"{certificate}\"\nclient_key = \"{key}\"\n"
            );
            let found = read(folder.path(), &route).map_or_else(|problems| problems.errors(), |_| 0);
            assert_eq!(found, count, "{certificate} {key}");
        }
    }

    #[test]
    fn callers_with_certificates_may_call_from_anywhere_unless_networks_are_set() {
        let folder = folder();
        let tls =
            "[server.tls]\ncertificate = \"server.pem\"\nprivate_key = \"key.pem\"\nclient_ca = \"ca.pem\"";
        let networks = |lines: &str| {
            let server = read(folder.path(), &format!("{OFF_LOOPBACK}\n{lines}\n{tls}")).unwrap();
            assert_eq!(server.warnings.warnings(), 0);
            server.config.server.allow_from.iter().map(ToString::to_string).collect::<Vec<_>>()
        };

        assert_eq!(networks(""), ["0.0.0.0/0", "::/0"]);
        assert_eq!(networks("allow_from = [\"10.0.0.0/8\"]"), ["10.0.0.0/8"]);

        let without = tls.replace("client_ca", "#");
        let problems = read(folder.path(), &format!("{OFF_LOOPBACK}\n{without}")).unwrap_err();
        assert!(problems.problems()[0].title.contains("`server.allow_from` is required"), "{problems}");
    }

    #[test]
    fn variables_may_set_the_files_and_certificate_names_are_checked() {
        let folder = folder();
        let variables = [
            ("BEARERD_SERVER__TLS__CERTIFICATE", "server.pem"),
            ("BEARERD_SERVER__TLS__PRIVATE_KEY", "key.pem"),
            ("BEARERD_SERVER__TLS__CLIENT_CA", "ca.pem"),
        ];
        let callers = |names: &str| {
            let text = format!(
                "[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\ncallers = [{names}]\n"
            );
            parse(&folder.path().join("proxy.toml"), text, &Environment::from(variables))
                .map(|checked| checked.config.routes[0].callers.certificates.clone())
        };

        let good = "\"CN=a b\", \"DNS:Billing.Internal\", \"URI:spiffe://x/Y\", \
                    \"IP:192.0.2.1\", \"IP:2001:DB8:0::7\"";
        assert_eq!(
            callers(good).unwrap(),
            ["CN=a b", "DNS:billing.internal", "URI:spiffe://x/Y", "IP:192.0.2.1", "IP:2001:db8::7"]
        );
        for wrong in ["", "billing desk", "CN=", "cn=billing", "DNS:", "O=Billing"] {
            let problems = callers(&format!("\"{wrong}\"")).unwrap_err();
            assert_eq!(problems.problems()[0].title, "not a name of a certificate", "{wrong}");
        }
        for wrong in ["IP:192.0.2.256", "IP:192.0.2.0/24", "IP:[::1]", "IP:billing"] {
            let problems = callers(&format!("\"{wrong}\"")).unwrap_err();
            assert_eq!(problems.problems()[0].title, "not an IP address", "{wrong}");
        }
    }
}
