//! `assertion` of a credential: a JWT that the daemon signs, or the file of one that another process keeps fresh.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::Resolver;
use super::fallback::Grants;
use crate::config::model::identity::{Assertion, Claims, DEFAULT_JWT_LIFETIME, SignedAssertion};
use crate::config::model::secret::{Secret, SecretForm, SecretSource};
use crate::config::model::signing_key::SigningAlgorithm;
use crate::config::source::choice;
use crate::config::source::key::Key;
use crate::config::source::schema::{self, ClaimsByName};
use crate::config::source::units;

/// Servers refuse more than an hour.
const MAX_LIFETIME: Duration = Duration::from_mins(55);

const KEY_HELP: &str = "`alg` is \"RS256\" or \"PS256\" for an RSA key, \"ES256\" for a key on the curve P-256, \"ES384\" for \
                        one on P-384";
const CERTIFIED_KEY_HELP: &str = "with `x5t`, `key` is one PEM text with the private key, which fits `alg`, and its \
                                  certificate";

/// Audience, additional claims and lifetime of the JWTs.
pub(super) type JwtContent = (String, Claims, Duration);

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
            ("lifetime", assertion.lifetime.place(), true, ""),
            ("x5t", assertion.x5t.place(), has_key, no_key),
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
        content: Option<JwtContent>,
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
        let has_thumbprint = assertion.x5t.known_or(false)?;
        let (form, help) = if has_thumbprint {
            (SecretForm::CertifiedKey(algorithm), CERTIFIED_KEY_HELP)
        } else {
            (SecretForm::PrivateKey(algorithm), KEY_HELP)
        };
        let key = self.secret_as(source, form, help)?;
        let text = |key: &Key<String>| key.usable().map(|text| text.get_ref().clone());
        let subject = text(&assertion.sub).or_else(|| client_id.map(str::to_owned));
        let kid = text(&assertion.kid);
        let (audience, claims, lifetime) = content?;
        Some(Assertion::Signed(Box::new(SignedAssertion {
            key,
            kid,
            algorithm,
            audience,
            // An empty text is no subject.
            subject: Some(subject?).filter(|subject| !subject.is_empty()),
            claims,
            lifetime,
            has_thumbprint,
        })))
    }

    fn assertion_file(&mut self, file: &Spanned<PathBuf>) -> Option<Secret> {
        let source = Spanned::new(file.span(), SecretSource::File(file.get_ref().clone()));
        let help = "`file` is the path of a file with an assertion, and nothing else";
        self.secret_as(&source, SecretForm::Assertion, help)
    }

    /// The time from a token request to `exp` of its JWT.
    pub(super) fn lifetime(&mut self, lifetime: Option<&Spanned<units::Duration>>) -> Duration {
        let Some(written) = lifetime else { return DEFAULT_JWT_LIFETIME };
        let lifetime = written.get_ref().0;
        if lifetime.is_zero() || lifetime > MAX_LIFETIME {
            let help = "a JWT is for one token request: a few minutes are enough";
            self.error(written.span(), "must be longer than zero, and at most 55 minutes", help);
        }
        lifetime
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
