//! Names, fingerprints and keys: different requests never meet, and the same request is always found again.
//!
//! Its one rule: expectations come from the documents or from an encoding written anew here, never from the code's own.
//! It does not know what is stored under a name.

#![expect(clippy::indexing_slicing, clippy::panic, reason = "a test that finds nothing there has failed")]

use std::collections::HashMap;
use std::rc::Rc;

use envoy_idempotency::caller::Caller;
use envoy_idempotency::config::source::Request;
use envoy_idempotency::config::{Config, Policy, Scope, Separation};
use envoy_idempotency::credential::CREDENTIALS;
use envoy_idempotency::digest::{Digest, HashKey, hex};
use envoy_idempotency::fingerprint::{Fingerprint, Payload};
use envoy_idempotency::key::{self, ClientKey, Name, NoKey};
use envoy_idempotency::message::RequestHead;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

#[test]
fn key_headers_are_one_quoted_string_or_one_bare_run() {
    let long = "k".repeat(255);
    let valid: &[(&str, &str)] = &[
        ("abc", "abc"),
        ("\"abc\"", "abc"),
        ("  abc\t", "abc"),
        (" \"abc\" ", "abc"),
        ("\"abc\";a=1;b=\"x,y\";c", "abc"),
        ("\"abc\"; a=?1", "abc"),
        (r#""a\"b""#, "a\"b"),
        (r#""a\\b""#, "a\\b"),
        ("\"a, b; c\"", "a, b; c"),
        ("\" \"", " "),
        ("!#$%&'()*+-./:<=>?@[]^_`{|}~09azAZ", "!#$%&'()*+-./:<=>?@[]^_`{|}~09azAZ"),
        ("8e03978e-40d5-43e8-bc93-6894a57f9324", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        (&long, &long),
    ];
    for (sent, key) in valid {
        assert_eq!(read(HEADER, &[("idempotency-key", sent)]), reference(Some(Ok(key.as_bytes()))), "{sent:?}");
    }
}

#[test]
fn every_other_key_header_is_invalid() {
    let over_long = "k".repeat(256);
    let over_long_quoted = format!("\"{over_long}\"");
    let invalid: &[&[u8]] = &[
        b"",
        b" ",
        b"\"\"",
        b"\"",
        b"\"abc",
        b"abc\"",
        b"\"a\"b\"",
        b"\"abc\" x",
        b"\"abc\";",
        b"\"abc\";A",
        b"\"abc\" ;a",
        br#""a\b""#,
        br#""a\"#,
        br"a\b",
        b"a b",
        b"a,b",
        b"a;b",
        b"a, b",
        b"\"a\", \"b\"",
        b"\"a\",",
        b"(\"a\")",
        b"a\tb",
        b"a\x00b",
        b"a\x7fb",
        b"\"a\tb\"",
        b"\"a\x00b\"",
        b"\"a\x7fb\"",
        "é".as_bytes(),
        "\"é\"".as_bytes(),
        b"\xff",
        b"\"\xff\"",
        over_long.as_bytes(),
        over_long_quoted.as_bytes(),
    ];
    let policy = policy("{}");
    for sent in invalid {
        let head = RequestHead { headers: [("idempotency-key", sent)].into_iter().collect() };
        assert_eq!(key_of(&policy, &head), Err(NoKey::Invalid), "{}", String::from_utf8_lossy(sent));
    }
    for lines in [["a", "a"], ["a", "b"], ["\"a\"", ""], ["", ""]] {
        let head = head(&lines.map(|line| ("idempotency-key", line)));
        assert_eq!(key_of(&policy, &head), Err(NoKey::Invalid), "{lines:?}");
    }
    assert_eq!(key_of(&policy, &head(&[])), Err(NoKey::Absent));
}

#[test]
fn over_long_counts_the_key_and_not_its_quotes_over_all_sources() {
    let policy = policy(r#"{"key": {"max_bytes": 4, "sources": [{"header": "idempotency-key"}, {"query": "q"}]}}"#);
    for (sent, path, fits) in [
        (r#""a\"b""#, "/?q=c", true),
        ("abc", "/?q=d", true),
        ("abc", "/?q=de", false),
        ("a", "/?q=%41%42%43", true),
        ("a", "/?q=%41%42%43%44", false),
    ] {
        let key = key_of(&policy, &head(&[("idempotency-key", sent), (":path", path)]));
        assert_eq!(key.is_ok(), fits, "{sent} {path}");
    }
}

#[test]
fn other_sources_are_read_as_bytes() {
    let absent = None;
    let value = |value: &'static [u8]| Some(Ok(value));
    let invalid = Some(Err(NoKey::Invalid));
    let (query, cookie, segment) = (r#"{"query": "k"}"#, r#"{"cookie": "k"}"#, r#"{"path_segment": 1}"#);
    let any = r#"{"any": [{"header": "x-key"}, {"query": "k"}, {"cookie": "k"}]}"#;
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<Result<&'a [u8], NoKey>>);
    let cases: &[Case<'_>] = &[
        (query, &[(":path", "/p")], absent),
        (query, &[(":path", "/p?K=a&kk=b&x=k")], absent),
        (query, &[(":path", "/p?x=1&k=abc&y")], value(b"abc")),
        (query, &[(":path", "/p?%6B=abc")], value(b"abc")),
        (query, &[(":path", "/p?k=a+b%2Bc%20d")], value(b"a b+c d")),
        (query, &[(":path", "/p?k=a=b?c")], value(b"a=b?c")),
        (query, &[(":path", "/p?k=%FF%00")], value(b"\xff\0")),
        (query, &[(":path", "/p?k=%C3%A9")], value("é".as_bytes())),
        (query, &[(":path", "/p?k=%zz%4")], value(b"%zz%4")),
        (query, &[(":path", "/p?k=")], invalid),
        (query, &[(":path", "/p?k")], invalid),
        (query, &[(":path", "/p?k=a&k=a")], invalid),
        (query, &[(":path", "/p?k=a&%6b=b")], invalid),
        (cookie, &[("cookie", "a=1; b=2")], absent),
        (cookie, &[("cookie", "a=1; k=x=y;b=2")], value(b"x=y")),
        (cookie, &[("cookie", "a=1"), ("cookie", "k=x%41+")], value(b"x%41+")),
        (cookie, &[("cookie", "K=1; k; kk=2")], absent),
        (cookie, &[("cookie", "k=")], invalid),
        (cookie, &[("cookie", "k=1; k=1")], invalid),
        (cookie, &[("cookie", "k=1"), ("cookie", "k=2")], invalid),
        (segment, &[(":path", "/orders/7?x=/a/b")], value(b"7")),
        (segment, &[(":path", "/orders/a%2Fb%FF/c")], value(b"a/b\xff")),
        (segment, &[(":path", "/orders")], absent),
        (segment, &[(":path", "/orders//x")], absent),
        (segment, &[(":path", "/orders/?7")], absent),
        (any, &[(":path", "/?k=q"), ("cookie", "k=c")], value(b"q")),
        (any, &[(":path", "/?k=q"), ("x-key", "\"h\"")], value(b"h")),
        (any, &[(":path", "/"), ("cookie", "k=c")], value(b"c")),
        (any, &[(":path", "/")], absent),
        // What is there and is no key is not passed over for the next.
        (any, &[(":path", "/?k=q"), ("x-key", "a, b")], invalid),
        (any, &[(":path", "/?k=q"), ("x-key", "")], invalid),
        (any, &[(":path", "/?k=q&k=r"), ("cookie", "k=c")], invalid),
    ];
    for (source, fields, expected) in cases {
        assert_eq!(read(source, fields), reference(*expected), "{source} {fields:?}");
    }
}

/// "+" stands for a space in forms and queries (URL Standard, section 5.1) and for itself in a path (RFC 3986, 3.3).
#[test]
fn a_plus_in_a_path_segment_is_a_plus() {
    let segment = r#"{"path_segment": 0}"#;
    assert_eq!(read(segment, &[(":path", "/a+b")]), reference(Some(Ok(b"a+b"))));
    assert_ne!(read(segment, &[(":path", "/a+b")]), read(segment, &[(":path", "/a%20b")]));
}

#[test]
fn all_sources_must_be_there_and_their_order_counts() {
    let policy = policy(r#"{"key": {"sources": [{"query": "a"}, {"query": "b"}]}}"#);
    let read = |path| key_of(&policy, &head(&[(":path", path)]));
    assert_eq!(read("/?a=1"), Err(NoKey::Absent));
    assert_eq!(read("/?a=1&b="), Err(NoKey::Invalid));
    assert_eq!(read("/?b=2&a=1"), read("/?a=1&b=2"));
    for other in ["/?a=2&b=1", "/?a=12&b=", "/?a=1&b=22", "/?a=11&b=2"] {
        assert_ne!(read("/?a=1&b=2"), read(other));
    }
}

/// A batch of events is one operation by its ids in order.
#[test]
fn a_dash_in_a_pointer_makes_one_key_of_the_elements_of_a_list_in_order() {
    let policy = policy(r#"{"key": {"sources": [{"any": [{"json": "/id"}, {"json": "/-/id"}]}]}}"#);
    let of = |body: &str| ClientKey::read(&policy.key, &Request::new(&head(&[]), body.as_bytes(), &|_| None));
    let key = |text: &str| reference(Some(Ok(text.as_bytes())));
    assert_eq!(of(r#"[{"id": "a"}, {"id": 7}]"#), key(r#"["a","7"]"#));
    assert_eq!(of(r#"{"id": "a"}"#), key("a"));
    // Not the event alone, nor the ids run together, nor in another order.
    for (body, text) in [
        (r#"[{"id": "a"}]"#, r#"["a"]"#),
        (r#"[{"id": "a\",\"b"}]"#, r#"["a\",\"b"]"#),
        (r#"[{"id": "b"}, {"id": "a"}]"#, r#"["b","a"]"#),
    ] {
        assert_eq!(of(body), key(text));
    }
    for none in ["[]", "[{}]", r#"[{"id": "a"}, {}]"#, r#"[{"id": null}]"#, "[7]", "{}"] {
        assert_eq!(of(none), Err(NoKey::Absent), "{none}");
    }
    for bad in [r#"[{"id": ""}]"#, r#"[{"id": "a"}, {"id": [1]}]"#, r#"[{"id": 1.5}]"#] {
        assert_eq!(of(bad), Err(NoKey::Invalid), "{bad}");
    }
    let long = "k".repeat(252);
    assert_eq!(of(&format!(r#"[{{"id": "{}"}}]"#, &long[1..])), key(&format!(r#"["{}"]"#, &long[1..])));
    assert_eq!(of(&format!(r#"[{{"id": "{long}"}}]"#)), Err(NoKey::Invalid), "brackets and quotes count");
}

#[test]
fn a_dash_in_a_pointer_leaves_out_or_compares_a_member_of_each_element() {
    let print = |policy: &Policy, body: &str| fingerprint(policy, &[], &[body.as_bytes()]);
    let ignoring = policy(r#"{"fingerprint": {"body": "json", "json_ignore": ["/-/time"]}}"#);
    let (first, second) = (r#"[{"n": 1, "time": 1}, {"n": 2}]"#, r#"[{"n": 1, "time": 2}, {"n": 2, "time": 3}]"#);
    assert_eq!(print(&ignoring, first), print(&ignoring, second));
    assert_ne!(print(&ignoring, first), print(&ignoring, r#"[{"n": 2}, {"n": 1}]"#));
    let only = policy(r#"{"fingerprint": {"body": "json", "json_only": ["/-/n"]}}"#);
    assert_eq!(print(&only, first), print(&only, second));
    for other in [r#"[{"n": 2}, {"n": 1}]"#, r#"[{"n": 1}, {}]"#, r#"[{"n": 1}, {"n": null}]"#, r#"[[1], [2]]"#] {
        assert_ne!(print(&only, first), print(&only, other), "{other}");
    }
}

#[test]
fn names_are_the_hash_of_tagged_parts_with_their_lengths_plain_or_keyed() {
    let fields = [("authorization", "me"), ("idempotency-key", "k1")];
    let parts: [(&str, &[u8]); 11] = [
        ("purpose", b"name"),
        ("callers", &1_u32.to_le_bytes()),
        ("kind", b"header"),
        ("name", b"authorization"),
        ("caller", &1_u32.to_le_bytes()),
        ("", b"me"),
        ("method", b"POST"),
        ("host", b"api.example.com"),
        ("path", b"/pay"),
        ("key", &1_u32.to_le_bytes()),
        ("", b"k1"),
    ];
    let encoded = encode(&parts);
    assert_eq!(name_of(&policy("{}"), None, &fields), Name(Sha256::digest(&encoded).into()));
    for secret in [&b"key"[..], &[0xaa; 64], &[0xaa; 131]] {
        let keyed = name_of(&policy("{}"), Some(&HashKey::new(secret)), &fields);
        assert_eq!(keyed, Name(hmac(secret, &encoded)));
    }
}

/// The reference that the keyed form is compared with, against RFC 4231, sections 4.3 and 4.7 (a key over one block).
#[test]
fn the_keyed_form_is_hmac_sha256() {
    let long = b"Test Using Larger Than Block-Size Key - Hash Key First";
    for (secret, text, expected) in [
        (
            &b"Jefe"[..],
            &b"what do ya want for nothing?"[..],
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (&[0xaa; 131], long, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
    ] {
        assert_eq!(hex(&hmac(secret, text)), expected);
        let mut digest = Digest::new("p", Some(&HashKey::new(secret)));
        digest.feed(text);
        assert_eq!(digest.finish(), hmac(secret, &[encode(&[("purpose", b"p")]), text.to_vec()].concat()));
    }
}

#[test]
fn names_differ_by_everything_that_separates_and_by_nothing_else() {
    let base: &[(&str, &str)] = &[("authorization", "me"), ("idempotency-key", "k")];
    let none = HashKey::new(b"one");
    let observed = policy(r#"{"mode": "observe"}"#);
    let plain = policy("{}");
    let all = [
        name_of(&plain, None, base),
        name_of(&observed, None, base),
        name_of(&plain, Some(&none), base),
        name_of(&plain, Some(&HashKey::new(b"two")), base),
        name_of(&plain, None, &[("authorization", "me"), ("idempotency-key", "K")]),
        name_of(&plain, None, &[("authorization", "you"), ("idempotency-key", "k")]),
        name_of(&plain, None, &[("authorization", "me"), ("authorization", "me"), ("idempotency-key", "k")]),
        name_of(&plain, None, &[("idempotency-key", "k")]),
        name_of(&plain, None, &[&[(":method", "PATCH")], base].concat()),
        name_of(&plain, None, &[&[(":authority", "other.example.com")], base].concat()),
        name_of(&plain, None, &[&[(":path", "/pay/")], base].concat()),
    ];
    let distinct: HashMap<_, _> = all.iter().map(|name| (name, ())).collect();
    assert_eq!(distinct.len(), all.len());
    let empty = name_of(&plain, None, &[("authorization", " "), ("idempotency-key", "k")]);
    assert_eq!(empty, name_of(&plain, None, &[("idempotency-key", "k")]), "an empty credential shows nothing");
    for same in
        [(":authority", "API.example.com:443"), (":path", "/pay?x=1"), ("content-type", "a/b"), ("x-api-key", "z")]
    {
        assert_eq!(name_of(&plain, None, &[&[same], base].concat()), all[0], "{same:?}");
    }
}

/// What the scope leaves out no longer separates, and is compared unless it is ignored.
#[test]
fn what_does_not_separate_is_in_the_fingerprint_unless_it_is_ignored() {
    let base: &[(&str, &str)] = &[("authorization", "me"), ("idempotency-key", "k")];
    for (scope, change) in [("method", (":method", "PUT")), ("host", (":authority", "x")), ("path", (":path", "/x"))] {
        let changed = [&[change], base].concat();
        for (used, separates, differs) in [("true", true, false), ("false", false, true), ("\"ignore\"", false, false)]
        {
            let policy = policy(&format!(r#"{{"scope": {{"{scope}": {used}}}}}"#));
            let names = [base, &changed].map(|fields| name_of(&policy, None, fields));
            assert_eq!(names[0] != names[1], separates, "{scope}: {used}");
            let prints = [base, &changed].map(|fields| fingerprint(&policy, fields, &[b"1"]));
            assert_eq!(prints[0] != prints[1], differs, "{scope}: {used}");
        }
    }
}

#[test]
fn a_caller_is_told_by_the_kind_and_the_name_of_what_it_shows() {
    let scope = r#"{"key": {"sources": [{"header": "k"}]}, "scope": {"anonymous": "share", "caller": [{"any": [
        {"header": "x-user-id"}, {"header": "x-client-id"}, {"cookie": "x-user-id"}, {"query": "x-user-id"}, {"path_segment": 1}
    ]}]}}"#;
    let policy = policy(scope);
    let names = [
        ("x-user-id", "42"),
        ("x-client-id", "42"),
        ("cookie", "x-user-id=42"),
        (":path", "/pay?x-user-id=42"),
        (":path", "/pay/42"),
        ("x-other", "42"),
    ]
    .map(|field| {
        name_of(&Policy { scope: ignoring_path(&policy), ..Policy::clone(&policy) }, None, &[field, ("k", "1")])
    });
    let distinct: HashMap<_, _> = names.iter().map(|name| (name, ())).collect();
    assert_eq!(distinct.len(), names.len());
}

fn ignoring_path(policy: &Policy) -> Scope {
    Scope { path: Separation::Ignored, ..policy.scope.clone() }
}

#[test]
fn an_authorization_tells_a_caller_where_every_try_has_the_same() {
    let told = [
        "Bearer abc",
        "bearer abc",
        "Basic YTpi",
        "DPoP abc",
        "Token abc",
        "token token=abc",
        "ApiKey abc",
        "sk_live_abc=",
        "é",
    ];
    let policy = self::policy("{}");
    for authorization in told {
        assert!(matches!(caller_of(&policy, authorization), Caller::Known(_)), "{authorization}");
    }
    let made_anew = [
        "AWS4-HMAC-SHA256 Credential=AKID/20260101/eu/s3/aws4_request, SignedHeaders=host, Signature=ab",
        "Digest username=\"me\", response=\"ab\"",
        "OAuth oauth_consumer_key=\"me\", oauth_signature=\"ab\"",
        "Hawk id=\"me\", mac=\"ab\"",
        "Signature keyId=\"me\",signature=\"ab\"",
        "Negotiate abc",
        "NTLM abc",
        "Unheard of",
        "Bearer",
        "basic ",
        "Negotiate",
        "keyId=\"me\",signature=\"ab\"",
    ];
    for authorization in made_anew {
        assert_eq!(caller_of(&policy, authorization), Caller::Absent, "{authorization}");
        let shared = self::policy(r#"{"scope": {"anonymous": "share"}}"#);
        assert_eq!(caller_of(&shared, authorization), Caller::Absent, "{authorization}");
        let required = self::policy(r#"{"key": {"required": true}}"#);
        assert_eq!(caller_of(&required, authorization), Caller::Refused, "{authorization}");
    }
    let more = self::policy(r#"{"scope": {"caller": [{"header": "authorization", "schemes": ["unheard"]}]}}"#);
    assert!(matches!(caller_of(&more, "Unheard of"), Caller::Known(_)));
    assert!(matches!(caller_of(&more, "Bearer abc"), Caller::Known(_)));
    assert_eq!(caller_of(&more, "Hawk id=\"me\""), Caller::Absent);
}

#[test]
fn a_signer_is_what_stays_of_a_signature_and_nothing_else_is() {
    let policy = policy(r#"{"scope": {"caller": [{"signer": "authorization"}]}}"#);
    let same: &[&[&str]] = &[
        &[
            "AWS4-HMAC-SHA256 Credential=AKID/20260101/eu/s3/aws4_request, SignedHeaders=host, Signature=ab",
            "AWS4-HMAC-SHA256 Credential=AKID/20260102/eu/s3/aws4_request,SignedHeaders=host;date,Signature=cd",
        ],
        &["AWS AKID2:ab=", "AWS AKID2:cd="],
        &[
            r#"Digest username="me", realm="r", nonce="1", response="ab""#,
            r#"Digest nonce="2", realm="r", username="me", response="cd""#,
        ],
        &[r#"Digest username="me", realm="other", nonce="1""#],
        &[
            r#"OAuth oauth_consumer_key="me", oauth_token="t", oauth_nonce="1""#,
            r#"OAuth realm="x",oauth_nonce="2",oauth_token="t",oauth_consumer_key="me""#,
        ],
        &[r#"OAuth oauth_consumer_key="me", oauth_token="u""#],
        &[r#"Hawk id="me", ts="1", nonce="a", mac="ab""#, r#"Hawk mac="cd", id="me", ts="2""#],
        &[r#"Signature keyId="me",algorithm="x",signature="ab""#, r#"Signature signature="cd", keyId="me""#],
        &[r#"Signature keyId="m\"e",signature="ab""#],
    ];
    let mut callers = Vec::new();
    for group in same {
        let told: Vec<_> = group.iter().map(|line| caller_of(&policy, line)).collect();
        assert!(
            told.iter().all(|caller| matches!(caller, Caller::Known(_)) && *caller == told[0]),
            "{group:?}: {told:?}"
        );
        assert!(!callers.contains(&told[0]), "{group:?}");
        callers.push(told[0].clone());
    }
    for none in [
        "Bearer abc",
        "sk_live",
        "Negotiate abc",
        "AWS4-HMAC-SHA256 Signature=ab",
        "AWS4-HMAC-SHA256 Credential=/20260101, Signature=ab",
        "AWS4-HMAC-SHA256 Credential=A/x, Credential=B/x",
        "AWS AKID",
        "Digest username=\"\"",
        "Digest username=\"me",
        "Hawk id=\"me\", id=\"you\"",
        "Hawk",
        "OAuth oauth_token=\"t\"",
        "Signature",
    ] {
        assert_eq!(caller_of(&policy, none), Caller::Absent, "{none}");
    }
}

#[test]
fn where_the_anonymous_share_any_well_known_credential_keeps_a_request_apart() {
    let policy = policy(r#"{"scope": {"anonymous": "share"}}"#);
    let read = |fields: &[(&str, &str)]| Caller::read(&policy, &Request::new(&head(fields), b"", &|_| None));
    assert_eq!(read(&[("x-tenant", "t"), ("cookie", " ")]), Caller::Anonymous);
    for name in CREDENTIALS.into_iter().filter(|name| *name != "authorization") {
        assert_eq!(read(&[(name, "secret")]), Caller::Absent, "{name}");
    }
    assert!(CREDENTIALS.is_sorted());
    let certified = |path: &[&str]| (path == ["connection", "mtls"]).then(|| vec![1]);
    assert_eq!(Caller::read(&policy, &Request::new(&head(&[]), b"", &certified)), Caller::Absent);
}

#[test]
fn fingerprints_differ_by_query_headers_and_body_and_by_nothing_else() {
    let policy = policy(r#"{"fingerprint": {"headers": ["content-type", "x-tenant"]}}"#);
    let print = |fields: &[(&str, &str)], body: &[u8]| fingerprint(&policy, fields, &[body]);
    let same: &[&[(&str, &str)]] = &[
        &[(":path", "/pay"), ("content-type", "application/json")],
        &[(":path", "/pay?"), ("content-type", "application/json")],
        &[(":path", "/pay"), ("content-type", "Application/JSON; charset=utf-8")],
        &[(":path", "/elsewhere"), (":method", "PUT"), ("content-type", "application/json"), ("x-other", "1")],
    ];
    assert!(same.iter().all(|fields| print(fields, b"1") == print(same[0], b"1")));
    let different: &[&[(&str, &str)]] = &[
        same[0],
        &[(":path", "/pay")],
        &[(":path", "/pay"), ("content-type", "")],
        &[(":path", "/pay"), ("content-type", "application/json"), ("content-type", "application/json")],
        &[(":path", "/pay"), ("content-type", "application/json,application/json")],
        &[(":path", "/pay?a=1"), ("content-type", "application/json")],
        &[(":path", "/pay?a=1&"), ("content-type", "application/json")],
        &[(":path", "/pay"), ("content-type", "application/json"), ("x-tenant", "")],
        &[(":path", "/pay"), ("content-type", "application/json"), ("x-tenant", "a,b")],
        &[(":path", "/pay"), ("content-type", "application/json"), ("x-tenant", "a"), ("x-tenant", "b")],
        &[(":path", "/pay"), ("content-type", "application/json"), ("x-tenant", "b"), ("x-tenant", "a")],
        &[(":path", "/pay"), ("x-tenant", "application/json")],
        &[(":path", "/pay"), ("content-range", "bytes 0-9/20")],
        &[(":path", "/pay"), ("content-range", "bytes 10-19/20")],
        &[(":path", "/pay"), ("if-match", "\"1\"")],
        &[(":path", "/pay"), ("if-none-match", "\"1\"")],
        &[(":path", "/pay"), ("if-unmodified-since", "Mon, 01 Jan 2024 00:00:00 GMT")],
        &[(":path", "/pay"), ("upload-offset", "0")],
        &[(":path", "/pay"), ("upload-offset", "")],
        &[(":path", "/pay"), ("x-http-method-override", "PUT")],
    ];
    let mut prints = Vec::new();
    for (fields, body) in different.iter().flat_map(|fields| [&b""[..], b"1", b"1 "].map(|body| (fields, body))) {
        let found = print(fields, body);
        assert!(!prints.contains(&found), "{fields:?} {body:?}");
        prints.push(found);
    }
}

#[test]
fn what_the_policy_leaves_out_does_not_change_a_fingerprint() {
    for (policy, fields, body) in [
        (r#"{"fingerprint": {"body": "off"}}"#, (":path", "/pay"), &b"2"[..]),
        (r#"{"fingerprint": {"query": false}}"#, (":path", "/pay?a=1"), b"1"),
        (r#"{"fingerprint": {"headers": []}}"#, ("content-type", "text/plain"), b"1"),
    ] {
        let policy = self::policy(policy);
        assert_eq!(fingerprint(&policy, &[fields], &[body]), fingerprint(&policy, &[], &[b"1"]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Everything in a request that a name depends on, cut at two places each: the same text, differently shared out.
    #[test]
    fn no_two_requests_share_a_name_however_their_parts_are_cut(a in request(), b in request()) {
        let policy = policy(SEPARATED);
        let [one, two] = [&a, &b].map(|fields| {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            name_of(&policy, None, &fields)
        });
        // An empty credential shows nothing.
        let [mut a, mut b] = [a, b].map(|fields| {
            let shows = |(name, value): &(&str, String)| !name.starts_with('c') || *name == "cookie" || !value.trim().is_empty();
            fields.into_iter().filter(shows).collect::<Vec<_>>()
        });
        a.sort();
        b.sort();
        prop_assert_eq!(one == two, a == b);
    }

    /// Lists of parts are not told apart by luck: whatever is hashed can be read back in one way only.
    #[test]
    fn no_two_lists_of_parts_feed_a_digest_the_same(a in lists(), b in lists()) {
        let digest = |lists: &Vec<Vec<Vec<u8>>>| {
            let mut digest = Digest::new("p", None);
            for list in lists {
                digest.list("l", list.iter().map(Vec::as_slice));
            }
            digest.finish()
        };
        prop_assert_eq!(digest(&a) == digest(&b), a == b);
    }

    #[test]
    fn a_body_split_anywhere_gives_the_same_fingerprint(body in prop::collection::vec(any::<u8>(), 0..300), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5)) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        let chunks: Vec<_> = cuts.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect();
        let policy = policy("{}");
        prop_assert_eq!(fingerprint(&policy, &[], &chunks), fingerprint(&policy, &[], &[&body]));
    }
}

const HEADER: &str = r#"{"header": "idempotency-key"}"#;

const SEPARATED: &str = r#"{
    "key": {"sources": [{"cookie": "k1"}, {"cookie": "k2"}]},
    "scope": {"caller": [{"header": "c1"}, {"header": "c2"}], "anonymous": "share"}
}"#;

/// Few letters and short parts, so that two of them are often the same text cut differently.
fn request() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let text = |least| prop::collection::vec(prop_oneof![Just('a'), Just('b')], least..3);
    let text = move |least| text(least).prop_map(String::from_iter);
    let callers = prop::collection::vec((prop_oneof![Just("c1"), Just("c2")], text(0)), 0..3);
    (text(0), text(0), text(0), text(1), text(1), callers).prop_map(|(method, host, path, k1, k2, callers)| {
        let mut fields = vec![(":method", method), (":authority", host), (":path", path)];
        fields.extend([("cookie", format!("k1={k1}")), ("cookie", format!("k2={k2}"))]);
        // The order of lines of one name counts, that between names does not.
        let (ones, twos): (Vec<_>, Vec<_>) = callers.into_iter().partition(|(name, _)| *name == "c1");
        fields.extend(ones.into_iter().take(1).chain(twos.into_iter().take(1)));
        fields
    })
}

fn lists() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let item = prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(b'l')], 0..3);
    prop::collection::vec(prop::collection::vec(item, 0..3), 0..3)
}

fn policy(policy: &str) -> Rc<Policy> {
    let config = Config::parse(format!(r#"{{"policy": {policy}}}"#).as_bytes(), &|_| None);
    let config = config.unwrap_or_else(|error| panic!("{error}"));
    Rc::clone(&config.rules[0].policy)
}

/// A request to pay, in which the given fields stand first.
fn head(fields: &[(&str, &str)]) -> RequestHead {
    let rest = [(":method", "POST"), (":authority", "api.example.com"), (":path", "/pay")];
    RequestHead { headers: fields.iter().chain(&rest).copied().collect() }
}

/// The key of one source, in a form that can be compared with that of another.
fn read(source: &str, fields: &[(&str, &str)]) -> Result<ClientKey, NoKey> {
    key_of(&policy(&format!(r#"{{"key": {{"sources": [{source}]}}}}"#)), &head(fields))
}

fn key_of(policy: &Policy, head: &RequestHead) -> Result<ClientKey, NoKey> {
    ClientKey::read(&policy.key, &Request::new(head, b"", &|_| None))
}

/// A key with these bytes: from a query in which every byte is escaped.
fn reference(key: Option<Result<&[u8], NoKey>>) -> Result<ClientKey, NoKey> {
    let key = key.unwrap_or(Err(NoKey::Absent))?;
    let escaped: String = key.iter().map(|byte| format!("%{byte:02X}")).collect();
    read(r#"{"query": "reference"}"#, &[(":path", &format!("/?reference={escaped}"))])
}

fn name_of(policy: &Policy, hash_key: Option<&HashKey>, fields: &[(&str, &str)]) -> Name {
    let head = head(fields);
    let Ok(key) = key_of(policy, &head) else { panic!("{fields:?} has a key") };
    let caller = Caller::read(policy, &Request::new(&head, b"", &|_| None));
    key::name(policy, hash_key, &head, &caller, &key)
}

fn caller_of(policy: &Policy, authorization: &str) -> Caller {
    Caller::read(policy, &Request::new(&head(&[("authorization", authorization)]), b"", &|_| None))
}

fn fingerprint(policy: &Policy, fields: &[(&str, &str)], chunks: &[&[u8]]) -> Fingerprint {
    let mut payload = Payload::new(policy, None, &head(fields));
    chunks.iter().for_each(|chunk| payload.body(chunk));
    payload.finish().0
}

/// Each part as its tag and its bytes, both behind their lengths.
fn encode(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let part = |(tag, bytes): &(&str, &[u8])| {
        [&[tag.len() as u8], tag.as_bytes(), &(bytes.len() as u32).to_le_bytes(), *bytes].concat()
    };
    parts.iter().flat_map(part).collect()
}

/// HMAC as RFC 2104 words it.
fn hmac(secret: &[u8], text: &[u8]) -> [u8; 32] {
    let mut block = if secret.len() > 64 { Sha256::digest(secret).to_vec() } else { secret.to_vec() };
    block.resize(64, 0);
    let pad = |with: u8| block.iter().map(|byte| byte ^ with).collect::<Vec<_>>();
    let inner = Sha256::digest([&pad(0x36), text].concat());
    Sha256::digest([&pad(0x5c)[..], &inner].concat()).into()
}
