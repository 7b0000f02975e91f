//! Warnings about what stands around the filter: each is provoked by one change of a shipped file that has none.

use serde_json::{Value, json};

use crate::{check, check_changed, filters, listener, manager, plugin, set_document, shipped};

#[test]
fn a_missing_flag_is_warned_of() {
    for flag in [Value::Null, json!(false)] {
        let run = check_changed("local.yaml", |tree| plugin(tree)["allow_on_headers_stop_iteration"] = flag);
        assert_eq!(
            run.warnings(),
            [
                "allow_on_headers_stop_iteration is not true: Envoy shows the filter no bodies, so requests with a body are refused"
            ]
        );
    }
}

#[test]
fn memory_that_others_share_is_warned_of() {
    let run = check_changed("local.yaml", |tree| plugin(tree)["vm_config"]["vm_id"] = json!(""));
    assert_eq!(
        run.warnings(),
        ["vm_config.vm_id is not set: the filter shares its memory with every other plugin that has none"]
    );
}

#[test]
fn failing_open_is_warned_of() {
    let why = "after a crash of the VM requests pass unprotected, in silence; take FAIL_RELOAD";
    let run = check_changed("local.yaml", |tree| plugin(tree)["failure_policy"] = json!("FAIL_OPEN"));
    assert_eq!(run.warnings(), [format!("failure_policy: FAIL_OPEN: {why}")]);
    let run = check_changed("local.yaml", |tree| plugin(tree)["fail_open"] = json!(true));
    assert_eq!(run.warnings(), [format!("fail_open: {why}")]);
}

