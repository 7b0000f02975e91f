//! Warnings that what a rule reads does not tell the callers whom filters in front have verified.

use serde_json::{Value, json};

use crate::{Run, behind, check_changed, document_of, host, jwt, put_in_front, set_document};

const NAMESPACE: &str = "envoy.filters.http.jwt_authn";

fn property(names: &[&str]) -> Value {
    let path = [&["metadata", "filter_metadata"], names].concat();
    json!({ "property": path })
}

fn subject(key: &str) -> Value {
    property(&[NAMESPACE, key, "sub"])
}

/// Behind two providers, one of which must be asked.
fn behind_two(callers: Value, corp: Value, partner: Value) -> Run {
    let any =
        json!({ "requires_any": { "requirements": [{ "provider_name": "corp" }, { "provider_name": "partner" }] } });
    let rules = json!([{ "match": { "prefix": "/" }, "requires": any }]);
    let providers = json!({ "corp": corp, "partner": partner });
    behind(&document_of(callers), "jwt_authn", json!({ "providers": providers, "rules": rules }))
}

fn of_issuer(issuer: &str, mut provider: Value) -> Value {
    provider["issuer"] = issuer.into();
    provider
}

#[test]
fn a_subject_alone_is_warned_of_where_there_are_several_issuers() {
    let kept = json!({ "forward": true, "payload_in_metadata": "payload" });
    let with = |callers: Value| behind_two(callers, of_issuer("a", kept.clone()), of_issuer("b", kept.clone()));
    assert_eq!(
        with(json!([{ "jwt_claim": "sub" }])).warnings(),
        [
            "scope.caller of rule default reads jwt_claim sub in header authorization, and envoy.filters.http.jwt_authn takes \
          tokens of providers corp and partner: a subject of one may have the name of another's; add {\"jwt_claim\": \
          \"iss\"} to it"
        ]
    );
    let run = with(json!([subject("payload")]));
    let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
    let mend = "; add {\"property\": [\"metadata\", \"filter_metadata\", \"envoy.filters.http.jwt_authn\", \"payload\", \
                \"iss\"]} to it";
    assert!(warning.ends_with(mend), "{warning}");
    let issuer = property(&[NAMESPACE, "payload", "iss"]);
    for callers in [
        json!([{ "jwt_claim": "sub" }, { "jwt_claim": "iss" }]),
        json!([subject("payload"), issuer]),
        json!([{ "jwt_claim": "email" }]),
        json!([property(&[NAMESPACE, "payload"])]),
    ] {
        assert_eq!(with(callers.clone()).warnings(), [""; 0], "{callers}");
    }
    // Only one of them counts.
    assert_eq!(with(json!([{ "any": [{ "jwt_claim": "sub" }, { "jwt_claim": "iss" }] }])).warnings().len(), 1);
    let one = behind_two(json!([{ "jwt_claim": "sub" }]), of_issuer("a", kept.clone()), of_issuer("a", kept.clone()));
    assert_eq!(one.warnings(), [""; 0]);
}

#[test]
fn subjects_of_two_issuers_on_two_paths_meet_only_where_the_path_does_not_count() {
    let with = |path: Value| {
        let scope = json!({ "caller": [{ "jwt_claim": "sub" }], "path": path });
        let run = check_changed("local.yaml", |tree| {
            set_document(tree, &json!({ "policy": { "scope": scope } }).to_string());
            let requires = |prefix: &str, name: &str| json!({ "match": { "prefix": prefix }, "requires": { "provider_name": name } });
            let [a, b] = ["a", "b"].map(|issuer| json!({ "issuer": issuer, "forward": true }));
            let rules = json!([requires("/a", "a"), requires("/b", "b")]);
            put_in_front(tree, "jwt_authn", json!({ "providers": { "a": a, "b": b }, "rules": rules }));
            let mut other = host(tree)["routes"][0].clone();
            host(tree)["routes"][0]["match"] = json!({ "prefix": "/a" });
            other["match"] = json!({ "prefix": "/b" });
            host(tree)["routes"].as_array_mut().unwrap().push(other);
        });
        run.warnings().into_iter().filter(|it| it.contains("a subject of one may have")).count()
    };
    assert_eq!([with(json!(true)), with(json!(false))], [0, 1]);
}

#[test]
fn a_header_with_the_subject_is_one_too() {
    let written = json!({ "claim_to_headers": [{ "header_name": "x-sub", "claim_name": "sub" }] });
    let run = behind_two(json!([{ "header": "X-Sub" }]), of_issuer("a", written.clone()), of_issuer("b", written));
    let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
    assert!(warning.ends_with("; add a header to it into which the claim iss is written"), "{warning}");
}

