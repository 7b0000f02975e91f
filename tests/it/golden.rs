//! Golden vectors: the names and fingerprints that this format gives to requests, for ever.
//!
//! Its one rule: a vector is never changed within a format, because a retry must find what an older build has stored.
//! It does not know how a hash is built (`names.rs`), nor how a record is written (`wire.rs`).

use std::rc::Rc;

use envoy_idempotency::caller::Caller;
use envoy_idempotency::config::source::Request;
use envoy_idempotency::config::{Config, Policy};
use envoy_idempotency::digest::{HashKey, hex};
use envoy_idempotency::fingerprint::Payload;
use envoy_idempotency::issued::Issuer;
use envoy_idempotency::key::{self, ClientKey, UpstreamKey};
use envoy_idempotency::message::RequestHead;
use expect_test::expect;

/// A policy, a request's fields beside the usual ones, its body; then its name, keyed with "secret" and plain, and its
/// fingerprint.
type Vector = (&'static str, &'static [(&'static str, &'static str)], &'static str, [&'static str; 3]);

#[test]
fn names_and_fingerprints_are_those_of_format_2() {
    for (policy, fields, body, expected) in VECTORS {
        assert_eq!(hashes(policy, fields, body), expected.map(str::to_owned), "{policy} {fields:?}");
    }
}

#[test]
fn an_issued_key_is_that_of_version_1() {
    let document = r#"{
        "secrets": {"issuing": [{"id": "1", "key": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}]},
        "store": {"type": "redis", "cluster": "c"}
    }"#;
    let config = Config::parse(document.as_bytes(), &|_| None).unwrap();
    let head = RequestHead { headers: [("authorization", "Bearer alice")].into_iter().collect() };
    let time = |_: &[&str]| Some(1_800_000_000_000_000_000_u64.to_le_bytes().to_vec());
    let request = Request::new(&head, b"", &time);
    let caller = Caller::read(&config.rules[0].policy, &request);
    let issued = Issuer::new(&config, b"").issue("pay", &caller, UpstreamKey([7; 16]), &request);
    let expected = expect!["AQDSSWsAAAAABwcHBwcHBwcHBwcHBwcHB7v_ZkaVfUZmYYrUiAS1NKKxIlSrXeQVXArNIEtjaMbC"];
    expected.assert_eq(&issued.unwrap().0);
}

