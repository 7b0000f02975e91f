//! Who is asking: what tells one caller from another.
//!
//! Its one rule: a caller that cannot be told is never taken for another one, and shares nothing unless the operator
//! says so.
//! It does not verify a credential: it believes what the filters before this one let through.

use std::fmt;

use crate::authorization::shows_nothing;
use crate::config::{Anonymous, Part, Policy};
use crate::digest::Digest;
use crate::form;
use crate::source::{Fault, Request, read_lines};

/// Who is asking, as far as the scope tells callers apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Shows these credentials, one for each part of the scope that is present. Never an empty list.
    Known(Vec<Credential>),
    /// Shows no credential at all, where the operator lets all such requests share one scope.
    Anonymous,
    /// Cannot be told: not to be mixed with any other.
    Absent,
    /// Cannot be told, and is refused.
    Refused,
}

/// What one part of the scope found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The kind of the part, so that user 42 and client 42 are two.
    kind: &'static str,
    /// Its name: of the header, the cookie, the claim.
    name: String,
    /// The lines that it had.
    lines: Vec<Vec<u8>>,
}

impl fmt::Display for Credential {
    /// Where it stood, without what stood there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl Caller {
    /// Reads who is asking.
    pub fn read(policy: &Policy, request: &Request<'_>) -> Self {
        let scope = &policy.scope;
        let parts: Result<Vec<_>, Fault> = scope.caller.iter().map(|part| credential(part, request)).collect();
        let is_readable = parts.is_ok();
        // A caller with a credential that cannot be read is not told by the other parts either.
        let parts = parts.unwrap_or_default();
        // Beside a part that is a credential any other narrows only: all users of one tenant are not one caller.
        let is_credential: Vec<bool> = scope.caller.iter().map(is_credential).collect();
        let tells = |index: usize| is_credential.get(index) == Some(&true) || !is_credential.contains(&true);
        let is_told = parts.iter().enumerate().any(|(index, found)| found.is_some() && tells(index));
        let shown: Vec<_> = parts.into_iter().flatten().collect();
        match scope.anonymous {
            _ if is_told => Caller::Known(shown),
            Anonymous::Refuse => Caller::Refused,
            Anonymous::Share if is_readable && !shows_credential(request) => match shown.is_empty() {
                true => Caller::Anonymous,
                // What narrows keeps those who share apart.
                false => Caller::Known(shown),
            },
            // A key that must be there would not be honoured.
            Anonymous::Auto | Anonymous::Share if policy.key.required => Caller::Refused,
            Anonymous::Auto | Anonymous::Share => Caller::Absent,
        }
    }

    /// Adds who is asking to the hash that names a record.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        match self {
            Caller::Known(credentials) => {
                digest.part("callers", &(credentials.len() as u32).to_le_bytes());
                for Credential { kind, name, lines } in credentials {
                    digest.part("kind", kind.as_bytes());
                    digest.part("name", name.as_bytes());
                    digest.list("caller", lines.iter().map(Vec::as_slice));
                }
            }
            Caller::Anonymous | Caller::Absent | Caller::Refused => digest.part("anonymous", b""),
        }
    }
}

/// Whether the connection shows a certificate of its client.
pub fn has_certificate(request: &Request<'_>) -> bool {
    request.attribute(&["connection", "mtls"]).is_some_and(|flag| flag.contains(&1))
}

/// Whether there is any well-known credential, wherever the scope looks.
fn shows_credential(request: &Request<'_>) -> bool {
    request.head.headers.iter().any(|(name, value)| !value.trim_ascii().is_empty() && is_well_known(name))
        || request
            .head
            .query()
            .is_some_and(|query| QUERIES.iter().any(|name| !form::urlencoded(query, name).is_empty()))
        || has_certificate(request)
}

/// Query parameters that show a credential (RFC 6750, section 2.3).
const QUERIES: [&str; 3] = ["access_token", "api_key", "apikey"];

/// Whether this is a header of the list, also where a client writes `_` for `-`.
fn is_well_known(header: &[u8]) -> bool {
    let is = |known: &str| {
        let same = |(a, b): (&u8, u8)| *a == b || (*a == b'_' && b == b'-');
        known.len() == header.len() && header.iter().zip(known.bytes()).all(same)
    };
    CREDENTIALS.into_iter().any(is)
}

/// Whether this part of the scope is a credential, so that it tells a caller by itself.
pub fn is_credential(part: &Part) -> bool {
    match part {
        Part::Any(parts) => parts.iter().any(is_credential),
        Part::Header(name) => is_well_known(name.as_bytes()),
        Part::Authorization { .. } | Part::Cookie(_) | Part::JwtClaim(_) | Part::Property(_) | Part::Signer => true,
        Part::Form(_) | Part::Json(_) | Part::PathSegment(_) | Part::Query(_) => false,
    }
}

/// Headers that show a credential, or that a gateway in front writes for a caller it has verified: a request that has
/// one is not anonymous. docs/keys.md lists them.
pub const CREDENTIALS: [&str; 63] = [
    "access-token",
    "api-key",
    "apikey",
    "authorization",
    "cf-access-jwt-assertion",
    "client-cert",
    "cookie",
    "dpop",
    "ocp-apim-subscription-key",
    "private-token",
    "proxy-authorization",
    "remote-user",
    "signature",
    "signature-input",
    "x-access-token",
    "x-amz-security-token",
    "x-amzn-mtls-clientcert",
    "x-amzn-mtls-clientcert-leaf",
    "x-amzn-oidc-accesstoken",
    "x-amzn-oidc-data",
    "x-amzn-oidc-identity",
    "x-api-key",
    "x-api-token",
    "x-apigateway-api-userinfo",
    "x-arr-clientcert",
    "x-auth",
    "x-auth-request-access-token",
    "x-auth-request-email",
    "x-auth-request-user",
    "x-auth-token",
    "x-auth-user",
    "x-authenticated-user",
    "x-authenticated-userid",
    "x-authorization",
    "x-client-id",
    "x-consumer-id",
    "x-consumer-username",
    "x-credential-identifier",
    "x-endpoint-api-userinfo",
    "x-forwarded-access-token",
    "x-forwarded-client-cert",
    "x-forwarded-email",
    "x-forwarded-tls-client-cert",
    "x-forwarded-user",
    "x-functions-key",
    "x-gitlab-token",
    "x-goog-api-key",
    "x-goog-authenticated-user-email",
    "x-goog-authenticated-user-id",
    "x-goog-iap-jwt-assertion",
    "x-id-token",
    "x-jwt-assertion",
    "x-jwt-payload",
    "x-ms-client-principal",
    "x-ms-client-principal-id",
    "x-remote-user",
    "x-session-token",
    "x-shopify-access-token",
    "x-token",
    "x-user",
    "x-user-email",
    "x-user-id",
    "x-vault-token",
];

/// What this part of the scope finds; none where it is absent.
fn credential(part: &Part, request: &Request<'_>) -> Result<Option<Credential>, Fault> {
    if let Part::Any(parts) = part {
        for part in parts {
            if let Some(found) = credential(part, request)? {
                return Ok(Some(found));
            }
        }
        return Ok(None);
    }
    let mut lines = read_lines(part, request)?;
    lines.retain(|line| !shows_nothing(line));
    let (kind, name) = part.kind_and_name();
    Ok((!lines.is_empty()).then_some(Credential { kind, name, lines }))
}