#[test]
fn a_provider_that_does_not_write_what_is_read_is_warned_of() {
    let reads = "scope.caller of rule default reads metadata envoy.filters.http.jwt_authn.payload.sub, which";
    let run = behind(&document_of(json!([subject("payload")])), "jwt_authn", jwt(json!({})));
    assert_eq!(
        run.warnings(),
        [format!(
            "{reads} provider main of envoy.filters.http.jwt_authn does not write (payload_in_metadata is not set): such \
             callers are not told apart; set `payload_in_metadata: payload` in provider main"
        )]
    );
    let [payload, other] = ["payload", "other"].map(|key| json!({ "payload_in_metadata": key }));
    let run = behind_two(json!([subject("payload")]), payload.clone(), other.clone());
    let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
    let start = format!(
        "{reads} provider partner of envoy.filters.http.jwt_authn does not write (payload_in_metadata is other)"
    );
    assert!(warning.starts_with(&start), "{warning}");
    assert!(warning.ends_with("\"other\", \"sub\"]} too"), "{warning}");
    let run = behind_two(json!([subject("payload")]), other.clone(), other.clone());
    let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
    assert!(warning.contains(" providers corp and partner of envoy.filters.http.jwt_authn do not write "), "{warning}");
    assert!(warning.ends_with("\"other\", \"sub\"]} instead"), "{warning}");
}

#[test]
fn a_provider_of_which_something_is_read_is_not_missed() {
    let [payload, other] = ["payload", "other"].map(|key| json!({ "payload_in_metadata": key }));
    let issuer = property(&[NAMESPACE, "payload", "iss"]);
    for (callers, partner) in [
        (json!([subject("payload"), issuer]), payload.clone()),
        (json!([subject("payload"), subject("other")]), other),
        (
            json!([subject("payload"), { "header": "x-sub" }]),
            json!({ "claim_to_headers": [{ "header_name": "x-sub", "claim_name": "sub" }] }),
        ),
        (
            json!([subject("payload"), { "header": "x-jwt" }]),
            json!({ "forward": true, "from_headers": [{ "name": "x-jwt" }] }),
        ),
        (json!([property(&[NAMESPACE])]), payload.clone()),
    ] {
        let run = behind_two(callers.clone(), payload.clone(), partner);
        let warnings: Vec<_> = run.warnings().into_iter().filter(|it| it.contains(" not write ")).collect();
        assert_eq!(warnings, [""; 0], "{callers}");
    }
}

/// The warnings that a property has a wrong name, with `jwt_authn` and `header_to_metadata` in front.
fn misnamed(names: &[&str]) -> Vec<String> {
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, &document_of(json!([{ "property": names }])));
        let pair = json!({ "metadata_namespace": "who", "key": "user" });
        let rules = json!([{ "header": "x-user", "on_header_present": pair }]);
        put_in_front(tree, "header_to_metadata", json!({ "request_rules": rules }));
        put_in_front(tree, "jwt_authn", jwt(json!({ "payload_in_metadata": "payload" })));
    });
    let warnings = run.warnings().into_iter().filter_map(|it| it.strip_prefix("scope.caller of rule default reads {"));
    warnings.map(|it| it.split_once('}').unwrap().1.to_owned()).collect()
}

#[test]
fn a_name_close_to_one_of_a_filter_in_front_is_warned_of() {
    assert_eq!(
        misnamed(&["metadata", "filter_metadata", "envoy.filters.http.jwt_auth", "payload", "sub"]),
        [", and no filter in front writes under that name: write {\"property\": [\"metadata\", \"filter_metadata\", \
          \"envoy.filters.http.jwt_authn\", \"payload\", \"sub\"]}"]
    );
    for filter in [NAMESPACE, "envoy.filters.http.ext_authz", "com.example", "whom"] {
        assert_eq!(misnamed(&["metadata", "filter_metadata", filter, "payload", "sub"]), [""; 0], "{filter}");
    }
}

#[test]
fn a_name_of_its_own_is_not_the_one_under_which_jwt_authn_writes() {
    let named = |name: &str| {
        let run = check_changed("local.yaml", |tree| {
            set_document(tree, &document_of(json!([property(&["login", "payload", "sub"])])));
            put_in_front(tree, "jwt_authn", jwt(json!({ "payload_in_metadata": "payload" })))["name"] = name.into();
        });
        run.warnings().into_iter().filter(|it| it.contains(", and no filter in front writes under that name: ")).count()
    };
    assert_eq!([named("login"), named("jwt")], [1, 0]);
}

#[test]
fn several_names_in_one_element_are_warned_of() {
    let right = ", in which one element holds several names: write {\"property\": [\"metadata\", \"filter_metadata\", \
                 \"envoy.filters.http.jwt_authn\", \"payload\", \"sub\"]}";
    for names in [
        &["metadata.filter_metadata", NAMESPACE, "payload", "sub"][..],
        &["metadata", "filter_metadata.envoy.filters.http.jwt_authn", "payload", "sub"],
        &["metadata", "filter_metadata", "envoy.filters.http.jwt_authn.payload", "sub"],
        &["metadata", "filter_metadata", "envoy.filters.http.jwt_authn.payload.sub"],
    ] {
        assert_eq!(misnamed(names), [right], "{names:?}");
    }
    assert_eq!(misnamed(&["request.host"]).len(), 1);
    assert_eq!(misnamed(&["request", "headers", "a.b"]), [""; 0]);
}