#[test]
fn what_the_parser_warns_of_is_told_with_its_place() {
    let run = check_changed("local.yaml", |tree| set_document(tree, r#"{"policy": {"on_store_failure": "forward"}}"#));
    assert!(run.out.ends_with(
        "standard input: listener gateway, HTTP filter idempotency: warning: /policy/on_store_failure: lets requests run \
         twice while the store fails\n"
    ));
}

#[test]
fn a_filter_before_authentication_is_warned_of() {
    for kind in ["api_key_auth", "basic_auth", "ext_authz", "jwt_authn", "oauth2", "rbac"] {
        let name = format!("envoy.filters.http.{kind}");
        let after = |name: &str, config: Value| {
            let filter = json!({ "name": name, "typed_config": config });
            check_changed("local.yaml", |tree| filters(tree).insert(1, filter))
        };
        let why = "no filter has verified yet who is asking, so a stored response may go to a client that only says so; put it after";
        assert_eq!(after(&name, Value::Null).warnings(), [format!("stands before {name}: {why}")]);
        let config = json!({ "@type": format!("type.googleapis.com/envoy.extensions.filters.http.{kind}.v3.Any") });
        assert_eq!(after("mine", config).warnings(), [format!("stands before mine: {why}")]);
    }
}

#[test]
fn a_filter_before_a_rate_limit_is_warned_of() {
    for kind in ["local_ratelimit", "rate_limit_quota", "ratelimit"] {
        let name = format!("envoy.filters.http.{kind}");
        let run = check_changed("local.yaml", |tree| filters(tree).insert(1, json!({ "name": name })));
        let wanted = format!("stands before {name}: what the filter answers is not limited; put it after");
        assert_eq!(run.warnings(), [wanted]);
    }
}

#[test]
fn authentication_and_rate_limits_before_the_filter_are_right() {
    let run = check_changed("local.yaml", |tree| {
        for kind in ["jwt_authn", "ratelimit", "rbac"] {
            filters(tree).insert(0, json!({ "name": format!("envoy.filters.http.{kind}") }));
        }
    });
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn a_claim_of_a_token_that_nobody_verified_is_warned_of() {
    let document = r#"{"policy": {"scope": {"caller": [{"any": [{"jwt_claim": "sub"}]}]}}}"#;
    let run = check_changed("local.yaml", |tree| set_document(tree, document));
    assert_eq!(
        run.warnings(),
        ["scope.caller of rule default reads jwt_claim, and no filter before this one verifies tokens: a client is \
          whom its token names, forged or not"]
    );
    for verifier in ["jwt_authn", "ext_authz", "lua"] {
        let run = check_changed("local.yaml", |tree| {
            set_document(tree, document);
            filters(tree).insert(0, json!({ "name": format!("envoy.filters.http.{verifier}") }));
        });
        assert!(run.warnings().iter().all(|it| !it.contains("verifies tokens")), "{verifier}: {}", run.out);
    }
}

#[test]
fn a_filter_after_the_router_is_warned_of() {
    let run = check_changed("local.yaml", |tree| filters(tree).reverse());
    assert_eq!(
        run.warnings(),
        ["stands after envoy.filters.http.router, with which the chain ends: it is never reached"]
    );
}

#[test]
fn a_listener_that_cannot_hold_a_response_is_warned_of() {
    let run =
        check_changed("local.yaml", |tree| listener(tree)["per_connection_buffer_limit_bytes"] = json!(1_572_863));
    assert_eq!(
        run.warnings(),
        [
            "the listener's per_connection_buffer_limit_bytes is 1572863 and must be at least 1572864: max_response_bytes of \
          rule default (524288) + the limit of cluster payments (1048576). A response that overflows it ends as a 500 \
          after the service has executed"
        ]
    );
    let run =
        check_changed("local.yaml", |tree| listener(tree)["per_connection_buffer_limit_bytes"] = json!(1_572_864));
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn the_rule_with_the_largest_response_and_the_largest_cluster_count() {
    let run = check_changed("local.yaml", |tree| {
        let mut large = tree["static_resources"]["clusters"][0].clone();
        large["name"] = json!("large");
        large["per_connection_buffer_limit_bytes"] = json!(3_000_000);
        tree["static_resources"]["clusters"].as_array_mut().unwrap().push(large);
        let clusters = json!({ "clusters": [{ "name": "payments", "weight": 1 }, { "name": "large", "weight": 1 }] });
        manager(tree)["route_config"]["virtual_hosts"][0]["routes"][0]["route"] =
            json!({ "weighted_clusters": clusters });
        set_document(
            tree,
            r#"{"rules": [
                {"name": "small", "match": {"methods": ["PUT"]}},
                {"name": "big", "match": {"methods": ["POST"]}, "policy": {"max_response_bytes": 600000}},
                {"name": "tried", "match": {"methods": ["PATCH"]}, "policy": {"max_response_bytes": 700000, "mode": "observe"}}
            ]}"#,
        );
    });
    let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
    assert!(
        warning.contains("at least 3600000: max_response_bytes of rule big (600000) + the limit of cluster large ")
    );
}

#[test]
fn default_buffers_are_warned_of_both_ways() {
    let run = check_changed("local.yaml", |tree| {
        drop(listener(tree).as_object_mut().unwrap().remove("per_connection_buffer_limit_bytes"));
        tree["static_resources"]["clusters"][0].as_object_mut().unwrap().remove("per_connection_buffer_limit_bytes");
        let host = &mut manager(tree)["route_config"]["virtual_hosts"][0];
        host.as_object_mut().unwrap().remove("request_body_buffer_limit");
    });
    let [response, request] = run.warnings()[..] else { panic!("{}", run.out) };
    assert!(response.contains("is 1048576 and must be at least 1572864: "), "{response}");
    assert_eq!(
        request,
        "request_body_buffer_limit of virtual host payments is not set and must be at least 1572864: max_request_bytes of \
         rule default (524288) + the listener's per_connection_buffer_limit_bytes (1048576). Envoy may refuse a large body \
         before the filter does, with a bare 413"
    );
}

#[test]
fn buffers_of_routes_that_are_discovered_are_not_guessed_at() {
    let run = check_changed("local.yaml", |tree| {
        drop(manager(tree).as_object_mut().unwrap().remove("route_config"));
        manager(tree)["rds"] = json!({ "route_config_name": "gateway", "config_source": { "ads": {} } });
    });
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn a_listener_that_an_envoy_filter_adds_is_judged_whole() {
    let mut gateway = shipped("local.yaml")["static_resources"]["listeners"][0].take();
    gateway["per_connection_buffer_limit_bytes"] = json!(1000);
    let patch = json!({ "applyTo": "LISTENER", "patch": { "operation": "ADD", "value": gateway } });
    let run =
        check(&json!({ "apiVersion": "v1", "kind": "EnvoyFilter", "spec": { "configPatches": [patch] } }).to_string());
    let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
    assert!(warning.starts_with("the listener's per_connection_buffer_limit_bytes is 1000 and must be "), "{warning}");
}

#[test]
fn a_route_with_a_limit_of_its_own_is_judged_by_it() {
    let run = check_changed("local.yaml", |tree| {
        let host = &mut manager(tree)["route_config"]["virtual_hosts"][0];
        host["routes"][0]["request_body_buffer_limit"] = json!(1000);
        host["request_body_buffer_limit"] = json!(1);
    });
    let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
    assert!(warning.starts_with("request_body_buffer_limit of route 0 of virtual host payments is 1000 and must be "));
}

#[test]
fn a_buffer_filter_below_the_rule_is_warned_of() {
    let buffer = json!({
        "name": "envoy.filters.http.buffer",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer", "max_request_bytes": 65536
        },
    });
    let run = check_changed("local.yaml", |tree| filters(tree).insert(0, buffer));
    assert_eq!(
        run.warnings(),
        ["envoy.filters.http.buffer refuses bodies over 65536 bytes with a bare 413, below max_request_bytes of rule \
          default (524288)"]
    );
}

const WAITING: &str = r#"{"policy": {"on_in_flight": {"action": "wait", "max_wait_ms": 10000}}}"#;

/// The only route of `envoy/local.yaml`.
fn action(tree: &mut Value) -> &mut Value {
    &mut manager(tree)["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
}

#[test]
fn an_idle_time_out_below_a_wait_is_warned_of() {
    let under = |idle: Value| {
        check_changed("local.yaml", |tree| {
            set_document(tree, WAITING);
            manager(tree)["stream_idle_timeout"] = idle;
        })
    };
    assert_eq!(
        under(json!("10s")).warnings(),
        [
            "stream_idle_timeout is 10s and must be longer than 10s: for so long rule default may hold a request (max_wait_ms \
          while it waits, execution.timeout_ms while it runs shielded). Envoy answers it first, with a 504"
        ]
    );
    for enough in [json!("10.001s"), json!("0s"), Value::Null] {
        assert_eq!(under(enough).warnings(), [""; 0]);
    }
}

#[test]
fn an_idle_time_out_below_the_wait_for_a_lock_is_warned_of() {
    for (idle, count) in [("5s", 1), ("5.001s", 0)] {
        let run = check_changed("local.yaml", |tree| {
            let lock = json!({ "sources": [{ "path_segment": 1 }], "max_wait_ms": 5000 });
            set_document(tree, &json!({ "policy": { "key": { "required": true }, "serialize": lock } }).to_string());
            manager(tree)["stream_idle_timeout"] = json!(idle);
        });
        let warned = run.warnings().into_iter().filter(|it| it.starts_with("stream_idle_timeout is 5s and must "));
        assert_eq!(warned.count(), count, "{}", run.out);
    }
}

#[test]
fn the_idle_time_out_that_nobody_sets_is_five_minutes() {
    for (max_wait_ms, count) in [(299_999, 0), (300_000, 1)] {
        let run = check_changed("local.yaml", |tree| {
            let wait = json!({ "action": "wait", "max_wait_ms": max_wait_ms });
            set_document(tree, &json!({ "policy": { "on_in_flight": wait } }).to_string());
            drop(manager(tree).as_object_mut().unwrap().remove("stream_idle_timeout"));
        });
        assert_eq!(run.warnings().len(), count, "{}", run.out);
        assert!(run.warnings().iter().all(|it| it.starts_with("stream_idle_timeout is 300s and must ")), "{}", run.out);
    }
}

#[test]
fn a_route_with_an_idle_time_out_of_its_own_is_judged_by_it() {
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, WAITING);
        manager(tree)["stream_idle_timeout"] = json!("1s");
        action(tree)["idle_timeout"] = json!("2.5s");
    });
    let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
    assert!(warning.starts_with("idle_timeout of route 0 of virtual host payments is 2.5s and must "), "{warning}");
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, WAITING);
        manager(tree)["stream_idle_timeout"] = json!("1s");
        action(tree)["idle_timeout"] = json!("0s");
    });
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn a_longest_duration_below_a_wait_is_warned_of() {
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, WAITING);
        manager(tree)["common_http_protocol_options"] = json!({ "max_stream_duration": "5s" });
    });
    let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
    assert!(warning.starts_with("max_stream_duration is 5s and must be longer than 10s: "), "{warning}");
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, WAITING);
        action(tree)["max_stream_duration"] = json!({ "max_stream_duration": "6s" });
    });
    let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
    assert!(
        warning.starts_with("max_stream_duration of route 0 of virtual host payments is 6s and must "),
        "{warning}"
    );
}

