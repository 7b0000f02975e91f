//! The operator's document: what it may say, what each mistake is answered with, and which requests it is about.
//!
//! Its one rule: every message is written out, because operators read them at their worst hour.
//! It does not know how a policy is obeyed.

use std::cell::RefCell;

use envoy_idempotency::config::{
    Anonymous, BodyPart, Breaker, CacheBounds, Config, ConfigError, Dialect, Document, Ending, Execution, Fate,
    FingerprintPolicy, Inject, Issued, KeyPolicy, Login, Members, Mode, Outcomes, Part, PathMatch, Policy, Redis,
    Scope, SecretKey, Separation, Statuses, Store, Template, Webdis,
};
use envoy_idempotency::json::Pointer;
use envoy_idempotency::message::{Headers, RequestHead};
use envoy_idempotency::refusal::ProblemType;

use crate::schema;

#[test]
fn an_empty_document_is_the_embedded_store_with_one_rule() {
    for document in ["", " \r\n\t", "{}", r#"{"store": {}, "secrets": {}, "policy": {}}"#] {
        let config = parse(document).unwrap();
        assert_eq!(config.store, Store::Local { max_bytes: 67_108_864 });
        assert_eq!(config.hash_key, None);
        assert_eq!(config.encryption, []);
        assert_eq!(config.warnings, [""; 0]);
        assert_eq!(config.status_path, None);
        assert_eq!((&config.issue_path, config.issued_ttl_s), (&None, 1800));
        assert_eq!(config.rules.len(), 1);
        assert_eq!(config.rules[0].name, "default");
        let policy = only(&config);
        assert_eq!(policy.key.sources, [Part::Header("idempotency-key".into())]);
        assert_eq!(policy.scope.caller, [Part::Authorization { header: "authorization".into(), schemes: Vec::new() }]);
        assert_eq!((policy.lease_ms, policy.ttl_ms), (60_000, 1_800_000));
        assert_eq!(policy.problem_base, "urn:envoy-idempotency:");
    }
}

#[test]
fn a_document_without_defaults_is_read() {
    let config = parse(WHOLE).unwrap();
    assert_eq!(config.store, Store::Local { max_bytes: 134_217_728 });
    assert_eq!(config.hash_key.as_deref(), Some(b"from the environment".as_slice()));
    let keys = ["2026-07", "2026-01"].map(|id| SecretKey { id: id.into(), key: *b"0123456789abcdef0123456789abcdef" });
    assert_eq!(config.encryption, keys);
    assert_eq!(config.issuing, keys);
    assert_eq!((config.issue_path.as_deref(), config.issued_ttl_s), (Some("/keys"), 3));
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.rules[0].name, "payments");
    let policy = only(&config);
    assert_eq!(policy.mode, Mode::Observe);
    assert_eq!(
        policy.key,
        KeyPolicy {
            sources: vec![
                Part::Any(vec![Part::Header("x-key".into()), Part::Query("key".into())]),
                Part::Cookie("sid".into()),
                Part::PathSegment(0),
            ],
            required: true,
            issued: Issued::Any,
            max_bytes: 65_536,
            inject: Inject::Off,
        }
    );
    assert_eq!(
        policy.scope,
        Scope {
            caller: vec![Part::Header("x-tenant".into())],
            anonymous: Anonymous::Refuse,
            method: Separation::Compared,
            host: Separation::Compared,
            path: Separation::Compared,
        }
    );
    assert_eq!(
        policy.fingerprint,
        FingerprintPolicy { body: BodyPart::Off, query: false, headers: vec!["x-version".into()] }
    );
    assert_eq!((policy.lease_ms, policy.max_running_ms, policy.ttl_ms), (1000, 2000, 3000));
    assert_eq!((policy.max_request_bytes, policy.max_response_bytes), (1, 67_108_864));
    let fates = [200, 404, 409, 502, 503, 504].map(|status| policy.outcomes.of_status(status));
    assert_eq!(fates, [Fate::Unknown, Fate::Release, Fate::Retry, Fate::Retry, Fate::Unknown, Fate::Unknown]);
    assert_eq!(policy.outcomes.of_ending(Ending::Unsent), Fate::Retry);
    assert_eq!(policy.outcomes.of_ending(Ending::Timeout), Fate::Unknown);
    let statuses =
        [ProblemType::Mismatch, ProblemType::InFlight, ProblemType::KeyMissing].map(|slug| policy.statuses.of(slug));
    assert_eq!(statuses, [400, 409, 400]);
    assert_eq!(policy.problem_base, "https://example.com/problems/");
    assert_eq!(config.problem_base, policy.problem_base);
    assert_eq!(config.status_path.as_deref(), Some("/.well-known/idempotency"));
}

