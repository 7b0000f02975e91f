//! Which headers show a credential.
//!
//! Its one rule: a header that may name a caller is on the list, because a request without any counts as anonymous.
//! It does not know which of them a scope reads.

/// Whether this is a header of the list, also where a client writes `_` for `-`.
pub fn is_well_known(header: &[u8]) -> bool {
    let is = |known: &str| {
        let same = |(a, b): (&u8, u8)| *a == b || (*a == b'_' && b == b'-');
        known.len() == header.len() && header.iter().zip(known.bytes()).all(same)
    };
    CREDENTIALS.into_iter().any(is)
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