#[test]
fn a_key_that_header_to_metadata_does_not_write_is_warned_of() {
    let keys = |key: &str| misnamed(&["metadata", "filter_metadata", "who", key]);
    assert_eq!(keys("usr"), [", and header_to_metadata writes no usr there, but user"]);
    assert_eq!(keys("user"), [""; 0]);
}

fn known_by(run: &Run) -> Vec<&str> {
    run.warnings().into_iter().filter(|warning| warning.contains("callers are known to ")).collect()
}

#[test]
fn callers_that_are_known_by_another_credential_are_warned_of() {
    let keys = json!({ "key_sources": [{ "header": "X-Api-Key" }, { "query": "key" }] });
    assert_eq!(
        known_by(&behind("{}", "api_key_auth", keys.clone())),
        ["callers are known to envoy.filters.http.api_key_auth by header x-api-key and query parameter key, and \
          scope.caller of rule default reads header authorization: it tells none of them; read {\"header\": \"x-api-key\"} \
          in scope.caller"]
    );
    let token = jwt(json!({ "from_headers": [{ "name": "x-jwt" }] }));
    let run = behind("{}", "jwt_authn", token.clone());
    let [warning] = known_by(&run)[..] else { panic!("{}", run.out) };
    assert!(
        warning.starts_with("callers are known to envoy.filters.http.jwt_authn by header x-jwt, and "),
        "{warning}"
    );
    assert!(warning.contains("; give main `payload_in_metadata: payload` and read {\"property\": "), "{warning}");
    // Of a claim it is said that nothing verifies it.
    let claim = behind(&document_of(json!([{ "jwt_claim": "sub" }])), "jwt_authn", token.clone());
    assert_eq!((known_by(&claim).len(), claim.warnings().len()), (0, 1));
    let password = behind(&document_of(json!([{ "cookie": "sid" }])), "basic_auth", json!({}));
    assert_eq!(known_by(&password).len(), 1);
    for (callers, kind, config) in [
        (json!([{ "header": "x-api-key" }]), "api_key_auth", keys.clone()),
        (json!([{ "any": [{ "cookie": "sid" }, { "query": "key" }] }]), "api_key_auth", keys),
        (json!([{ "header": "authorization" }]), "basic_auth", json!({})),
        (json!([{ "header": "x-name" }]), "basic_auth", json!({ "forward_username_header": "x-name" })),
        (json!([property(&["other", "user"])]), "jwt_authn", token),
        (json!([]), "basic_auth", json!({ "authentication_header": "x-basic" })),
    ] {
        let document = json!({ "policy": { "scope": { "caller": callers, "anonymous": "share" } } }).to_string();
        assert_eq!(known_by(&behind(&document, kind, config)), [""; 0], "{callers}");
    }
}

#[test]
fn what_another_filter_makes_of_the_credential_may_be_read() {
    let with = |kind: &str, config: Value| {
        let run = check_changed("local.yaml", |tree| {
            set_document(tree, &document_of(json!([{ "header": "x-user" }])));
            put_in_front(tree, "api_key_auth", json!({ "key_sources": [{ "header": "x-api-key" }] }));
            put_in_front(tree, kind, config);
        });
        known_by(&run).len()
    };
    let header = json!({ "key": "x-user", "value": "%REQ(x-api-key)%" });
    let mutation = json!({ "mutations": { "request_mutations": [{ "append": { "header": header } }] } });
    assert_eq!(with("header_mutation", mutation), 0);
    assert_eq!(with("lua", json!({})), 0);
    assert_eq!(with("cors", json!({})), 1);
}

/// The warnings that a token is taken whole by default.
fn by_default(document: &str, provider: Value) -> Vec<String> {
    let run = behind(document, "jwt_authn", jwt(provider));
    let warnings = run.warnings().into_iter().filter(|it| it.contains("as by default"));
    warnings.map(str::to_owned).collect()
}

#[test]
fn a_verified_token_that_is_taken_whole_by_default_is_noted() {
    let kept = json!({ "forward": true });
    assert_eq!(
        by_default("{}", kept.clone()),
        [
            "scope.caller of rule default takes authorization as it was sent, as by default, so a client that renews its \
          token, which envoy.filters.http.jwt_authn verifies, is another caller; read {\"jwt_claim\": \"sub\"} to have it \
          the same one"
        ]
    );
    assert_eq!(by_default(&document_of(json!([{ "header": "authorization" }])), kept.clone()), [""; 0]);
    assert_eq!(by_default(&document_of(json!([{ "jwt_claim": "sub" }])), kept), [""; 0]);
    assert_eq!(by_default("{}", json!({ "forward": true, "from_headers": [{ "name": "x-jwt" }] })), [""; 0]);
    assert_eq!(behind("{}", "basic_auth", json!({})).warnings(), [""; 0]);
}