#[test]
fn a_shielded_execution_is_held_as_long_as_it_may_take_and_a_wait_before_it_counts() {
    for (wait, idle, count) in [(false, "35s", 1), (false, "36s", 0), (true, "45s", 1), (true, "46s", 0)] {
        let run = check_changed("shielded.yaml", |tree| {
            manager(tree)["stream_idle_timeout"] = json!(idle);
            // Neither of them runs while a request is held.
            manager(tree)["request_timeout"] = json!("1s");
            action(tree)["timeout"] = json!("1s");
            if wait {
                let execution = json!({ "kind": "shielded", "cluster": "shielded", "timeout_ms": 35000 });
                let policy = json!({ "execution": execution, "on_in_flight": { "action": "wait" } });
                set_document(tree, &json!({ "policy": policy }).to_string());
            }
        });
        assert_eq!(run.warnings().len(), count, "{idle}: {}", run.out);
    }
}

#[test]
fn only_rules_in_force_hold_requests() {
    let observed = WAITING.replace(r#""policy": {"#, r#""policy": {"mode": "observe", "#);
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, &observed);
        manager(tree)["stream_idle_timeout"] = json!("1s");
    });
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn time_outs_of_routes_that_are_discovered_are_not_guessed_at() {
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, WAITING);
        manager(tree)["stream_idle_timeout"] = json!("1s");
        drop(manager(tree).as_object_mut().unwrap().remove("route_config"));
        manager(tree)["rds"] = json!({ "route_config_name": "gateway", "config_source": { "ads": {} } });
    });
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn a_store_without_a_cluster_is_warned_of() {
    let absent = |tree: &mut Value| {
        let clusters = tree["static_resources"]["clusters"].as_array_mut().unwrap();
        clusters.retain(|cluster| cluster["name"] != "webdis");
    };
    let in_clear = "/store: keeps responses in Redis in clear; give secrets.encryption";
    let run = check_changed("redis-webdis.yaml", absent);
    let missing = "store.cluster is webdis, and the file has no cluster of this name: every call to it fails";
    assert_eq!(run.warnings(), [in_clear, missing]);
    let run = check_changed("redis-webdis.yaml", |tree| {
        absent(tree);
        tree["dynamic_resources"] = json!({ "cds_config": { "ads": {} } });
    });
    assert_eq!(run.warnings(), [in_clear]);
}

