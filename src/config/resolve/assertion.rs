//! `assertion` of a credential: a JWT that the daemon signs, or the file of one that another process keeps fresh.

use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;

use super::Resolver;
use super::fallback::Grants;
use crate::config::model::identity::{Assertion, Claims, SignedAssertion};
use crate::config::model::secret::{Secret, SecretForm, SecretSource};
use crate::config::model::signing_key::SigningAlgorithm;
use crate::config::source::choice;
use crate::config::source::key::Key;
use crate::config::source::schema::{self, ClaimsByName};

impl Resolver<'_> {
    /// Refuses keys of `assertion` without effect.
    pub(super) fn refuse_unused_parts(
        &mut self,
        assertion: &schema::Assertion,
        grants: Grants,
        auth: choice::ClientAuth,
    ) {
        let is_jwt_bearer = grants.have(choice::Grant::JwtBearer);
        let has_key = is_jwt_bearer || auth == choice::ClientAuth::PrivateKeyJwt;
        let is_signed = assertion.file.usable().is_none() || !has_key;
        let no_key =
            "\"client_secret_jwt\" signs with the client secret (HS256); only \"private_key_jwt\" has a key";
        let no_subject =
            "`sub` of client authentication is the client id; `sub` is for grant = \"jwt_bearer\"";
        let not_signed =
            "the assertion in `file` has its own signature and claims: remove `file` or this key";
        for (key, place, is_used, help) in [
            ("key", assertion.key.place(), has_key, no_key),
            ("kid", assertion.kid.place(), has_key, no_key),
            ("alg", assertion.alg.place(), has_key, no_key),
            ("file", assertion.file.place(), has_key, no_key),
            ("aud", assertion.aud.place(), true, ""),
            ("sub", assertion.sub.place(), is_jwt_bearer, no_subject),
            ("claims", assertion.claims.place(), true, ""),
        ] {
            let Some(place) = place else { continue };
            if !is_signed && key != "file" {
                self.error(place, format!("`{key}` of `assertion` is not used beside `file`"), not_signed);
            } else if !is_used {
                self.error(place, format!("`{key}` of `assertion` is not used here"), help);
            }
        }
    }

    pub(super) fn assertion(
        &mut self,
        owner: &Range<usize>,
        assertion: &Key<schema::Assertion>,
        client_id: Option<&str>,
        audience: Option<String>,
        claims: Claims,
    ) -> Option<Assertion<Secret>> {
        const HELP: &str = "write assertion = { key = { file = \"/run/secrets/key.pem\" }, alg = \"RS256\" }";
        let written = self.required(owner, "assertion", assertion, HELP)?;
        let assertion = written.get_ref();
        if !assertion.file.is_absent() {
            return self.assertion_file(assertion.file.usable()?).map(Assertion::File);
        }
        if assertion.key.is_absent() {
            let help = "write assertion = { key = { file = \"/run/secrets/key.pem\" }, alg = \"RS256\" }, or \
                        { file = \"/run/secrets/token\" } for an assertion that another process keeps fresh";
            return self.refuse(written.span(), "`assertion` lacks `key`, the private key", help);
        }
        let source = assertion.key.usable()?;
        let Some(algorithm) = assertion.alg.known_or(SigningAlgorithm::Rs256) else {
            self.secret(source);
            return None;
        };
        let help = "`alg` is \"RS256\" or \"PS256\" for an RSA key, \"ES256\" for a key on the curve P-256, \
                    \"ES384\" for one on P-384";
        let key = self.secret_as(source, SecretForm::PrivateKey(algorithm), help)?;
        let text = |key: &Key<String>| key.usable().map(|text| text.get_ref().clone());
        let subject = text(&assertion.sub).or_else(|| client_id.map(str::to_owned));
        let kid = text(&assertion.kid);
        Some(Assertion::Signed(SignedAssertion {
            key,
            kid,
            algorithm,
            audience: audience?,
            subject: subject?,
            claims,
        }))
    }

    fn assertion_file(&mut self, file: &Spanned<PathBuf>) -> Option<Secret> {
        let source = Spanned::new(file.span(), SecretSource::File(file.get_ref().clone()));
        let help = "`file` is the path of a file with an assertion, and nothing else";
        self.secret_as(&source, SecretForm::Assertion, help)
    }

    /// The additional claims; those that every JWT has are refused.
    pub(super) fn claims(&mut self, claims: Option<&Spanned<ClaimsByName>>) -> Claims {
        let mut usable = Claims::new();
        for (name, value) in claims.into_iter().flat_map(Spanned::get_ref) {
            let help = match name.get_ref().as_str() {
                "iss" => "`client_id` sets this claim",
                "sub" => "`sub` of `assertion` sets this claim; for client authentication, `client_id` does",
                "aud" => "`aud` of `assertion` sets this claim",
                "exp" | "iat" | "nbf" | "jti" => "bearerd sets this claim for each request: remove the claim",
                _ => {
                    let value = value.as_ref().map(|value| value.get_ref().0.clone());
                    usable.extend(value.map(|value| (name.get_ref().clone(), value)));
                    continue;
                }
            };
            self.error(name.span(), format!("`claims` must not hold `{}`", name.get_ref()), help);
        }
        usable
    }
}

#[cfg(test)]
mod tests;