fn hashes(document: &str, fields: &[(&str, &str)], body: &str) -> [String; 3] {
    let config = Config::parse(format!(r#"{{"policy": {document}}}"#).as_bytes(), &|_| None).unwrap();
    let policy: Rc<Policy> = Rc::clone(&config.rules[0].policy);
    let usual = [(":method", "POST"), (":authority", "api.example.com"), (":path", "/v1/payments?x=1")];
    let has = |name: &str| fields.iter().any(|(given, _)| *given == name);
    let usual = usual.into_iter().filter(|(name, _)| !has(name));
    let head = RequestHead { headers: usual.chain(fields.iter().copied()).collect() };
    let certificate =
        |path: &[&str]| (path == ["connection", "uri_san_peer_certificate"]).then(|| b"spiffe://a/b".to_vec());
    let request = Request::new(&head, body.as_bytes(), &certificate);
    let caller = Caller::read(&policy, &request);
    let secret = HashKey::new(b"secret");
    let name = |hash_key| match ClientKey::read(&policy.key, &request) {
        Ok(key) => key::name(&policy, hash_key, &head, &caller, &key),
        Err(_) => key::content_name(&policy, hash_key, &head, &caller),
    };
    let mut payload = Payload::new(&policy, None, &head);
    payload.body(body.as_bytes());
    [hex(&name(Some(&secret)).0), hex(&name(None).0), hex(&payload.finish().0.0)]
}

const VECTORS: [Vector; 10] = [
    (
        r#"{}"#,
        &[("authorization", "Bearer alice"), ("idempotency-key", "k1")],
        "ten",
        [
            "a10bc009381531e58ed8773b80b30d9d2434bd81a5b5856c7d4f886262d44fb8",
            "35618044ac91a3be968dd444c2775b5cd86b7abf2e4a24f914fa77fb6d2f9ded",
            "48a05e809cd483d12b620993d719e78aa5887a4af9264fdb421c18e12b5b2160",
        ],
    ),
    (
        r#"{}"#,
        &[("authorization", "Bearer alice"), ("idempotency-key", "\"k 1\"")],
        "",
        [
            "621ce6a5fbc18e167f2db71b6b5baa0a123ab4261a6f7255abdd194f699c36dc",
            "891d8599a3bf190ca1d61e855f397a293f0b8bc2936b470fcd1c2769ad05957c",
            "aa7955f00fdf00a80556e3bf992b326e60b1e9bf9667f4838b1613b3e28e74fd",
        ],
    ),
    (
        r#"{"mode": "observe", "scope": {"anonymous": "share", "path": false}}"#,
        &[("idempotency-key", "k1"), ("content-type", "application/json; charset=utf-8")],
        "{}",
        [
            "71b58abeedea373f41046f22c6f7bf6571920629be8e06ee3b8fb1aa19a2d478",
            "20b06493005769802a1e8fefd90ee9c2b5098a20974a1b91f19e339cf07bb693",
            "9a070d7fcbef99ead28d84289878ae73b7b584c2a01b9be3959086a993249120",
        ],
    ),
    (
        r#"{"scope": {"caller": [{"any": [{"header": "x-user-id"}, {"header": "x-client-id"}]}, {"cookie": "sid"}], "method": "ignore"}}"#,
        &[("x-client-id", "42"), ("cookie", "sid=s"), ("idempotency-key", "k1"), (":path", "/v1/payments?")],
        "ten",
        [
            "7dc6279d8874b136f9d356411a890888dc747bc30f039d4577ba7eee89c57a1d",
            "50a8c28a9017b205d54a5857487dd99bf5180702034999a11e841ed1c90e1f63",
            "cb50c49babc06bf14e3e3b270fb86e9823b367c2dbb89d54627c91717015da61",
        ],
    ),
    (
        r#"{"scope": {"caller": [{"jwt_claim": "sub"}, {"property": ["connection", "uri_san_peer_certificate"]}]}}"#,
        &[("authorization", "Bearer e30.eyJzdWIiOiJhbGljZSJ9.sig"), ("idempotency-key", "k1")],
        "ten",
        [
            "38bd040db6b1797e4ec93b685796c44a9bae52844e20ca1263dd7b9376fae82e",
            "288615b29cb2a677eab55d89cf814d2b845a91998cb66ba330e5c7d2ac318055",
            "48a05e809cd483d12b620993d719e78aa5887a4af9264fdb421c18e12b5b2160",
        ],
    ),
    (
        r#"{"scope": {"caller": [{"signer": "authorization"}, {"path_segment": 0}]}}"#,
        &[
            ("authorization", "AWS4-HMAC-SHA256 Credential=AKID/20260101/eu/s3/aws4_request, Signature=ab"),
            ("idempotency-key", "k1"),
        ],
        "ten",
        [
            "9c395df132b664b3024f40b09d58135010b881457000b5cac563c62eb6a74e77",
            "1b90abc8ab016266b72dd502077e5c9a41b5c1f4b5671ee2a3d46b4592b07951",
            "48a05e809cd483d12b620993d719e78aa5887a4af9264fdb421c18e12b5b2160",
        ],
    ),
    (
        r#"{"key": {"sources": [{"json": "/order"}, {"query": "x"}]}, "fingerprint": {"body": "json", "json_ignore": ["/at"]}}"#,
        &[("authorization", "Bearer alice")],
        r#"{"order": 7, "at": 1, "n": 1.50}"#,
        [
            "1005f5b168a5d9ef4006b1d302de66a1b493529bdbd32d30edb0bf05076d7c9f",
            "22dcba073b52d517e709f514a106c426938635d9a8e4c479d58c2c0edb2221cd",
            "51050d081db921b442920b0e8a9a0b35682c665a6b1b026cb14864c6cf344526",
        ],
    ),
    (
        r#"{"key": {"inject": {"kind": "content"}}}"#,
        &[("authorization", "Bearer alice"), ("accept", "text/html"), ("if-match", "\"1\"")],
        "ten",
        [
            "3e5f9ce0add9630fddd7557f065bf391bf0588fe39db91b6e0e48c148d5d8f09",
            "b41e9de4d45d50eab779db8c257ef2618b9d7c82219da95cdab4d0c7cfa11aaf",
            "c1c051742cd9216207f9e8bd0757b1e640dcfa2c798614a6deac528af451e139",
        ],
    ),
    (
        r#"{"scope": {"caller": [{"form": "user"}, {"json": "/user"}, {"query": "user"}]}}"#,
        &[
            (":path", "/v1/payments?user=7"),
            ("idempotency-key", "k1"),
            ("content-type", "application/x-www-form-urlencoded"),
        ],
        "",
        [
            "59e7e07c3a65969ef9490eb614d666108dadf720c2f7a781291cdeeb7aba1fa6",
            "ac52a00176522cf1158f75bab72b072384cd476c99ab53dda662cbb8c9cb2df7",
            "385bf70cf08b1c09910696f4597c795340f5d90eee94fd1fc20998abe5c2bde7",
        ],
    ),
    (
        r#"{"fingerprint": {"headers": ["x-tenant"], "query": false}}"#,
        &[
            ("authorization", "Bearer alice"),
            ("idempotency-key", "k1"),
            ("x-tenant", "t"),
            ("upload-offset", "100"),
            ("content-type", "multipart/form-data; boundary=b"),
        ],
        "--b\r\n\r\nten\r\n--b--",
        [
            "a10bc009381531e58ed8773b80b30d9d2434bd81a5b5856c7d4f886262d44fb8",
            "35618044ac91a3be968dd444c2775b5cd86b7abf2e4a24f914fa77fb6d2f9ded",
            "e011aadc59d1d3017d623ffc49b87d899f75f40a0b0f4d993b173dcfa2a2b4a0",
        ],
    ),
];