#[test]
fn a_circuit_breaker_that_many_workers_would_open_is_warned_of() {
    let thresholds = |limits: Value| {
        move |tree: &mut Value| {
            let clusters = tree["static_resources"]["clusters"].as_array_mut().unwrap();
            let webdis = clusters.iter_mut().find(|cluster| cluster["name"] == "webdis").unwrap();
            webdis["circuit_breakers"] = json!({ "thresholds": limits });
        }
    };
    let unbatched = r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "webdis", "batching": false}}"#;
    let of_breaker = |batching: bool, limits: Value| {
        let run = check_changed("redis-webdis.yaml", |tree| {
            thresholds(limits)(tree);
            if !batching {
                set_document(tree, unbatched);
            }
        });
        run.warnings().iter().find(|line| line.contains("Envoy refuses calls")).map(ToString::to_string)
    };
    assert_eq!(
        of_breaker(false, json!([])).unwrap(),
        "a worker may have 128 calls to cluster webdis under way, and max_connections is 1024: with more than 8 workers \
         Envoy refuses calls by itself; 8192 is enough for 64"
    );
    let most = json!([{ "max_connections": 8192, "max_pending_requests": 8192, "max_requests": 1280 }]);
    assert!(of_breaker(false, most).unwrap().contains("max_requests is 1280: with more than 10 workers"));
    let enough =
        json!([{ "priority": "DEFAULT", "max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192 }]);
    assert_eq!(of_breaker(false, enough), None);
    assert_eq!(of_breaker(true, json!([])), None, "two calls a worker");
    assert!(of_breaker(true, json!([{ "max_requests": 100 }])).is_some());
}

/// The warnings about `envoy/istio.yaml` with a change of its patches, without the one it has anyway.
fn istio(change: impl FnOnce(&mut Vec<Value>)) -> Vec<String> {
    let mut resource = shipped("istio.yaml");
    change(resource["spec"]["configPatches"].as_array_mut().unwrap());
    let run = check(&format!("---\n{resource}"));
    run.warnings().into_iter().filter(|it| !it.starts_with("/store: keeps responses")).map(str::to_owned).collect()
}

#[test]
fn an_envoy_filter_is_judged_by_where_it_inserts() {
    let beside = |name: &str| json!({ "listener": { "filterChain": { "filter": { "subFilter": { "name": name } } } } });
    for (operation, matches, start) in [
        (
            "INSERT_BEFORE",
            beside("envoy.filters.http.jwt_authn"),
            "stands before envoy.filters.http.jwt_authn: no filter",
        ),
        ("INSERT_AFTER", beside("envoy.filters.http.router"), "stands after envoy.filters.http.router, with which"),
        (
            "INSERT_FIRST",
            beside("envoy.filters.http.router"),
            "INSERT_FIRST puts it before every filter, so before those",
        ),
        ("INSERT_BEFORE", json!({}), "INSERT_BEFORE puts it before every filter, so before those"),
        ("ADD", json!({}), "ADD puts it after the router, with which the chain ends: it is never reached"),
    ] {
        let warnings = istio(|patches| {
            patches[1]["patch"]["operation"] = json!(operation);
            patches[1]["match"] = matches;
        });
        let [warning] = &warnings[..] else { panic!("{operation}: {warnings:?}") };
        assert!(warning.starts_with(start), "{warning}");
    }
    let warnings = istio(|patches| drop(patches.remove(1)));
    assert_eq!(warnings, ["no patch with applyTo HTTP_FILTER inserts idempotency: it is never reached"]);
}

#[test]
fn an_envoy_filter_without_buffers_is_judged_by_those_of_istio() {
    let warnings = istio(|patches| patches.retain(|it| it["applyTo"] != "LISTENER" && it["applyTo"] != "VIRTUAL_HOST"));
    let [response, request] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(response.contains("is 32768 and must be at least 1572864: "), "{response}");
    assert!(request.starts_with("request_body_buffer_limit of the virtual host is not set"), "{request}");
}

#[test]
fn an_envoy_filter_that_shortens_the_idle_time_out_is_judged_by_it() {
    for (idle, count) in [(json!("10s"), 1), (json!("11s"), 0), (Value::Null, 0)] {
        let warnings = istio(|patches| {
            let configuration = &mut patches[0]["patch"]["value"]["typed_config"]["config"]["configuration"]["value"];
            *configuration = json!(WAITING);
            let merged = patches.iter_mut().find(|it| it["applyTo"] == "NETWORK_FILTER").unwrap();
            merged["patch"]["value"]["typed_config"]["stream_idle_timeout"] = idle;
        });
        assert_eq!(warnings.len(), count, "{warnings:?}");
        assert!(warnings.iter().all(|it| it.starts_with("stream_idle_timeout is 10s and must ")), "{warnings:?}");
    }
}

#[test]
fn a_cluster_that_istio_does_not_make_is_warned_of() {
    let other = |patches: &mut Vec<Value>| {
        let configuration = &mut patches[0]["patch"]["value"]["typed_config"]["config"]["configuration"]["value"];
        *configuration = json!(r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "webdis"}}"#);
    };
    assert_eq!(
        istio(other),
        ["store.cluster is webdis, and the file has no cluster of this name: every call to it fails"]
    );
    let added = json!({ "applyTo": "CLUSTER", "patch": { "operation": "ADD", "value": { "name": "webdis" } } });
    let warnings = istio(|patches| {
        other(patches);
        patches.push(added);
    });
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn a_wasm_plugin_cannot_carry_the_filter() {
    let run = check(
        "apiVersion: extensions.istio.io/v1alpha1\n\
         kind: WasmPlugin\n\
         metadata: { name: idempotency, namespace: shop }\n\
         spec:\n\
         \x20 url: oci://registry.example.com/envoy-idempotency:0.1.0\n\
         \x20 phase: AUTHN\n\
         \x20 failStrategy: FAIL_OPEN\n\
         \x20 pluginConfig: { policy: { lease_ms: 2000 }, secrets: { hash_key: { env: HASH_KEY } } }\n\
         \x20 vmConfig: { env: [{ name: HASH_KEY, valueFrom: HOST }] }\n",
    );
    assert!(run.out.starts_with("standard input: WasmPlugin shop/idempotency\n"), "{}", run.out);
    assert!(run.out.contains("a claim stands for 2 s"), "{}", run.out);
    assert_eq!(
        run.errors(),
        [
            "a WasmPlugin cannot set allow_on_headers_stop_iteration, so requests with a body are refused, nor vm_id, so \
             the filter shares its memory with every other WasmPlugin: take an EnvoyFilter such as envoy/istio.yaml",
        ]
    );
    assert_eq!(
        run.said("warning"),
        [
            "failStrategy: FAIL_OPEN: after a crash of the VM requests pass unprotected, in silence; take FAIL_RELOAD",
            "phase AUTHN puts it before Istio's own authorization: no filter has verified yet who is asking; leave phase out",
        ]
    );
}

#[test]
fn an_envoy_extension_policy_cannot_carry_the_filter() {
    let policy = |module: &str| {
        check(&format!(
            "apiVersion: gateway.envoyproxy.io/v1alpha1\n\
             kind: EnvoyExtensionPolicy\n\
             metadata: {{ name: payments, namespace: shop }}\n\
             spec:\n\
             \x20 targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: payments }}]\n\
             \x20 wasm:\n\
             \x20 - name: other\n\
             \x20   code: {{ type: Image, image: {{ url: registry.example.com/other:1 }} }}\n\
             \x20 - {module}\n"
        ))
    };
    let image = "{ name: payments, code: { type: Image, image: { url: registry.example.com/envoy-idempotency:0.1.0 } }, \
                 failOpen: true, config: { policy: { lease_ms: 2000 } } }";
    let run = policy(image);
    let place = "EnvoyExtensionPolicy shop/payments, module payments";
    assert!(run.out.starts_with(&format!("standard input: {place}\n")), "{}", run.out);
    assert!(run.out.contains("a claim stands for 2 s"), "{}", run.out);
    let impossible = "an EnvoyExtensionPolicy cannot set allow_on_headers_stop_iteration, so requests with a body are \
                      refused: take an EnvoyPatchPolicy that adds the filter of envoy/local.yaml to the listener's \
                      http_filters";
    assert_eq!(run.errors(), [impossible]);
    assert_eq!(
        run.said("warning"),
        ["failOpen: after a crash of the VM requests pass unprotected, in silence; take FAIL_RELOAD"]
    );
    // The document is judged as anywhere.
    let wrong = "{ name: idempotency, code: { type: HTTP, http: { url: 'https://example.com/filter.wasm' } }, \
                 config: { secrets: { hash_key: { env: HASH_KEY } } }, env: { hostKeys: [OTHER] } }";
    let run = policy(wrong);
    assert_eq!(run.code, 1);
    assert_eq!(
        run.errors(),
        [
            impossible,
            "/secrets/hash_key/env: names a variable that the VM's environment does not have; let it in by env.hostKeys: \
             [HASH_KEY]"
        ]
    );
}

#[test]
fn a_variable_is_let_in_where_the_resource_has_its_list() {
    let run = check(
        "kind: WasmPlugin\n\
         spec: { url: 'oci://registry.example.com/idempotency', pluginConfig: { secrets: { hash_key: { env: A } } } }\n",
    );
    assert!(run.out.ends_with("; let it in by vmConfig.env: [{ name: A, valueFrom: HOST }]\n"), "{}", run.out);
}

#[test]
fn http_that_leads_to_the_cluster_of_the_streams_is_warned_of() {
    let run = check_changed("redis.yaml", |tree| {
        set_document(tree, r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "redis"}}"#);
    });
    let said = "store.dialect is \"webdis\", and cluster redis is for streams, as \"resp\" has them";
    assert!(run.warnings().contains(&said), "{}", run.out);
}