#[test]
fn keys_callers_and_fingerprints_are_read_from_bodies_tokens_and_the_host() {
    let config = parse(
        r#"{"policy": {
            "key": {
                "sources": [{"form": "key"}, {"any": [{"json": "/order/id"}, {"json": "/a~1b/~0/0"}]}],
                "inject": {"kind": "content", "window_ms": 5000, "anonymous": true}
            },
            "scope": {"anonymous": "share", "caller": [
                {"jwt_claim": "sub"}, {"any": [{"property": ["connection", "uri_san_peer_certificate"]}, {"query": "t"}]},
                {"signer": "Authorization"}, {"header": "Authorization", "schemes": ["AWS4-HMAC-SHA256"]}
            ]},
            "fingerprint": {"body": "json", "json_ignore": ["/sent_at"]}
        }}"#,
    )
    .unwrap();
    let pointer = |text| Pointer::parse(text).unwrap();
    let policy = only(&config);
    assert_eq!(
        policy.key.sources,
        [
            Part::Form("key".into()),
            Part::Any(vec![Part::Json(pointer("/order/id")), Part::Json(pointer("/a~1b/~0/0"))])
        ]
    );
    assert_eq!(policy.key.inject, Inject::Content { window_ms: 5000, anonymous: true });
    let property = Part::Property(vec!["connection".into(), "uri_san_peer_certificate".into()]);
    let schemes = vec!["AWS4-HMAC-SHA256".into()];
    let callers = [
        Part::JwtClaim("sub".into()),
        Part::Any(vec![property, Part::Query("t".into())]),
        Part::Signer,
        Part::Authorization { header: "authorization".into(), schemes },
    ];
    assert_eq!(policy.scope.caller, callers);
    assert_eq!(policy.fingerprint.body, BodyPart::Json(Members::AllBut(vec![pointer("/sent_at")])));
    let inject = |policy| only(&parse(policy).unwrap()).key.inject;
    assert_eq!(inject(r#"{"policy": {"key": {"inject": {"kind": "uuid"}}}}"#), Inject::Uuid);
    let content = Inject::Content { window_ms: 10_000, anonymous: false };
    assert_eq!(inject(r#"{"policy": {"key": {"inject": {"kind": "content"}}}}"#), content);
}

#[test]
fn redis_needs_a_cluster_and_has_a_default_for_everything_else() {
    let config = parse(r#"{"store": {"type": "redis", "cluster": "resp"}}"#).unwrap();
    let wanted = Redis {
        cluster: "resp".into(),
        dialect: Dialect::Resp { login: None },
        timeout_ms: 250,
        attempts: 2,
        prefix: "idem:".into(),
        batching: true,
        breaker: Breaker { failures: 5, open_ms: 1000 },
        cache: Some(CacheBounds { max_bytes: 16_777_216, max_entry_bytes: 16_384, ttl_ms: 60_000 }),
    };
    assert_eq!(config.store, Store::Redis(Box::new(wanted)));
    assert_eq!(only(&config).ttl_ms, 86_400_000);
}

#[test]
fn webdis_is_named_and_has_a_default_for_everything_else() {
    let config = parse(r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "w"}}"#).unwrap();
    let Store::Redis(redis) = config.store else { panic!("it is Redis") };
    let wanted = Webdis { authority: "w".into(), path: "/".into(), authorization: None };
    assert_eq!(redis.dialect, Dialect::Webdis(wanted));
}

#[test]
fn every_field_of_redis_is_read() {
    let config = parse(
        r#"{
            "store": {
                "type": "redis", "dialect": "webdis", "cluster": "outbound|7379||webdis.idempotency.svc.cluster.local",
                "authority": "webdis.idempotency", "path": "/redis/7", "authorization": {"env": "TOKEN"},
                "timeout_ms": 10, "attempts": 10, "prefix": "a/b%c.d:", "batching": false,
                "breaker": {"failures": 1000, "open_ms": 60000},
                "cache": {"max_bytes": 134217728, "max_entry_bytes": 16777216, "ttl_s": 86400}
            },
            "secrets": {"encryption": [{"id": "a", "key": {"env": "KEY"}}]},
            "policy": {"max_response_bytes": 16777216}
        }"#,
    )
    .unwrap();
    let wanted = Redis {
        cluster: "outbound|7379||webdis.idempotency.svc.cluster.local".into(),
        dialect: Dialect::Webdis(Webdis {
            authority: "webdis.idempotency".into(),
            path: "/redis/7/".into(),
            authorization: Some("Basic Z2F0ZXdheTpzZWNyZXQ=".into()),
        }),
        timeout_ms: 10,
        attempts: 10,
        prefix: "a/b%c.d:".into(),
        batching: false,
        breaker: Breaker { failures: 1000, open_ms: 60_000 },
        cache: Some(CacheBounds { max_bytes: 134_217_728, max_entry_bytes: 16_777_216, ttl_ms: 86_400_000 }),
    };
    assert_eq!(config.store, Store::Redis(Box::new(wanted)));
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn redis_itself_is_reached_with_or_without_a_login() {
    let dialect = |fields: &str| {
        let document = format!(r#"{{"store": {{"type": "redis", "cluster": "c", "dialect": "resp"{fields}}}}}"#);
        let config = parse(&document).unwrap_or_else(|error| panic!("{error}"));
        match config.store {
            Store::Redis(redis) => (redis.dialect, config.warnings),
            Store::Local { .. } => panic!("it is Redis"),
        }
    };
    let in_clear = "/store: keeps responses in Redis in clear; give secrets.encryption".to_owned();
    let login = |username: Option<&str>, password: &str| Dialect::Resp {
        login: Some(Login { username: username.map(Into::into), password: password.into() }),
    };
    assert_eq!(dialect(""), (Dialect::Resp { login: None }, vec![in_clear.clone()]));
    let (given, warnings) = dialect(r#", "username": "gateway", "password": "secret""#);
    assert_eq!(given, login(Some("gateway"), "secret"));
    let shown = "/store/password: can be read in Envoy's config dump; give {\"env\": NAME} instead".to_owned();
    assert_eq!(warnings, [shown, in_clear.clone()]);
    let (given, warnings) = dialect(r#", "username": {"env": "TOKEN"}, "password": {"env": "TOKEN"}"#);
    assert_eq!(given, login(Some("Basic Z2F0ZXdheTpzZWNyZXQ="), "Basic Z2F0ZXdheTpzZWNyZXQ="));
    assert!(!format!("{given:?}").contains("Z2F"));
    assert_eq!(
        (dialect(r#", "password": {"env": "TOKEN"}"#).0, warnings),
        (login(None, "Basic Z2F0ZXdheTpzZWNyZXQ="), vec![in_clear])
    );
}

#[test]
fn a_field_of_another_dialect_is_refused_with_the_dialect_that_has_it() {
    for field in ["authority", "path", "authorization"] {
        let wanted = format!("/store/{field}: is how HTTP is spoken, so it wants dialect \"webdis\" beside it");
        assert_eq!(refusal(&redis(&format!(r#""dialect": "resp", "{field}": "/a""#))), wanted);
        let by_default = format!(r#"{{"store": {{"type": "redis", "cluster": "c", "{field}": "/a"}}}}"#);
        assert_eq!(refusal(&by_default), wanted);
    }
    for field in ["username", "password"] {
        let message = refusal(&redis(&format!(r#""{field}": "a""#)));
        let wanted = "is what a stream logs in with, so it wants dialect \"resp\"; Webdis has its own";
        assert_eq!(message, format!("/store/{field}: {wanted}"));
    }
    let known = "type, cluster, dialect, username, password, timeout_ms, attempts, prefix, batching, breaker, cache";
    let message = refusal(&redis(r#""dialect": "resp", "max_bytes": 67108864"#));
    assert_eq!(message, format!("/store/max_bytes: is not a known field; known here: {known}"));
}

#[test]
fn every_mistake_about_redis_itself_is_one_sentence_with_its_place_in_front() {
    let resp = |given: &str| redis(&format!(r#""dialect": "resp", {given}"#));
    for (given, message) in [
        (r#""username": "a""#, "/store/username: must not be there without password"),
        (r#""username": """#, "/store/username: must not be empty"),
        (r#""username": 7, "password": "a""#, r#"/store/username: must be a string or {"env": NAME}, is 7"#),
        (r#""password": """#, "/store/password: must not be empty"),
        (r#""password": 7"#, r#"/store/password: must be a string or {"env": NAME}, is a number"#),
        (
            r#""password": {"env": "NONE"}"#,
            "/store/password/env: names a variable that the VM's environment does not have",
        ),
    ] {
        assert_eq!(refusal(&resp(given)), message, "for {given}");
    }
    let long = "x".repeat(121);
    assert_eq!(
        refusal(&format!(r#"{{"store": {{"type": "redis", "dialect": "resp", "cluster": "{long}"}}}}"#)),
        r#"/store/cluster: must be at most 120 bytes long with dialect "resp", is 121"#
    );
    let large = r#"{"store": {"type": "redis", "dialect": "resp", "cluster": "c"}, "policy": {"max_response_bytes": 33554433}}"#;
    assert_eq!(
        refusal(large),
        "/store: carries responses of at most 33554432 bytes in Redis, and max_response_bytes is 33554433"
    );
    parse(&large.replace("33554433", "33554432")).unwrap();
}

#[test]
fn the_document_that_takes_frames_off_stands_alone() {
    let read = |document: &str| {
        Document::parse(document.as_bytes(), &|_| None).map(|document| matches!(document, Document::Framing))
    };
    assert!(read(r#"{"framing": true}"#).unwrap());
    assert!(!read("{}").unwrap());
    for (document, message) in [
        (r#"{"framing": false}"#, "/framing: must be true, is false"),
        (r#"{"framing": 1}"#, "/framing: must be true, is 1"),
        (r#"{"framing": true, "store": {}}"#, "/store: must not stand beside framing, which stands alone"),
    ] {
        assert_eq!(read(document).unwrap_err().to_string(), message);
    }
    // As any other field of a gateway's document it is unknown.
    assert!(refusal(r#"{"framing": true}"#).starts_with("/framing: is not a known field"));
}

#[test]
fn two_documents_have_one_store_where_place_and_credentials_are_the_same() {
    let store = |more: &str| {
        let document =
            format!(r#"{{"store": {{"type": "redis", "dialect": "webdis", "cluster": "c", "authority": "c"{more}}}}}"#);
        match parse(&document).expect("it is right").store {
            Store::Redis(redis) => redis,
            Store::Local { .. } => panic!("it is Redis"),
        }
    };
    let own = store("");
    for same in ["", r#", "timeout_ms": 100"#, r#", "cache": null"#, r#", "batching": false"#] {
        assert!(own.is_same_store(&store(same)), "{same}");
    }
    for other in [r#", "path": "/x""#, r#", "prefix": "x:""#, r#", "authorization": "Basic eA==""#] {
        assert!(!own.is_same_store(&store(other)), "{other}");
    }
    for other in [
        r#"{"cluster": "d", "dialect": "webdis", "authority": "c"}"#,
        r#"{"cluster": "c", "dialect": "webdis", "authority": "d"}"#,
        r#"{"cluster": "c", "dialect": "resp"}"#,
    ] {
        let document = format!(r#"{{"store": {}}}"#, other.replace('{', r#"{"type": "redis", "#));
        let Store::Redis(other) = parse(&document).expect("it is right").store else { panic!("it is Redis") };
        assert!(!own.is_same_store(&other), "{document}");
    }
}

#[test]
fn what_redis_leaves_out_of_a_nested_object_has_its_default() {
    for (given, breaker, cache) in [
        (r#""cache": null"#, (5, 1000), None),
        (r#""cache": {}, "breaker": {}"#, (5, 1000), Some((16_777_216, 16_384, 60_000))),
        (r#""cache": {"ttl_s": 1}, "breaker": {"failures": 1}"#, (1, 1000), Some((16_777_216, 16_384, 1000))),
        (r#""cache": {"max_entry_bytes": 1}, "breaker": {"open_ms": 10}"#, (5, 10), Some((16_777_216, 1, 60_000))),
        (r#""cache": {"max_bytes": 1048576}"#, (5, 1000), Some((1_048_576, 16_384, 60_000))),
    ] {
        let Store::Redis(redis) = parse(&redis(given)).unwrap().store else { panic!("{given} is not on redis") };
        let (failures, open_ms) = breaker;
        assert_eq!(redis.breaker, Breaker { failures, open_ms }, "{given}");
        let bounds = |(max_bytes, max_entry_bytes, ttl_ms)| CacheBounds { max_bytes, max_entry_bytes, ttl_ms };
        assert_eq!(redis.cache, cache.map(bounds), "{given}");
    }
}

#[test]
fn the_path_of_the_store_ends_with_one_slash() {
    for (path, wanted) in [("/", "/"), ("//", "/"), ("/7", "/7/"), ("/7/", "/7/"), ("/a/b//", "/a/b/")] {
        let Store::Redis(redis) = parse(&redis(&format!(r#""path": "{path}""#))).unwrap().store else {
            panic!("{path} is not on redis")
        };
        let Dialect::Webdis(webdis) = redis.dialect else { panic!("{path} is not of Webdis") };
        assert_eq!(webdis.path, wanted, "{path}");
    }
}

#[test]
fn a_record_lives_for_a_day_on_redis_unless_a_rule_says_otherwise() {
    let config = parse(
        r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "webdis"}, "rules": [
            {"match": {"path": {"exact": "/a"}}, "policy": {"lease_ms": 86399999}},
            {"policy": {"ttl_s": 61}}
        ]}"#,
    )
    .unwrap();
    assert_eq!(config.rules.iter().map(|rule| rule.policy.ttl_ms).collect::<Vec<_>>(), [86_400_000, 61_000]);
}

#[test]
fn every_field_of_the_other_store_is_unknown() {
    for field in
        ["cluster", "dialect", "authority", "path", "authorization", "timeout_ms", "attempts", "prefix", "batching"]
            .into_iter()
            .chain(["breaker", "cache"])
    {
        for kind in ["", r#""type": "local", "#] {
            let message = refusal(&format!(r#"{{"store": {{{kind}"{field}": null}}}}"#));
            assert_eq!(message, format!("/store/{field}: is not a known field; known here: type, max_bytes"));
        }
    }
    let known = "type, cluster, dialect, authority, path, authorization, timeout_ms, attempts, prefix, batching, \
                 breaker, cache";
    let message = refusal(&redis(r#""max_bytes": 67108864"#));
    assert_eq!(message, format!("/store/max_bytes: is not a known field; known here: {known}"));
}

#[test]
fn every_mistake_about_redis_is_one_sentence_with_its_place_in_front() {
    for (given, message) in REDIS_MISTAKES {
        assert_eq!(refusal(&redis(given)), *message, "for {given}");
    }
}

#[test]
fn every_mistake_about_secret_keys_is_one_sentence_with_its_place_in_front() {
    for (keys, message) in SECRET_KEY_MISTAKES {
        for name in ["encryption", "issuing"] {
            let document = format!(r#"{{"secrets": {{"{name}": {keys}}}}}"#);
            assert_eq!(refusal(&document), format!("/secrets/{name}{message}"), "for {keys}");
        }
    }
}

#[test]
fn each_ending_has_its_own_fate() {
    for (ending, name) in [
        (Ending::Disconnect, "disconnect"),
        (Ending::Reset, "reset"),
        (Ending::Timeout, "timeout"),
        (Ending::Unsent, "unsent"),
    ] {
        let config = parse(&format!(r#"{{"policy": {{"outcomes": {{"{name}": "retry"}}}}}}"#)).unwrap();
        let outcomes = &only(&config).outcomes;
        for other in [Ending::Disconnect, Ending::Reset, Ending::Timeout, Ending::Unsent] {
            let wanted = if other == ending { Fate::Retry } else { Outcomes::default().of_ending(other) };
            assert_eq!(outcomes.of_ending(other), wanted, "{other:?} where {name} is set");
        }
    }
}

#[test]
fn statuses_are_a_preset_or_a_preset_with_changes() {
    for (statuses, wanted) in [
        (r#""classic""#, [409, 429, 503]),
        (r#""ietf""#, [422, 409, 503]),
        (r#"{}"#, [409, 429, 503]),
        (r#"{"base": "ietf"}"#, [422, 409, 503]),
        (r#"{"base": "ietf", "in-flight": 425}"#, [422, 425, 503]),
        (r#"{"store-unavailable": 599, "mismatch": 400}"#, [400, 429, 599]),
    ] {
        let config = parse(&format!(r#"{{"policy": {{"statuses": {statuses}}}}}"#)).unwrap();
        let slugs = [ProblemType::Mismatch, ProblemType::InFlight, ProblemType::StoreUnavailable];
        assert_eq!(slugs.map(|slug| only(&config).statuses.of(slug)), wanted, "{statuses}");
    }
}

#[test]
fn a_number_written_as_a_double_is_whole_if_its_fraction_is_zero() {
    for number in ["2000", "2000.0", "2e3", "20000e-1"] {
        let config = parse(&format!(r#"{{"policy": {{"lease_ms": {number}}}}}"#)).unwrap();
        assert_eq!(only(&config).lease_ms, 2000);
    }
}

#[test]
fn a_rule_patches_the_policy_of_the_document() {
    let config = parse(
        r#"{
            "policy": {
                "lease_ms": 5000,
                "key": {"required": true, "sources": [{"header": "a"}, {"header": "b"}]},
                "outcomes": {"503": "unknown", "4xx": "retry"},
                "statuses": {"base": "ietf", "mismatch": 400}
            },
            "rules": [
                {"match": {"path": {"exact": "/kept"}}},
                {"match": {"path": {"exact": "/empty"}}, "policy": {}},
                {"name": "changed", "policy": {
                    "lease_ms": null,
                    "key": {"sources": [{"query": "c"}]},
                    "outcomes": {"503": null, "504": "retry"},
                    "statuses": {"base": null, "in-flight": 423}
                }},
                {"name": "reset", "policy": {"key": null, "outcomes": null, "statuses": "classic"}}
            ]
        }"#,
    )
    .unwrap();
    let names: Vec<_> = config.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["rule0", "rule1", "changed", "reset"]);

    let kept = &config.rules[0].policy;
    assert_eq!(kept.lease_ms, 5000);
    assert_eq!(kept.outcomes.of_status(503), Fate::Unknown);
    assert_eq!(kept.statuses.of(ProblemType::InFlight), 409);
    let renamed = Policy { rule: kept.rule.clone(), ..Policy::clone(&config.rules[1].policy) };
    assert_eq!(format!("{kept:?}"), format!("{renamed:?}"));

    let changed = &config.rules[2].policy;
    assert_eq!(changed.lease_ms, 60_000);
    assert_eq!(changed.key.sources, [Part::Query("c".into())]);
    assert!(changed.key.required);
    assert_eq!([400, 503, 504].map(|status| changed.outcomes.of_status(status)), [Fate::Retry; 3]);
    assert_eq!([ProblemType::Mismatch, ProblemType::InFlight].map(|slug| changed.statuses.of(slug)), [400, 423]);

    let reset = &config.rules[3].policy;
    assert_eq!(reset.lease_ms, 5000);
    assert!(!reset.key.required);
    assert_eq!(reset.outcomes, Outcomes::default());
    assert_eq!(reset.statuses, Statuses::classic());
}

#[test]
fn a_patch_that_is_right_only_when_merged_is_accepted() {
    let config = parse(r#"{"policy": {"ttl_s": 7200}, "rules": [{"policy": {"lease_ms": 3000000}}]}"#);
    assert_eq!(config.unwrap().rules[0].policy.lease_ms, 3_000_000);
}

#[test]
fn a_rule_changes_one_part_of_how_it_is_executed() {
    let execution = |policy: &str, patch: &str| {
        let rules = format!(r#"[{{"policy": {{"execution": {patch}}}}}]"#);
        let config = parse(&format!(r#"{{"policy": {{"execution": {policy}}}, "rules": {rules}}}"#)).unwrap();
        config.rules[0].policy.execution.clone()
    };
    let to = |cluster: &str, timeout_ms| Execution::Shielded { cluster: cluster.into(), timeout_ms };
    let shielded = r#"{"kind": "shielded", "cluster": "c"}"#;
    assert_eq!(execution(shielded, r#"{"kind": "inline"}"#), Execution::Inline);
    assert_eq!(execution(shielded, r#"{"timeout_ms": 500}"#), to("c", 500));
    assert_eq!(execution(shielded, r#"{"cluster": "d"}"#), to("d", 30_000));
    assert_eq!(execution(r#"{"kind": "inline", "cluster": "c"}"#, r#"{"kind": "shielded"}"#), to("c", 30_000));
}

#[test]
fn every_mistake_is_one_sentence_with_its_place_in_front() {
    for (document, message) in MISTAKES {
        assert_eq!(refusal(document), *message, "for {document}");
    }
}

#[test]
fn every_mistake_in_a_policy_is_found_in_a_rule_too() {
    for (document, message) in MISTAKES {
        let Some(policy) = document.strip_prefix(r#"{"policy": "#) else { continue };
        // Columns are others there, and some documents are no JSON.
        if message.contains(" at line ") {
            continue;
        }
        // In a patch these take a field away.
        if message.ends_with("is null") && !message.contains("/0") {
            continue;
        }
        let document = format!(r#"{{"rules": [{{}}, {{"policy": {policy}]}}"#);
        assert_eq!(refusal(&document), message.replacen("/policy", "/rules/1/policy", 1), "for {document}");
    }
}

#[test]
fn a_contradiction_that_merging_makes_is_pointed_at_where_the_rule_made_it() {
    for (policy, patch, message) in [
        (r#""ttl_s": 120"#, r#""lease_ms": 120000"#, "lease_ms: must be less than ttl_s (120 s), is 120000"),
        (r#""lease_ms": 9000"#, r#""ttl_s": 9"#, "ttl_s: must exceed lease_ms (9000 ms), is 9"),
        (
            r#""ttl_s": 30, "lease_ms": 1000"#,
            r#""lease_ms": null"#,
            "lease_ms: must be less than ttl_s (30 s), is 60000",
        ),
        (r#""ttl_s": 120"#, r#""lease_ms": 90000, "ttl_s": 90"#, "ttl_s: must exceed lease_ms (90000 ms), is 90"),
        (
            r#""scope": {"caller": []}"#,
            r#""scope": {"anonymous": "refuse"}"#,
            "scope: must not have an empty caller with anonymous \"refuse\", which refuses every request",
        ),
    ] {
        let document = format!(r#"{{"policy": {{{policy}}}, "rules": [{{"policy": {{{patch}}}}}]}}"#);
        assert_eq!(refusal(&document), format!("/rules/0/policy/{message}"), "for {document}");
    }
}

#[test]
fn a_document_cut_off_anywhere_is_refused() {
    for end in 1..WHOLE.len() {
        let message = refusal(&WHOLE[..end]);
        assert!(message.starts_with("the document: is not JSON: EOF"), "{end}: {message}");
    }
}

#[test]
fn a_document_nested_too_deeply_is_refused() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let document = format!("{}0{}", open.repeat(100_000), close.repeat(100_000));
        let message = refusal(&document);
        assert!(message.starts_with("the document: is not JSON: recursion limit exceeded at line 1"), "{message}");
    }
    let nested = format!(
        r#"{{"policy": {{"key": {{"sources": [{}{{"query": ""}}{}]}}}}}}"#,
        r#"{"any": ["#.repeat(50),
        "]}".repeat(50)
    );
    assert!(
        refusal(&nested)
            .ends_with("any/0/query: must be a string that is not empty and has no control characters, is \"\"")
    );
}

#[test]
fn no_message_shows_a_secret() {
    for hash_key in [
        r#""hunter2""#,
        r#"["hunter2"]"#,
        r#"{"env": "hunter2"}"#,
        r#"{"env": ["hunter2"]}"#,
        r#"{"env": "hunter2\n"}"#,
    ] {
        let document = format!(r#"{{"secrets": {{"hash_key": {hash_key}}}, "a": 1}}"#);
        assert!(!refusal(&document).contains("hunter2"), "{document}");
    }
    let key = "hunter2hunter2hunter2hunter2hunter2hunter2";
    for keys in [
        r#""KEY""#,
        r#"{"id": "a", "key": "KEY"}"#,
        r#"["KEY"]"#,
        r#"[{"id": "KEY"}]"#,
        r#"[{"id": "KEY"}, {"id": "a", "key": "KEY"}]"#,
        r#"[{"id": "a", "key": "KEY"}]"#,
        r#"[{"id": "a", "key": ["KEY"]}]"#,
        r#"[{"id": "a", "key": {"env": "KEY"}}]"#,
    ] {
        let document = format!(r#"{{"secrets": {{"encryption": {}}}}}"#, keys.replace("KEY", key));
        assert!(!refusal(&document).contains("hunter2"), "{document}");
    }
    for value in
        [r#""hunter2ä""#, r#""hunter2\n""#, r#"["hunter2"]"#, r#"{"env": "hunter2"}"#, r#"{"env": ["hunter2"]}"#]
    {
        let document = redis(&format!(r#""authorization": {value}"#));
        assert!(!refusal(&document).contains("hunter2"), "{document}");
    }
    let literal = r#""authorization": "hunter2""#;
    assert!(!parse(&redis(literal)).unwrap().warnings.concat().contains("hunter2"));
    assert!(!refusal(&format!(r#"{{"store": {{{literal}}}}}"#)).contains("hunter2"), "a type was forgotten");
    let literal = format!(r#"{{"secrets": {{"encryption": [{{"id": "a", "key": "{KEY}"}}]}}}}"#);
    let config = parse(&literal).unwrap();
    assert_eq!(format!("{:?} {:?}", config.warnings, config.encryption).matches(&KEY[..8]).count(), 0);
    assert!(!refusal(r#"{"secrets": "hunter2"}"#).contains("hunter2"));
    assert!(!refusal(r#""{\"secrets\": {\"hash_key\": \"hunter2\"}}""#).contains("hunter2"));
    let config = parse(r#"{"secrets": {"hash_key": "hunter2"}}"#).unwrap();
    assert_eq!(config.hash_key.as_deref(), Some(b"hunter2".as_slice()));
    assert!(!config.warnings.concat().contains("hunter2"));
}

#[test]
fn risky_settings_are_warned_of_once_where_they_were_written() {
    for (document, warnings) in WARNINGS {
        assert_eq!(parse(document).unwrap().warnings, *warnings, "for {document}");
    }
}

#[test]
fn without_rules_only_post_and_patch_match() {
    let config = parse("{}").unwrap();
    for (method, matches) in
        [("POST", true), ("PATCH", true), ("GET", false), ("PUT", false), ("post", false), ("", false)]
    {
        assert_eq!(config.may_match(method.as_bytes(), None), matches, "{method}");
        assert_eq!(config.may_match(method.as_bytes(), Some(b"/any?thing")), matches, "{method}");
        assert_eq!(matched(&config, &[(":method", method), (":path", "/any?thing")]).is_some(), matches, "{method}");
    }
}

#[test]
fn the_first_rule_that_matches_decides_even_if_its_mode_is_off() {
    let config = parse(
        r#"{"rules": [
            {"name": "webhooks", "match": {"path": {"prefix": "/v1/hooks"}}, "policy": {"mode": "off"}},
            {"name": "v1", "match": {"path": {"prefix": "/v1/"}, "methods": ["POST"]}},
            {"name": "puts", "match": {"methods": ["PUT"]}}
        ]}"#,
    )
    .unwrap();
    for (method, path, name) in [
        ("POST", "/v1/hooks/1", Some("webhooks")),
        ("PATCH", "/v1/hooks?a=b", Some("webhooks")),
        ("GET", "/v1/hooks?a=b", None),
        ("POST", "/v1/payments", Some("v1")),
        ("PUT", "/v1/payments", Some("puts")),
        ("GET", "/v1/payments", None),
        ("POST", "/v2", None),
        ("PUT", "*", Some("puts")),
    ] {
        assert_eq!(matched(&config, &[(":method", method), (":path", path)]).as_deref(), name, "{method} {path}");
        assert_eq!(config.may_match(method.as_bytes(), Some(path.as_bytes())), name.is_some(), "{method} {path}");
        assert_eq!(config.may_match(method.as_bytes(), None), method != "GET", "{method}");
    }
}

#[test]
fn a_star_is_every_method_that_changes_something_and_others_are_named() {
    let config = parse(r#"{"rules": [{"match": {"methods": ["*", "GET"]}}]}"#).unwrap();
    for (method, matches) in [
        ("POST", true),
        ("PUT", true),
        ("DELETE", true),
        ("PROPPATCH", true),
        ("GET", true),
        ("HEAD", false),
        ("OPTIONS", false),
        ("TRACE", false),
        ("CONNECT", false),
    ] {
        assert_eq!(config.may_match(method.as_bytes(), None), matches, "{method}");
    }
}

/// Each pair of conditions, and whether the first leaves anything for the second.
#[test]
fn a_rule_hides_one_behind_it_that_takes_no_more() {
    for (wider, narrower, hides) in [
        (r#""methods": ["*"]"#, r#""methods": ["POST", "DELETE"]"#, true),
        (r#""methods": ["*"]"#, r#""methods": ["POST", "GET"]"#, false),
        (r#""methods": ["POST", "PUT"]"#, r#""methods": ["*"]"#, false),
        (r#""path": {"prefix": "/a"}"#, r#""path": {"exact": "/ab"}"#, true),
        (r#""path": {"prefix": "/a"}"#, r#""path": {"template": "/a/{id}"}"#, true),
        (r#""path": {"prefix": "/a/b"}"#, r#""path": {"template": "/a/{id}"}"#, false),
        (r#""path": {"prefix": "/a/"}"#, r#""path": {"prefix": "/a"}"#, false),
        (r#""path": {"exact": "/a"}"#, r#""path": {"prefix": "/a"}"#, false),
        (r#""path": {"template": "/a/{x}"}"#, r#""path": {"exact": "/a/1"}"#, true),
        (r#""path": {"template": "/a/{x}"}"#, r#""path": {"template": "/a/b"}"#, true),
        (r#""path": {"template": "/a/b"}"#, r#""path": {"template": "/a/{x}"}"#, false),
        (r#""path": {"template": "/a/{x}"}"#, r#""path": {"template": "/a/**"}"#, false),
        (r#""path": {"template": "/a/**"}"#, r#""path": {"template": "/a/{x}/b/**"}"#, true),
        (r#""path": {"template": "/{x}/**"}"#, r#""path": {"template": "/a/**"}"#, true),
        (r#""path": {"template": "/a/{x}/**"}"#, r#""path": {"template": "/a/**"}"#, false),
        (r#""path": {"template": "/a/**"}"#, r#""path": {"prefix": "/a/b"}"#, true),
        (r#""path": {"template": "/a/**"}"#, r#""path": {"prefix": "/a"}"#, false),
        (r#""path": {"prefix": "/"}"#, r#""methods": ["POST"]"#, false),
        (r#""hosts": ["*.example.com"]"#, r#""hosts": ["a.example.com", "*.b.example.com"]"#, true),
        (r#""hosts": ["*.example.com"]"#, r#""hosts": ["example.com"]"#, false),
        (r#""hosts": ["a.example.com"]"#, r#""hosts": ["*.example.com"]"#, false),
        (r#""hosts": ["a.example.com"]"#, r#""methods": ["POST"]"#, false),
        (r#""headers": [{"name": "a", "present": true}]"#, r#""headers": [{"name": "A", "equals": "1"}]"#, true),
        (r#""headers": [{"name": "a", "equals": "1"}]"#, r#""headers": [{"name": "a", "present": true}]"#, false),
        (r#""headers": [{"name": "a", "present": true}]"#, r#""methods": ["POST"]"#, false),
        (r#""methods": ["POST", "PATCH"]"#, r#""headers": [{"name": "a", "present": true}]"#, true),
    ] {
        let config =
            parse(&format!(r#"{{"rules": [{{"match": {{{wider}}}}}, {{"match": {{{narrower}}}}}]}}"#)).unwrap();
        let is_hidden = config.warnings.iter().any(|warning| warning.contains("is never reached"));
        assert_eq!(is_hidden, hides, "{wider} before {narrower}: {:?}", config.warnings);
    }
}

#[test]
fn a_host_matches_exactly_or_below_a_wildcard() {
    for (wanted, host, matches) in [
        ("api.example.com", "api.example.com", true),
        ("API.example.com:443", "api.EXAMPLE.com:8443", true),
        ("api.example.com", "api.example.com.evil.org", false),
        ("api.example.com", "xapi.example.com", false),
        ("*.example.com", "a.example.com", true),
        ("*.Example.com", "A.B.example.com:80", true),
        ("*.example.com", "example.com", false),
        ("*.example.com", ".example.com", false),
        ("*.example.com", "aexample.com", false),
        ("localhost", "localhost:10000", true),
        ("[::1]", "[::1]:80", true),
        ("[::1]:443", "[::1]", true),
        ("127.0.0.1", "127.0.0.1", true),
        ("127.0.0.1", "", false),
    ] {
        let config = parse(&format!(r#"{{"rules": [{{"match": {{"hosts": ["other.org", "{wanted}"]}}}}]}}"#)).unwrap();
        let head = [(":method", "POST"), (":authority", host), (":path", "/")];
        assert_eq!(matched(&config, &head).is_some(), matches, "{wanted} against {host}");
        assert!(config.may_match(b"POST", Some(b"/")), "hosts are not looked at before headers are read");
    }
}

#[test]
fn a_path_matches_without_its_query() {
    for (wanted, path, matches) in [
        (r#"{"exact": "/a"}"#, "/a", true),
        (r#"{"exact": "/a"}"#, "/a?b=c", true),
        (r#"{"exact": "/a"}"#, "/a?", true),
        (r#"{"exact": "/a"}"#, "/a/", false),
        (r#"{"exact": "/a"}"#, "/A", false),
        (r#"{"exact": "/a"}"#, "/b?x=/a", false),
        (r#"{"prefix": "/a"}"#, "/a", true),
        (r#"{"prefix": "/a"}"#, "/ab/c?d", true),
        (r#"{"prefix": "/a/"}"#, "/a", false),
        (r#"{"prefix": "/"}"#, "*", false),
        (r#"{"template": "/a/{id}/b"}"#, "/a/1/b?c", true),
        (r#"{"template": "/a/{id}/b"}"#, "/a/1/c", false),
    ] {
        let config = parse(&format!(r#"{{"rules": [{{"match": {{"path": {wanted}}}}}]}}"#)).unwrap();
        let head = [(":method", "POST"), (":path", path)];
        assert_eq!(matched(&config, &head).is_some(), matches, "{wanted} against {path}");
        assert_eq!(config.may_match(b"POST", Some(path.as_bytes())), matches, "{wanted} against {path}");
    }
    let config = parse(r#"{"rules": [{"match": {"path": {"prefix": "/a"}}}]}"#).unwrap();
    let mut headers = Headers::default();
    headers.push(b":method", b"POST");
    headers.push(b":path", b"/a\xff");
    assert!(config.rule_for(&RequestHead { headers }, &|_, _| None).is_some(), "a path need not be text");
}

#[test]
fn a_template_takes_one_segment_for_a_name_and_the_rest_for_two_stars() {
    for (template, path, holds) in [
        ("/", "/", true),
        ("/", "", false),
        ("/", "/a", false),
        ("/a/b", "/a/b", true),
        ("/a/b", "/a/b/", false),
        ("/a/b", "/a/bc", false),
        ("/a/", "/a/", true),
        ("/{x}", "/a", true),
        ("/{x}", "/", false),
        ("/{x}", "/a/", false),
        ("/{x}", "/a/b", false),
        ("/{x}/", "/a/", true),
        ("/{x}/{y}", "/a/b", true),
        ("/{x}/{y}", "/a/", false),
        ("/{x}/{y}", "//b", false),
        ("/v1/accounts/{id}/payments", "/v1/accounts/7/payments", true),
        ("/v1/accounts/{id}/payments", "/v1/accounts//payments", false),
        ("/v1/accounts/{id}/payments", "/v1/accounts/7/8/payments", false),
        ("/v1/accounts/{id}/payments", "/v1/accounts/7/payments/9", false),
        ("/v1/accounts/{id}/payments", "/v1/accounts/7/paymentsx", false),
        ("/v1/accounts/{id}/payments", "/v1/accounts/7", false),
        ("/v1/jobs:run", "/v1/jobs:run", true),
        ("/**", "/", true),
        ("/**", "/a/b", true),
        ("/a/**", "/a", false),
        ("/a/**", "/a/", true),
        ("/a/**", "/a/b/c", true),
        ("/a/**", "/ab", false),
        ("/a/{x}/**", "/a/1/", true),
        ("/a/{x}/**", "/a/1", false),
        ("/a/{x}/**", "/a//b", false),
    ] {
        let wanted = PathMatch::Template(Template::parse(template).unwrap());
        assert_eq!(wanted.holds(path.as_bytes()), holds, "{template} against {path}");
    }
    for template in ["", "a", "a/{b}"] {
        assert_eq!(Template::parse(template), None, "{template}");
    }
}

#[test]
fn headers_match_by_presence_or_by_one_whole_line() {
    let config = parse(
        r#"{"rules": [{"match": {"headers": [{"name": "X-Tenant", "equals": "acme"}, {"name": "x-pay", "present": true}]}}]}"#,
    )
    .unwrap();
    for (headers, matches) in [
        (&[("x-tenant", "acme"), ("x-pay", "")][..], true),
        (&[("x-tenant", "other"), ("x-tenant", "acme"), ("x-pay", "1")], true),
        (&[("x-tenant", "acme")], false),
        (&[("x-pay", "1")], false),
        (&[("x-tenant", "ACME"), ("x-pay", "1")], false),
        (&[("x-tenant", "other, acme"), ("x-pay", "1")], false),
    ] {
        let head = [&[(":method", "POST")], headers].concat();
        assert_eq!(matched(&config, &head).is_some(), matches, "{headers:?}");
    }
}

#[test]
fn route_metadata_is_read_only_where_everything_else_matches() {
    let config = parse(
        r#"{"rules": [
            {"name": "deep", "match": {
                "methods": ["POST"], "hosts": ["a.example"], "path": {"prefix": "/p"},
                "headers": [{"name": "x-h", "present": true}],
                "route_metadata": {"namespace": "idempotency", "key": "policy", "equals": "strict"}
            }},
            {"name": "rest", "match": {"methods": ["*", "GET"]}}
        ]}"#,
    )
    .unwrap();
    let whole = [(":method", "POST"), (":authority", "a.example"), (":path", "/p"), ("x-h", "1")];
    for (at, other) in [(0, "GET"), (1, "b.example"), (2, "/q"), (3, "")] {
        let mut head = whole;
        head[at].1 = other;
        if other.is_empty() {
            head[at].0 = "x-other";
        }
        let head = RequestHead { headers: head.into_iter().collect() };
        let rule = config.rule_for(&head, &|_, _| panic!("metadata was read"));
        assert_eq!(rule.unwrap().name, "rest");
    }
    let head = RequestHead { headers: whole.into_iter().collect() };
    for (value, name) in [(Some("strict"), "deep"), (Some("strict "), "rest"), (Some(""), "rest"), (None, "rest")] {
        let asked = RefCell::new(Vec::new());
        let metadata = |namespace: &str, key: &str| {
            asked.borrow_mut().push(format!("{namespace}.{key}"));
            value.map(|value| value.as_bytes().to_vec())
        };
        assert_eq!(config.rule_for(&head, &metadata).unwrap().name, name, "{value:?}");
        assert_eq!(*asked.borrow(), ["idempotency.policy"]);
    }
}

/// Every document of this file is held against the schema too.
fn parse(document: &str) -> Result<Config, ConfigError> {
    let parsed = Config::parse(document.as_bytes(), &|name| match name {
        "HASH_KEY" => Some("from the environment".into()),
        "EMPTY" => Some(String::new()),
        "TOKEN" => Some("Basic Z2F0ZXdheTpzZWNyZXQ=".into()),
        "LINE" => Some("Bearer t\n".into()),
        // As a file or a shell leaves it, with the end of its line.
        "KEY" => Some(format!("{KEY}\n")),
        _ => None,
    });
    schema::agrees(document, &parsed);
    parsed
}

/// A document on redis with these fields, by way of Webdis unless they name another dialect.
fn redis(given: &str) -> String {
    let dialect = if given.contains("dialect") { "" } else { r#""dialect": "webdis", "# };
    format!(r#"{{"store": {{"type": "redis", "cluster": "webdis", {dialect}{given}}}}}"#)
}

fn refusal(document: &str) -> String {
    parse(document).map_or_else(|error| error.to_string(), |_| "was accepted".into())
}

#[expect(clippy::indexing_slicing, reason = "a test that finds no rule has failed")]
fn only(config: &Config) -> &Policy {
    &config.rules[0].policy
}

fn matched(config: &Config, head: &[(&str, &str)]) -> Option<String> {
    let head = RequestHead { headers: head.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect() };
    config.rule_for(&head, &|_, _| None).map(|rule| rule.name.clone())
}

/// 32 bytes in base64.
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// A document in which no field has its default.
const WHOLE: &str = r#"{
    "store": {"type": "local", "max_bytes": 134217728},
    "secrets": {
        "hash_key": {"env": "HASH_KEY"},
        "encryption": [{"id": "2026-07", "key": {"env": "KEY"}}, {"id": "2026-01", "key": {"env": "KEY"}}],
        "issuing": [{"id": "2026-07", "key": {"env": "KEY"}}, {"id": "2026-01", "key": {"env": "KEY"}}]
    },
    "policy": {
        "mode": "observe",
        "key": {
            "sources": [{"any": [{"header": "X-Key"}, {"query": "key"}]}, {"cookie": "sid"}, {"path_segment": 0}],
            "required": true,
            "max_bytes": 65536,
            "inject": {"kind": "off", "window_ms": 100, "anonymous": true}
        },
        "scope": {
            "caller": [{"header": "X-Tenant"}],
            "anonymous": "refuse", "method": false, "host": false, "path": false
        },
        "fingerprint": {"body": "off", "query": false, "headers": ["X-Version"]},
        "on_mismatch": "separate",
        "on_completed": "conflict",
        "on_unknown": "hold",
        "on_store_failure": "reject",
        "on_too_large": "bypass",
        "lease_ms": 1000,
        "max_running_ms": 2000,
        "ttl_s": 3,
        "max_request_bytes": 1,
        "max_response_bytes": 67108864,
        "outcomes": {"2xx": "unknown", "409": "retry", "502": "retry", "503": "unknown", "unsent": "retry"},
        "save": "after_reply",
        "statuses": {"base": "ietf", "mismatch": 400},
        "expose_cors": true
    },
    "rules": [{"name": "payments", "match": {"methods": ["POST"]}}],
    "status_path": "/.well-known/idempotency",
    "issue_path": "/keys",
    "issued_ttl_s": 3,
    "problem_base": "https://example.com/problems/"
}"#;

/// One mistake of each kind, and what the log line says; `schema.rs` makes each mistake with every field.
const MISTAKES: &[(&str, &str)] = &[
    (r#"[]"#, r#"the document: must be an object, is a list"#),
    (r#""secret""#, r#"the document: must be an object, is a string"#),
    (
        r#"{"policy": {"lease_ms": 2000}"#,
        r#"the document: is not JSON: EOF while parsing an object at line 1 column 29"#,
    ),
    (
        r#"{"policy": {"lease_ms": 2000, "mode": "off", "lease_ms": 3000}}"#,
        r#"/policy/lease_ms: is given a second time at line 1 column 55"#,
    ),
    (
        r#"{"rules": [{}, {"match": {"path": {"exact": "/a", "exact": "/a"}}}]}"#,
        r#"/rules/1/match/path/exact: is given a second time at line 1 column 57"#,
    ),
    (
        r#"{"polices": {}}"#,
        r#"/polices: is not a known field; known here: store, secrets, problem_base, status_path, issue_path, issued_ttl_s, policy, rules"#,
    ),
    (
        r#"{"a/b~c": 1}"#,
        r#"/a~1b~0c: is not a known field; known here: store, secrets, problem_base, status_path, issue_path, issued_ttl_s, policy, rules"#,
    ),
    (r#"{"store": {"type": "redis"}}"#, r#"/store: must have cluster"#),
    (
        r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "webdis"}, "policy": {"max_response_bytes": 16777217}}"#,
        r#"/store: carries responses of at most 16777216 bytes in Redis, and max_response_bytes is 16777217"#,
    ),
    (
        r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "webdis"}, "policy": {"lease_ms": 86400000}}"#,
        r#"/policy/lease_ms: must be less than ttl_s (86400 s), is 86400000"#,
    ),
    (r#"{"secrets": {"hash_key": ""}}"#, r#"/secrets/hash_key: must not be empty"#),
    (r#"{"secrets": {"hash_key": 5}}"#, r#"/secrets/hash_key: must be a string or {"env": NAME}, is a number"#),
    (r#"{"secrets": {"hash_key": {}}}"#, r#"/secrets/hash_key: must have env"#),
    (
        r#"{"secrets": {"hash_key": {"env": "ABSENT"}}}"#,
        r#"/secrets/hash_key/env: names a variable that the VM's environment does not have"#,
    ),
    (r#"{"secrets": {"hash_key": {"env": "EMPTY"}}}"#, r#"/secrets/hash_key: must not be empty"#),
    (r#"{"problem_base": "urn:a b"}"#, r#"/problem_base: must be 1 to 1024 visible ASCII characters, is "urn:a b""#),
    (
        r#"{"policy": {"mode": "dry_run"}}"#,
        r#"/policy/mode: must be "enforce" or "observe" or "inject" or "off", is "dry_run""#,
    ),
    (r#"{"issue_path": "/keys"}"#, r#"/issue_path: must not be given without secrets.issuing, which signs the keys"#),
    (
        r#"{"issue_path": "keys"}"#,
        r#"/issue_path: must be a path that begins with / and has no query, fragment, space or non-ASCII character, is "keys""#,
    ),
    (
        r#"{"secrets": {"issuing": [{"id": "1", "key": {"env": "KEY"}}]}, "policy": {"ttl_s": 600}}"#,
        r#"/issued_ttl_s: must be at most ttl_s of rule default (600), is 1800"#,
    ),
    (
        r#"{"store": {}, "policy": {"key": {"issued": "required"}}}"#,
        r#"/secrets: must have issuing, by which rule default tells issued keys (key.issued) from others"#,
    ),
    (
        r#"{"policy": {"key": {"issued": "required", "max_bytes": 75}}}"#,
        r#"/policy/key/issued: must not be "required" unless there is one key.sources, with a key.max_bytes that an issued key of 76 bytes fits"#,
    ),
    (
        r#"{"policy": {"key": {"issued": "required", "sources": [{"header": "a"}, {"header": "b"}]}}}"#,
        r#"/policy/key/issued: must not be "required" unless there is one key.sources, with a key.max_bytes that an issued key of 76 bytes fits"#,
    ),
    (
        r#"{"policy": {"key": {"issued": "required", "inject": {"kind": "uuid"}}}}"#,
        r#"/policy/key/issued: must not be "required" where key.inject makes a "uuid": the client could not repeat the key that it gets"#,
    ),
    (
        r#"{"policy": {"mode": "inject", "key": {"issued": "required"}}}"#,
        r#"/policy/key/issued: must not be "required" with mode "inject", which looks at no key"#,
    ),
    (
        r#"{"policy": {"serialize": {"sources": [{"json": "/sku"}]}}}"#,
        r#"/policy/serialize: must not be given unless key.required is true or key.inject makes a key: a request without one would run beside the lock"#,
    ),
    (
        r#"{"policy": {"key": {"required": true}, "serialize": {"name": "stock"}}}"#,
        r#"/policy/serialize: must have sources"#,
    ),
    (
        r#"{"policy": {"key": {"required": true}, "serialize": {"sources": []}}}"#,
        r#"/policy/serialize/sources: must not be empty"#,
    ),
    (
        r#"{"policy": {"key": {"required": true, "inject": {"kind": "uuid"}}}}"#,
        r#"/policy/key/required: must not be true where key.inject makes the key that a request does not have"#,
    ),
    (
        r#"{"policy": {"key": {"sources": [{"query": "a"}, {"query": "b"}], "inject": {"kind": "uuid"}}}}"#,
        r#"/policy/key/inject: must not be "uuid" with several key.sources: the client could not repeat the key that it gets"#,
    ),
    (
        r#"{"policy": {"mode": "inject", "key": {"inject": {"kind": "content"}}}}"#,
        r#"/policy/key/inject: must not be "content" with mode "inject", which has no store to find it in"#,
    ),
    (
        r#"{"policy": {"fingerprint": {"body": "off"}, "key": {"inject": {"kind": "content"}}}}"#,
        r#"/policy/key/inject: must not be "content" with fingerprint.body "off": the body is what tells requests apart"#,
    ),
    (
        r#"{"policy": {"fingerprint": {"json_only": ["/sent_at"]}}}"#,
        r#"/policy/fingerprint/json_only: must be absent unless fingerprint.body is "json""#,
    ),
    (
        r#"{"policy": {"fingerprint": {"body": "json", "json_only": ["/a"], "json_ignore": ["/b"]}}}"#,
        r#"/policy/fingerprint/json_only: must not be given together with json_ignore"#,
    ),
    (
        r#"{"policy": {"fingerprint": {"json_ignore": ["/sent_at"]}}}"#,
        r#"/policy/fingerprint/json_ignore: must be empty unless fingerprint.body is "json""#,
    ),
    (r#"{"policy": {"lease_ms": 10}}"#, r#"/policy/lease_ms: must be at least 1000, is 10"#),
    (r#"{"policy": {"lease_ms": 1500.5}}"#, r#"/policy/lease_ms: must be a whole number, is 1500.5"#),
    (r#"{"policy": {"lease_ms": "60000"}}"#, r#"/policy/lease_ms: must be a whole number, is "60000""#),
    (r#"{"policy": {"lease_ms": 86400001}}"#, r#"/policy/lease_ms: must be at most 86400000, is 86400001"#),
    (
        r#"{"policy": {"lease_ms": 18446744073709551616}}"#,
        r#"/policy/lease_ms: must be at most 86400000, is 1.8446744073709552e+19"#,
    ),
    (
        r#"{"store": {"max_bytes": 1048576}, "rules": [{}, {"policy": {"max_response_bytes": 1048577}}]}"#,
        r#"/store/max_bytes: must be at least max_response_bytes (1048577), is 1048576"#,
    ),
    (r#"{"policy": {"ttl_s": 60}}"#, r#"/policy/ttl_s: must exceed lease_ms (60000 ms), is 60"#),
    (r#"{"policy": {"lease_ms": 1800000}}"#, r#"/policy/lease_ms: must be less than ttl_s (1800 s), is 1800000"#),
    (r#"{"policy": {"expose_cors": "true"}}"#, r#"/policy/expose_cors: must be true or false, is "true""#),
    (r#"{"policy": {"execution": {"kind": "shielded"}}}"#, r#"/policy/execution: must have cluster"#),
    (r#"{"policy": {"execution": {"cluster": "c"}}}"#, r#"/policy/execution: must have kind"#),
    (r#"{"policy": {"key": {"sources": []}}}"#, r#"/policy/key/sources: must not be empty"#),
    (r#"{"policy": {"key": {"sources": {"header": "a"}}}}"#, r#"/policy/key/sources: must be a list, is an object"#),
    (
        r#"{"policy": {"key": {"sources": ["idempotency-key"]}}}"#,
        r#"/policy/key/sources/0: must be an object, is "idempotency-key""#,
    ),
    (
        r#"{"policy": {"key": {"sources": [{}]}}}"#,
        r#"/policy/key/sources/0: must have exactly one of header, query, cookie, form, json, path_segment, any"#,
    ),
    (
        r#"{"policy": {"key": {"sources": [{"header": "a", "query": "b"}]}}}"#,
        r#"/policy/key/sources/0: must have exactly one of header, query, cookie, form, json, path_segment, any"#,
    ),
    (
        r#"{"policy": {"key": {"sources": [{"header": "a"}, {"header": "b c"}]}}}"#,
        r#"/policy/key/sources/1/header: must be a header name, is "b c""#,
    ),
    (
        r#"{"policy": {"key": {"sources": [{"query": "a\nb"}]}}}"#,
        r#"/policy/key/sources/0/query: must be a string that is not empty and has no control characters, is "a\nb""#,
    ),
    (
        r#"{"policy": {"key": {"sources": [{"cookie": "a=b"}]}}}"#,
        r#"/policy/key/sources/0/cookie: must be a cookie name, is "a=b""#,
    ),
    (
        r#"{"policy": {"key": {"sources": [{"json": "order"}]}}}"#,
        r#"/policy/key/sources/0/json: must be a JSON Pointer such as /order/id, is "order""#,
    ),
    (
        r#"{"policy": {"key": {"sources": [{"jwt_claim": "sub"}]}}}"#,
        r#"/policy/key/sources/0/jwt_claim: is not a known field; known here: header, query, cookie, form, json, path_segment, any"#,
    ),
    (
        r#"{"policy": {"key": {"inject": {"kind": "content", "anonymous": true}}}}"#,
        r#"/policy/key/inject/anonymous: must be false unless scope.anonymous is "share": only there may requests without a caller be the same one's"#,
    ),
    (
        r#"{"policy": {"scope": {"caller": [{"header": "x-token", "schemes": ["Bearer"]}]}}}"#,
        r#"/policy/scope/caller/0/schemes: goes only with header authorization or proxy-authorization"#,
    ),
    (
        r#"{"policy": {"scope": {"caller": [{"header": "x-token", "scheme": ["Bearer"]}]}}}"#,
        r#"/policy/scope/caller/0/scheme: is not a known field; known here: header, query, cookie, form, json, path_segment, any, jwt_claim, property, signer"#,
    ),
    (
        r#"{"policy": {"scope": {"caller": [{"signer": "signature-input"}]}}}"#,
        r#"/policy/scope/caller/0/signer: must be "authorization", is "signature-input""#,
    ),
    (
        r#"{"policy": {"scope": {"user": true}}}"#,
        r#"/policy/scope/user: is not a known field; known here: caller, anonymous, method, host, path"#,
    ),
    (
        r#"{"policy": {"scope": {"method": "POST"}}}"#,
        r#"/policy/scope/method: must be true or false or "ignore", is "POST""#,
    ),
    (
        r#"{"policy": {"scope": {"caller": [], "anonymous": "refuse"}}}"#,
        r#"/policy/scope: must not have an empty caller with anonymous "refuse", which refuses every request"#,
    ),
    (
        r#"{"policy": {"outcomes": {"6xx": "store"}}}"#,
        r#"/policy/outcomes/6xx: is not a known field; known here: 2xx, 3xx, 4xx, 5xx, 200 to 599, disconnect, reset, timeout, unsent, json"#,
    ),
    (
        r#"{"policy": {"outcomes": {"199": "store"}}}"#,
        r#"/policy/outcomes/199: is not a known field; known here: 2xx, 3xx, 4xx, 5xx, 200 to 599, disconnect, reset, timeout, unsent, json"#,
    ),
    (
        r#"{"policy": {"outcomes": {"0200": "store"}}}"#,
        r#"/policy/outcomes/0200: is not a known field; known here: 2xx, 3xx, 4xx, 5xx, 200 to 599, disconnect, reset, timeout, unsent, json"#,
    ),
    (
        r#"{"policy": {"outcomes": {"+20": "store"}}}"#,
        r#"/policy/outcomes/+20: is not a known field; known here: 2xx, 3xx, 4xx, 5xx, 200 to 599, disconnect, reset, timeout, unsent, json"#,
    ),
    (
        r#"{"policy": {"outcomes": {"timeout": "store"}}}"#,
        r#"/policy/outcomes/timeout: must be "release" or "retry" or "unknown", is "store""#,
    ),
    (r#"{"policy": {"statuses": 409}}"#, r#"/policy/statuses: must be "classic" or "ietf" or an object, is 409"#),
    (r#"{"rules": []}"#, r#"/rules: must not be empty"#),
    (
        r#"{"rules": [{}, {}, {"policy": {"lease_ms": 10}}]}"#,
        r#"/rules/2/policy/lease_ms: must be at least 1000, is 10"#,
    ),
    (
        r#"{"rules": [{"policy": {"key": {"injected": null}}}]}"#,
        r#"/rules/0/policy/key/injected: is not a known field; known here: sources, required, issued, max_bytes, inject"#,
    ),
    (
        r#"{"rules": [{"policy": {"outcomes": {"6xx": null}}}]}"#,
        r#"/rules/0/policy/outcomes/6xx: is not a known field; known here: 2xx, 3xx, 4xx, 5xx, 200 to 599, disconnect, reset, timeout, unsent, json"#,
    ),
    (
        r#"{"policy": {"lease_ms": 10}, "rules": [{"policy": {"lease_ms": 20}}]}"#,
        r#"/policy/lease_ms: must be at least 1000, is 10"#,
    ),
    (
        r#"{"rules": [{"match": {"methods": ["post"]}}]}"#,
        r#"/rules/0/match/methods/0: must be a method in capitals, is "post""#,
    ),
    (
        r#"{"rules": [{"name": "a", "match": {"methods": ["PUT"]}}, {"name": "a", "match": {"methods": ["POST"]}}]}"#,
        r#"/rules/1/name: must not be "a" in metrics, as that of /rules/0 is"#,
    ),
    (
        r#"{"rules": [{"name": "rule1"}, {}]}"#,
        r#"/rules/1/name: must not be "rule1" in metrics, as that of /rules/0 is"#,
    ),
    (
        r#"{"rules": [{"name": "prüfen.1"}, {}, {"name": "pr fen 1"}]}"#,
        r#"/rules/2/name: must not be "pr_fen_1" in metrics, as that of /rules/0 is"#,
    ),
    (
        r#"{"rules": [{"match": {"hosts": ["https://api.example.com"]}}]}"#,
        r#"/rules/0/match/hosts/0: must be a host such as api.example.com or *.example.com, is "https://api.example.com""#,
    ),
    (
        r#"{"rules": [{"match": {"path": {"exact": "/a", "prefix": "/b"}}}]}"#,
        r#"/rules/0/match/path: must have exactly one of exact, prefix, template"#,
    ),
    (
        r#"{"rules": [{"match": {"path": {"exact": "v1"}}}]}"#,
        r#"/rules/0/match/path/exact: must be a path that begins with / and has no query, fragment, space or non-ASCII character, is "v1""#,
    ),
    (
        r#"{"rules": [{"match": {"path": {"template": "/a/**/b"}}}]}"#,
        r#"/rules/0/match/path/template: must be segments that are plain text, {name} or, only as the last, **, is "/a/**/b""#,
    ),
    (r#"{"rules": [{"match": {"headers": [{"present": true}]}}]}"#, r#"/rules/0/match/headers/0: must have name"#),
    (
        r#"{"rules": [{"match": {"headers": [{"name": "x"}]}}]}"#,
        r#"/rules/0/match/headers/0: must have exactly one of present, equals"#,
    ),
    (
        r#"{"rules": [{"match": {"headers": [{"name": "x", "present": false}]}}]}"#,
        r#"/rules/0/match/headers/0/present: must be true, is false"#,
    ),
    (
        r#"{"rules": [{"match": {"route_metadata": {"namespace": "a", "key": "b"}}}]}"#,
        r#"/rules/0/match/route_metadata: must have equals"#,
    ),
    (
        r#"{"policy": {"mode": "a string that is so long that nobody would like to read it whole"}}"#,
        r#"/policy/mode: must be "enforce" or "observe" or "inject" or "off", is "a string that is so long that nobody wou…""#,
    ),
    (
        "{\"policy\": {\"mode\": \"a\u{7f}\u{9b}b\"}}",
        r#"/policy/mode: must be "enforce" or "observe" or "inject" or "off", is "a��b""#,
    ),
];

/// Fields of `store` on redis with one mistake, and what the log line says.
const REDIS_MISTAKES: &[(&str, &str)] = &[
    (r#""dialect": "upstash""#, r#"/store/dialect: must be "resp" or "webdis", is "upstash""#),
    (r#""dialect": null"#, r#"/store/dialect: must be "resp" or "webdis", is null"#),
    (
        r#""path": "redis""#,
        r#"/store/path: must be a path of visible ASCII characters that begins with /, without ? and #, is "redis""#,
    ),
    (r#""authorization": {}"#, r#"/store/authorization: must have env"#),
    (r#""authorization": "a\tb""#, r#"/store/authorization: must be ASCII without control characters"#),
    (r#""prefix": """#, r#"/store/prefix: must be 1 to 128 visible ASCII characters, is """#),
    (
        r#""cache": {"max_bytes": 1048576, "max_entry_bytes": 131073}"#,
        r#"/store/cache/max_entry_bytes: must be at most an eighth of max_bytes (131072), is 131073"#,
    ),
];

/// Values of `secrets.encryption` and `secrets.issuing` with one mistake, and what the log line says behind its place.
const SECRET_KEY_MISTAKES: &[(&str, &str)] = &[
    (r#"[]"#, r#": must not be empty"#),
    (r#"[{"id": "a"}]"#, r#"/0: must have key"#),
    (r#"[{"id": "a b", "key": {"env": "KEY"}}]"#, r#"/0/id: must be 1 to 32 visible ASCII characters, is a string"#),
    (r#"[{"id": "a", "key": null}]"#, r#"/0/key: must be a string or {"env": NAME}, is null"#),
    (r#"[{"id": "a", "key": "not base64"}]"#, r#"/0/key: must be 32 bytes in base64: openssl rand -base64 32"#),
    (
        r#"[{"id": "a", "key": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}]"#,
        r#"/0/key: must be 32 bytes in base64: openssl rand -base64 32"#,
    ),
    (
        r#"[{"id": "a", "key": {"env": "KEY"}}, {"id": "b", "key": {"env": "KEY"}}, {"id": "a", "key": {"env": "KEY"}}]"#,
        r#"/2/id: is the id of another key too"#,
    ),
];

/// Documents and their warnings.
const WARNINGS: &[(&str, &[&str])] = &[
    (
        r#"{"policy": {"ttl_s": 299, "lease_ms": 1000, "similar": {}}}"#,
        &[
            r#"/policy: looks further back (similar.window_ms) than records live (ttl_s), and cannot tell what became of one that has expired"#,
        ],
    ),
    (
        r#"{"policy": {"similar": {}}, "rules": [{"match": {"methods": ["POST"]}}, {"name": "b", "match": {"methods": ["PUT"]}, "policy": {"ttl_s": 299}}]}"#,
        &[
            r#"/rules/1: looks further back (similar.window_ms) than records live (ttl_s), and cannot tell what became of one that has expired"#,
        ],
    ),
    (
        r#"{"policy": {"outcomes": {"4xx": "store"}}}"#,
        &[r#"/policy/outcomes/4xx: keeps a failure, which every retry gets back until the record expires"#],
    ),
    (
        r#"{"policy": {"outcomes": {"2xx": "store", "3xx": "store", "422": "store", "503": "store", "5xx": "store"}}}"#,
        &[
            r#"/policy/outcomes/422: keeps a failure, which every retry gets back until the record expires"#,
            r#"/policy/outcomes/503: keeps a failure, which every retry gets back until the record expires"#,
            r#"/policy/outcomes/5xx: keeps a failure, which every retry gets back until the record expires"#,
        ],
    ),
    (
        r#"{"policy": {"outcomes": {"5xx": "release", "503": "release", "404": "release"}}}"#,
        &[
            r#"/policy/outcomes/503: frees the key, for another payload too, though it may have executed"#,
            r#"/policy/outcomes/5xx: frees the key, for another payload too, though it may have executed"#,
        ],
    ),
    (
        r#"{"policy": {"outcomes": {"timeout": "retry", "reset": "release", "disconnect": "unknown", "unsent": "retry"}}}"#,
        &[
            r#"/policy/outcomes/reset: lets a retry run at once, though it may have executed"#,
            r#"/policy/outcomes/timeout: lets a retry run at once, though it may have executed"#,
        ],
    ),
    (
        r#"{"policy": {"scope": {"caller": [{"header": "x-tenant"}, {"header": "Authorization"}]}}}"#,
        &[
            r#"/policy/scope/caller/1: takes authorization as it was sent, so a client that renews its token is another caller"#,
        ],
    ),
    (
        r#"{"policy": {"scope": {"caller": [{"any": [{"cookie": "authorization"}, {"header": "authorization"}]}]}}}"#,
        &[
            r#"/policy/scope/caller/0: takes authorization as it was sent, so a client that renews its token is another caller"#,
        ],
    ),
    (
        r#"{"policy": {"scope": {"anonymous": "share"}}}"#,
        &[r#"/policy/scope/anonymous: lets callers that show no credential see each other's responses"#],
    ),
    (
        r#"{"policy": {"on_store_failure": "forward"}}"#,
        &[r#"/policy/on_store_failure: lets requests run twice while the store fails"#],
    ),
    (
        r#"{"secrets": {"hash_key": "abc"}}"#,
        &[r#"/secrets/hash_key: can be read in Envoy's config dump; give {"env": NAME} instead"#],
    ),
    (
        r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "webdis", "timeout_ms": 800}, "policy": {"lease_ms": 1000}, "secrets": {"encryption": [{"id": "a", "key": {"env": "KEY"}}]}}"#,
        &[
            r#"/store/timeout_ms: is 800, and should be below 800, four fifths of lease_ms of rule default: a claim that comes later is never fresh, so with a slow store nothing runs"#,
        ],
    ),
    (
        r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "webdis"}}"#,
        &[r#"/store: keeps responses in Redis in clear; give secrets.encryption"#],
    ),
    (
        r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "webdis"}, "secrets": {"encryption": [{"id": "a", "key": {"env": "KEY"}}]}}"#,
        &[],
    ),
    (
        r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "webdis", "authorization": "Basic YTpi"}}"#,
        &[
            r#"/store/authorization: can be read in Envoy's config dump; give {"env": NAME} instead"#,
            r#"/store: keeps responses in Redis in clear; give secrets.encryption"#,
        ],
    ),
    (
        r#"{"secrets": {"encryption": [{"id": "a", "key": {"env": "KEY"}}, {"id": "b", "key": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}]}}"#,
        &[r#"/secrets/encryption/1/key: can be read in Envoy's config dump; give {"env": NAME} instead"#],
    ),
    (
        r#"{"policy": {"on_store_failure": "forward"}, "rules": [{"match": {"methods": ["*"]}, "policy": {"mode": "off"}}, {"match": {"methods": ["PUT"]}, "policy": {"on_store_failure": "forward"}}]}"#,
        &[
            r#"/policy/on_store_failure: lets requests run twice while the store fails"#,
            r#"/rules/1/policy/on_store_failure: lets requests run twice while the store fails"#,
            r#"/rules/1: is never reached, because /rules/0 takes all that it matches"#,
        ],
    ),
    (
        r#"{"rules": [{"match": {"path": {"prefix": "/a"}}}, {}]}"#,
        &[
            r#"/rules/0/match: names no methods and so is about POST and PATCH; name them, or "*" for all unsafe ones"#,
            r#"/rules/1/match: names no methods and so is about POST and PATCH; name them, or "*" for all unsafe ones"#,
        ],
    ),
    (
        r#"{"rules": [{"match": {"methods": ["PSOT"]}}]}"#,
        &[r#"/rules/0/match/methods/0: "PSOT" is no method that HTTP knows"#],
    ),
    (
        r#"{"rules": [{"match": {"methods": ["CONNECT", "PUT"]}}]}"#,
        &[r#"/rules/0/match/methods/0: is a tunnel, which is never protected"#],
    ),
    (r#"{"rules": [{"match": {"methods": ["*", "POST", "GET"]}}]}"#, &[]),
    (
        r#"{"policy": {"key": {"sources": [{"header": "X-Request-Id"}]}}}"#,
        &[
            r#"/policy/key/sources/0: is drawn anew by Envoy for each request, so that no retry has the same one, unless preserve_external_request_id is true"#,
        ],
    ),
    (
        r#"{"rules": [{"match": {"methods": ["PUT"]}, "policy": {"key": {"sources": [{"any": [{"header": "k"}, {"header": "x-request-id"}]}]}}}]}"#,
        &[
            r#"/rules/0/policy/key/sources/0: is drawn anew by Envoy for each request, so that no retry has the same one, unless preserve_external_request_id is true"#,
        ],
    ),
    (
        r#"{"policy": {"scope": {"caller": [{"header": "x-tenant"}, {"header": "x-request-id"}]}}}"#,
        &[
            r#"/policy/scope/caller/1: is drawn anew by Envoy for each request, so that no retry has the same one, unless preserve_external_request_id is true"#,
        ],
    ),
    (
        r#"{"policy": {"scope": {"caller": [{"property": ["request", "id"]}]}}}"#,
        &[
            r#"/policy/scope/caller/0: is drawn anew by Envoy for each request, so that no retry has the same one, unless preserve_external_request_id is true"#,
        ],
    ),
    (r#"{"policy": {"key": {"sources": [{"header": "x-request-key"}, {"cookie": "x-request-id"}]}}}"#, &[]),
    (r#"{"policy": {"scope": {"caller": []}}}"#, &[r#"/policy/scope/caller: is empty, so no request is protected"#]),
    (
        r#"{"policy": {"scope": {"caller": []}}, "rules": [{"match": {"methods": ["PUT"]}}, {"match": {"methods": ["POST"]}}]}"#,
        &[r#"/policy/scope/caller: is empty, so no request is protected"#],
    ),
    (
        r#"{"policy": {"scope": {"caller": []}}, "rules": [{"match": {"methods": ["PUT"]}, "policy": {"scope": {"caller": [{"cookie": "sid"}]}}}, {"match": {"methods": ["POST"]}, "policy": {"mode": "off"}}]}"#,
        &[],
    ),
    (
        r#"{"rules": [{"match": {"methods": ["PUT"]}}, {"match": {"methods": ["POST"]}, "policy": {"scope": {"caller": []}}}]}"#,
        &[r#"/rules/1/policy/scope/caller: is empty, so no request is protected"#],
    ),
    (
        r#"{"policy": {"scope": {"caller": [], "anonymous": "share"}}}"#,
        &[r#"/policy/scope/anonymous: lets callers that show no credential see each other's responses"#],
    ),
    (r#"{"policy": {"mode": "observe", "scope": {"caller": []}}}"#, &[]),
    (
        r#"{"status_path": "/s", "rules": [{"match": {"methods": ["GET"], "path": {"prefix": "/s"}}}, {"match": {"methods": ["POST"]}}]}"#,
        &[r#"/rules/0: matches GET on status_path, where the look-up answers and no rule is asked"#],
    ),
    (
        r#"{"policy": {"scope": {"path": "ignore"}}}"#,
        &[r#"/policy/scope/path: gives one key one answer, whatever it is used for; false compares instead"#],
    ),
    (
        r#"{"policy": {"scope": {"caller": [{"signer": "authorization"}]}}}"#,
        &[r#"/policy/scope/caller/0: believes who a signature says has signed: a filter in front must verify it"#],
    ),
    (
        r#"{"policy": {"scope": {"caller": [{"header": "proxy-authorization", "schemes": ["Digest", "Key"]}]}}}"#,
        &[
            r#"/policy/scope/caller/0/schemes/0: is made anew for each try, which is then another caller"#,
            r#"/policy/scope/caller/0: takes authorization as it was sent, so a client that renews its token is another caller"#,
        ],
    ),
    (
        r#"{"policy": {"scope": {"caller": [{"header": "authorization", "schemes": ["aws4-hmac-sha256", "NTLM", "AWS"]}]}}}"#,
        &[
            r#"/policy/scope/caller/0/schemes/0: is made anew for each try, which is then another caller; {"signer": "authorization"} is what stays"#,
            r#"/policy/scope/caller/0/schemes/1: is made anew for each try, which is then another caller"#,
            r#"/policy/scope/caller/0: takes authorization as it was sent, so a client that renews its token is another caller"#,
        ],
    ),
    (
        r#"{"policy": {"scope": {"caller": [{"property": ["source", "address"]}]}}}"#,
        &[
            r#"/policy/scope/caller/0: has the port of each connection in it, so that hardly a retry is the same caller"#,
        ],
    ),
];
